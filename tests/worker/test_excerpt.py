"""A part of a video, and one that is played in a loop."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from service.api.options import parse_options
from service.jobs.options import parse_seconds
from service.jobs.work import count_frames
from tests.worker.conftest import Interpolate, MakeVideo, decoded, packet_times
from worker.media.errors import MediaError
from worker.media.sandbox import probe
from worker.plan import JobPlan

PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=3")
CLICKS = ("-f", "lavfi", "-i", "aevalsrc='if(lt(mod(t,1),0.01),0.8*sin(2*PI*1000*t),0)':d=3:s=48000")
SHOWN = {
    **{"A": "00,200 --> 00:00:00,600", "B": "01,000 --> 00:00:01,700"},
    **{"C": "02,300 --> 00:00:03,000", "D": "03,100 --> 00:00:03,500"},
}
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "2", "-g", "25")


def first_click(path: Path) -> float:
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            samples = np.abs(frame.to_ndarray().reshape(-1, frame.samples)).max(axis=0)
            loud = np.nonzero(
                samples > 0.3 * (1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max)
            )[0]
            if len(loud):
                return float(frame.pts * frame.time_base) + loud[0] / frame.sample_rate
    raise AssertionError("no click")


@pytest.mark.parametrize(
    ("kind", "sound"), [("mp4", ("-c:a", "aac")), ("mkv", ("-c:a", "pcm_s16le")), ("ts", ("-c:a", "mp2"))]
)
def test_an_excerpt_has_its_frames_and_its_sound(
    video: MakeVideo, interpolated: Interpolate, kind: str, sound: tuple[str, ...]
) -> None:
    source = video(f"clicks.{kind}", *PICTURE, *CLICKS, *H264, *sound)
    result = interpolated(source, 15, factor=2, quality=0, start="1.5", duration="1.2")
    first = packet_times(source)[0] - probe(source).start
    wanted = [k for k in range(75) if Fraction(3, 2) <= first + Fraction(k, 25) < Fraction(27, 10)]
    assert np.array_equal(decoded(result, "yuv420p")[::2], np.array(decoded(source, "yuv420p"))[wanted])
    times = packet_times(result)
    assert abs(times[0] - (first + Fraction(wanted[0], 25) - Fraction(3, 2))) < Fraction(1, 1000)
    assert {b - a for a, b in itertools.pairwise(times[:-1])} == {Fraction(1, 50)}  # the last is cut short
    assert abs(first_click(result) - first - 0.5) < 0.002
    sounds = packet_times(result, "audio")
    assert -0.05 < sounds[0] < 0.03 and 1.14 < sounds[-1] < 1.2


def test_an_excerpt_on_a_clock_that_ticks_once_a_frame_begins_with_its_own_frame(
    video: MakeVideo, interpolated: Interpolate
) -> None:
    source = video("coarse.mp4", *PICTURE, *H264, "-video_track_timescale", 25)
    result = interpolated(source, factor=2, quality=0, start="0.32", duration="0.8")
    assert np.array_equal(decoded(result, "yuv420p")[::2], decoded(source, "yuv420p")[8:28])


def test_texts_of_an_excerpt_are_those_that_are_shown_in_it(
    video: MakeVideo, interpolated: Interpolate, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.srt"
    texts.write_text(
        "".join(f"{n}\n00:00:{when}\n{text}\n\n" for n, (text, when) in enumerate(SHOWN.items(), 1))
    )
    source = video("texts.mkv", *PICTURE, "-i", texts, *H264, "-c:s", "subrip")
    result = interpolated(source, start="1.5", duration="1")
    with av.open(str(result)) as file:
        shown = [
            (packet.pts * packet.time_base, packet.duration * packet.time_base, bytes(packet)[2:3])
            for packet in file.demux(subtitles=0)
            if packet.size > 2
        ]
    assert shown == [(0, Fraction(1, 5), b"B"), (Fraction(4, 5), Fraction(1, 5), b"C")]


def test_an_excerpt_far_into_a_raw_stream_has_the_right_frames(video: MakeVideo, tmp_path: Path) -> None:
    raw = video("long.h264", *PICTURE, *H264)
    plan = JobPlan.make(
        raw, probe(raw), parse_options({"start": "2", "source_fps": "25"}), segment_frames=1000
    )
    assert (plan.timeline.skipped, len(plan.timeline.times)) == (50, 25)
    assert JobPlan.from_json(plan.to_json()) == plan


def test_where_nothing_is_shown_nothing_is_made(clip: Path) -> None:
    with pytest.raises(MediaError) as caught:
        JobPlan.make(clip, probe(clip), parse_options({"start": "7", "duration": "1"}), segment_frames=1000)
    assert caught.value.slug == "invalid-option"
    assert "(from 7 s to 8 s). It lasts 0.5 s" in caught.value.detail


@pytest.mark.parametrize("rate", [{"factor": 3}, {"target_fps": "60"}])
def test_new_frames_lead_from_the_last_to_the_first(
    video: MakeVideo, interpolated: Interpolate, rate: dict[str, object]
) -> None:
    gray = ("-f", "lavfi", "-i", "color=gray:size=64x48:rate=20:duration=0.5")
    source = video("bright.mkv", *gray, "-vf", "geq=lum='60+N*10':cb=128:cr=128", "-c:v", "ffv1")
    result = interpolated(source, 12, quality=0, scene_threshold=1, loop=True, **rate)
    means = [frame[: 64 * 48].mean() for frame in decoded(result, "yuv420p")]
    assert len(means) == 30
    assert means[0] == means[27] - 90 and np.allclose(means[28:], [means[27] - 30, means[27] - 60], atol=1)


def test_times_are_read_as_they_are_written() -> None:
    given = {
        "90.5": Fraction(181, 2),
        "1:30": 90,
        "1:02:03.25": Fraction(14893, 4),
        "1001/30": Fraction(1001, 30),
    }
    for text, seconds in given.items():
        assert parse_seconds(text) == seconds
    for wrong in ("", "-1", "1:75", "1/0", "nan", "1e5", "1:2:3:4"):
        with pytest.raises(ValueError, match="no time"):
            parse_seconds(wrong)


def test_an_excerpt_costs_what_it_has() -> None:
    facts = {"frames": 100, "average_rate": "25", "duration": "4"}
    assert count_frames(facts, parse_options({"start": "1", "duration": "2"})) == (100, 49)
    assert count_frames(facts, parse_options({"loop": "true"})) == (200, 100)
    assert count_frames(facts, parse_options({"target_fps": "50", "start": "3"})) == (50, 24)
