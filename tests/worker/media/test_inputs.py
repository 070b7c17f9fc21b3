"""What files are taken: each gives the frames that FFmpeg decodes of it, at their times."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from service.api.options import parse_options
from tests.worker.conftest import MakeVideo, decoded, packet_times
from worker.media.decode import Decoder
from worker.media.errors import MediaError
from worker.media.facts import Choice
from worker.media.sandbox import probe
from worker.media.times import frame_times
from worker.plan import JobPlan

PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30:duration=0.4")
CIF = ("-f", "lavfi", "-i", "testsrc2=size=176x144:rate=30000/1001:duration=0.4")
PAL = ("-f", "lavfi", "-i", "testsrc2=size=720x576:rate=25:duration=0.16", "-pix_fmt", "yuv420p")


@pytest.mark.parametrize(
    ("name", "arguments", "rate"),
    [
        ("raw.h264", (*PICTURE, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "2"), 30),
        ("raw.hevc", (*PICTURE, "-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "log-level=0"), 30),
        ("raw.m2v", (*PICTURE, "-c:v", "mpeg2video", "-bf", "2"), 30),
        ("raw.m1v", (*PICTURE, "-c:v", "mpeg1video"), 30),
        ("raw.m4v", (*PICTURE, "-c:v", "mpeg4", "-bf", "2", "-f", "m4v"), 30),
        ("raw.obu", (*PICTURE, "-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "yuv420p"), 25),
        ("raw.mjpeg", (*PICTURE, "-c:v", "mjpeg"), 25),
        ("raw.h263", (*CIF, "-c:v", "h263"), Fraction(30000, 1001)),
        ("tape.dv", (*PAL, "-c:v", "dvvideo"), 25),
        ("studio.gxf", (*PAL, "-c:v", "mpeg2video"), 25),
        ("open.nut", (*PICTURE, "-c:v", "ffv1"), 30),
        ("real.rm", (*PICTURE, "-c:v", "rv10"), 30),
        ("recorder.wtv", (*PICTURE, "-c:v", "mpeg2video"), 30),
        ("flash.swf", (*PICTURE, "-c:v", "flv1"), 30),
        ("moving.apng", (*PICTURE, "-c:v", "apng", "-plays", "0"), 30),
        ("moving.gif", (*PICTURE, "-c:v", "gif"), 30),
        ("moving.avif", (*PICTURE, "-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "yuv420p"), 30),
    ],
)
def test_every_frame_is_taken(
    video: MakeVideo, tmp_path: Path, name: str, arguments: tuple[str, ...], rate: Fraction
) -> None:
    path = tmp_path / "upload"  # which has no name to go by
    path.write_bytes(video(name, *arguments).read_bytes())
    info = probe(path)
    timeline = frame_times(path, choice=Choice(info.stream))
    count = len(timeline.times)
    assert count == (4 if "576" in str(arguments) else 12)
    assert info.frames in (count, count + 1)
    assert abs(info.average_rate - rate) < Fraction(1, 3)
    unit = max(info.time_base, Fraction(1, 1000))
    assert all(abs(time - timeline.times[0] - k / rate) <= unit for k, time in enumerate(timeline.times))
    with Decoder(path, info, 0, count - 1, timeline) as decoder:
        given = [np.concatenate([plane.ravel() for plane in frame.planes]) for frame in decoder]
    assert decoder.held == 0 and len(given) == count
    if not info.is_rgb:
        assert np.array_equal(given, decoded(path, info.working_format, int(name.endswith("avif"))))


def test_the_rate_of_a_file_without_times_can_be_said(video: MakeVideo) -> None:
    raw = video("raw.h264", *PICTURE, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "2")
    info = probe(raw, choice=Choice(rate="24000/1001"))
    assert (info.average_rate, info.duration) == (Fraction(24000, 1001), Fraction(12 * 1001, 24000))
    plan = JobPlan.make(raw, info, parse_options({"source_fps": "23.976"}), segment_frames=100)
    assert plan.timeline.times[11] == Fraction(11 * 1001, 24000)
    timed = video("timed.mp4", *PICTURE, "-c:v", "libx264", "-pix_fmt", "yuv420p")
    with pytest.raises(MediaError) as caught:
        probe(timed, choice=Choice(rate="24"))
    assert caught.value.slug == "invalid-option"


def test_one_of_several_video_streams_is_taken(video: MakeVideo) -> None:
    small = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=0.4")
    path = video("two.mkv", *PICTURE, *small, "-map", "0", "-map", "1", "-c:v", "ffv1")
    assert (probe(path).stream, probe(path).width) == (0, 96)
    info = probe(path, choice=Choice(stream=1))
    assert (info.stream, info.width, info.frames) == (1, 64, 4)
    plan = JobPlan.make(path, info, parse_options({"video_stream": "1"}), segment_frames=100)
    assert len(plan.timeline.times) == 4
    with pytest.raises(MediaError, match=r"0 \(ffv1, 96x64\), 1 \(ffv1, 64x48\)"):
        probe(path, choice=Choice(stream=7))


def test_a_single_picture_is_no_video(video: MakeVideo, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(video("one.jpg", "-frames:v", "1").read_bytes())
    with pytest.raises(MediaError, match="two or more pictures in a ZIP"):
        probe(upload)


def test_what_is_not_taken_is_told_what_is(tmp_path: Path, video: MakeVideo) -> None:
    for name, arguments in (("one.png", ("-frames:v", "1")), ("film.roq", ("-c:v", "roqvideo", "-r", "30"))):
        path = tmp_path / "upload"
        path.write_bytes(video(name, *arguments).read_bytes())
        with pytest.raises(MediaError, match="Taken are MP4") as caught:
            probe(path)
        assert caught.value.slug == "unsupported-format"


@pytest.mark.parametrize(
    ("layout", "order"),
    [
        ("6.1", "FL+FR+FC+LFE+SL+SR+BC"),
        ("7.1", "FL+FR+FC+LFE+SL+SR+BL+BR"),
    ],  # another order than FFmpeg's own
)
def test_sound_of_many_channels_brings_nothing_down(video: MakeVideo, layout: str, order: str) -> None:
    channels = order.count("+") + 1
    tone = ("-f", "lavfi", "-i", f"aevalsrc={'|'.join(['0.1'] * channels)}:c={layout}:s=48000:d=0.4")
    ordered = ("-c:a", "pcm_s16le", "-af", f"channelmap=channel_layout={order}")
    info = probe(video(f"{channels}.mov", *PICTURE, *tone, "-c:v", "mpeg4", *ordered))
    assert [track.channels for track in info.audio] == [channels]


def test_a_gif_keeps_its_many_delays(video: MakeVideo) -> None:
    late = "setpts='PTS+N*N*0.01/TB'"
    path = video("delays.gif", *PICTURE, "-vf", f"fps=25,{late},settb=1/100", "-fps_mode", "passthrough")
    timeline = frame_times(path)
    gaps = [b - a for a, b in itertools.pairwise(timeline.times)]
    assert timeline.times == packet_times(path) and len(set(gaps)) > 3
