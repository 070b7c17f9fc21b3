"""The times that packets tell, and where these must be decoded."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from tests.worker.conftest import MakeVideo, packet_times
from tests.worker.media.conftest import H264, refused
from worker.media.facts import Limits
from worker.media.sandbox import probe
from worker.media.times import Timeline, frame_times


def test_times_with_b_frames_are_those_of_display(video: MakeVideo) -> None:
    path = video("b-frames.mp4", *H264, "-bf", "3", "-x264-params", "b-adapt=0:b-pyramid=strict")
    assert frame_times(path) == Timeline([Fraction(k, 25) for k in range(15)], Fraction(15, 25))


def test_times_of_a_varying_rate_are_read_as_they_are(video: MakeVideo) -> None:
    kept = "select='not(eq(n,3)+eq(n,4)+eq(n,9))'"
    path = video("varying.mp4", "-vf", kept, "-fps_mode", "passthrough", *H264)
    assert frame_times(path).times == [Fraction(k, 25) for k in range(15) if k not in (3, 4, 9)]


def test_an_edit_list_hides_what_is_before_it(video: MakeVideo) -> None:
    whole = video("whole.mp4", *H264, "-g", "100", "-bf", "2")
    cut = video("cut.mp4", "-ss", "0.21", "-i", whole, "-c", "copy")
    info, timeline = probe(cut), frame_times(cut)
    with_discarded = len(packet_times(whole))
    assert info.frames == len(timeline.times) == len(packet_times(cut)) < with_discarded
    assert timeline.times[0] >= 0


def test_transport_streams_start_where_they_start(video: MakeVideo) -> None:
    path = video("late.ts", *H264, "-bf", "2")
    info, timeline = probe(path), frame_times(path)
    assert timeline.times[0] == info.start > 1
    assert len(timeline.times) == 15


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hidden.webm", ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "200k")),
        ("packed.avi", ("-c:v", "mpeg4", "-bf", "2")),
        ("program.mpg", ("-c:v", "mpeg2video", "-bf", "2")),
    ],
)
def test_where_packets_are_not_frames_the_decoder_is_asked(
    video: MakeVideo, name: str, arguments: tuple[str, ...]
) -> None:
    timeline = frame_times(video(name, *arguments))
    assert len(timeline.times) == 15
    gaps = [b - a for a, b in zip(timeline.times, [*timeline.times[1:], timeline.end], strict=True)]
    assert all(abs(gap - Fraction(1, 25)) <= Fraction(1, 1000) for gap in gaps)


def test_a_file_cut_off_is_as_long_as_what_is_left(video: MakeVideo, tmp_path: Path) -> None:
    data = video("whole.mkv", *H264, "-g", "5").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) * 2 // 3])
    assert 3 < probe(path).frames == len(frame_times(path).times) < 15


def test_frames_without_times_are_counted(video: MakeVideo) -> None:
    bare = video("bare.h264", *H264)
    assert probe(bare, Limits(max_frames=15)).frames == 15
    assert refused(bare, Limits(max_frames=14)) == "limit-exceeded"


def test_reading_times_by_decoding_can_be_stopped(video: MakeVideo) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        frame_times(video("stopped.webm", "-c:v", "libvpx"), check)
    assert calls == 5
