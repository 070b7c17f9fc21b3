"""The stages of a segment: what they share, what they skip, and how they end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
from torch import Tensor

from dain_core.runtime.color import ColorSpec
from dain_core.runtime.pixels import PixelFormat
from service.api.options import parse_options
from tests.worker.conftest import Average, Done, MakeVideo
from worker import pipeline
from worker.channel import Channel, Closed
from worker.cuts import Thumbnail
from worker.media.choose import choose
from worker.media.decode import Frame, Plane
from worker.media.encode import Encoder
from worker.media.errors import MediaError
from worker.media.sandbox import probe
from worker.pipeline import SegmentStats, interpolate
from worker.plan import JobPlan
from worker.schedule import Factor, Retime, Schedule, TargetRate

YUV = PixelFormat.named("yuv420p")
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


class Flat:
    """Grey source frames of one brightness each."""

    def __init__(self, brightness: Sequence[int]) -> None:
        luma, chroma, _ = YUV.plane_shapes(16, 16)
        grey = np.full(chroma, 128, np.uint8)
        self.frames = [
            Frame(k, Fraction(k, 25), (np.full(luma, level, np.uint8), grey, grey))
            for k, level in enumerate(brightness)
        ]
        self.killed = False

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    def kill(self) -> None:
        self.killed = True


class Sink:
    def __init__(self) -> None:
        self.written: list[Sequence[Plane]] = []
        self.closed = self.killed = False

    def write(self, planes: Sequence[Plane]) -> None:
        self.written.append(planes)

    def close(self) -> None:
        self.closed = True

    def kill(self) -> None:
        self.killed = True


def run(source: Flat, sink: Sink, average: Average, rate: Retime, threshold: float = 1.0) -> SegmentStats:
    times = [frame.time for frame in source.frames]
    schedule = Schedule(times, Fraction(len(times), 25), rate)
    colors = ColorSpec("bt601", False)
    return interpolate(source, schedule, average, sink, YUV, colors, scene_threshold=threshold)


def test_copies_are_the_very_planes_and_blends_lie_between(average: Average) -> None:
    source, sink = Flat([100, 110, 120]), Sink()
    stats = run(source, sink, average, Factor(2))
    assert [planes is frame.planes for planes, frame in zip(sink.written[::2], source.frames, strict=True)]
    assert sink.written[0] is source.frames[0].planes
    assert [int(planes[0][0, 0]) for planes in sink.written] == [100, 105, 110, 115, 120, 120]
    assert (stats.frames, stats.new_frames, stats.scene_cuts) == (6, 2, 0)


def test_a_frame_and_a_pair_are_worked_on_once(average: Average) -> None:
    run(Flat([100, 110, 120, 130]), Sink(), average, Factor(5))
    assert (average.frames, average.pairs) == (4, 3)


def test_frames_that_are_only_copied_cost_nothing(average: Average) -> None:
    run(Flat([100, 110, 120, 130]), Sink(), average, TargetRate(Fraction(25, 2)))
    assert (average.frames, average.pairs) == (0, 0)


def test_frames_made_again_are_counted(average: Average) -> None:
    submit = average.submit

    class MadeAgain(Done):
        def result(self) -> Tensor:
            average.recomputed += 1
            return super().result()

    def overflow(pair: tuple[Tensor, Tensor], time: float) -> Done:
        return MadeAgain(submit(pair, time).result()) if time == 0.5 else submit(pair, time)

    average.submit = overflow  # type: ignore[method-assign]
    average.recomputed = 7  # by earlier segments
    assert run(Flat([100, 110, 120]), Sink(), average, Factor(4)).recomputed_frames == 2


def test_plans_made_again_are_counted(average: Average) -> None:
    submit = average.submit

    def run_out(pair: tuple[Tensor, Tensor], time: float) -> Done:
        average.replanned += time == 0.5
        return submit(pair, time)

    average.submit = run_out  # type: ignore[method-assign]
    average.replanned = 7  # by earlier segments
    assert run(Flat([100, 110, 120]), Sink(), average, Factor(4)).replans == 2


def test_nothing_is_blended_across_a_cut(average: Average) -> None:
    source, sink = Flat([20, 22, 235, 233]), Sink()
    stats = run(source, sink, average, Factor(4), threshold=0.3)
    shown = [int(planes[0][0, 0]) for planes in sink.written]
    assert shown[4:9] == [22, 22, 22, 235, 235]
    assert sink.written[5] is source.frames[1].planes
    assert (stats.scene_cuts, stats.new_frames, average.pairs) == (1, 6, 2)


@pytest.mark.parametrize("stage", ["decode", "interpolate", "encode", "check"])
def test_an_error_in_any_stage_ends_all_of_them(average: Average, stage: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(stage)

    source, sink = Flat([40] * 100), Sink()
    if stage == "decode":
        source.frames[50] = property(fail)  # type: ignore[call-overload]
    if stage == "interpolate":
        average.submit = fail  # type: ignore[method-assign,assignment]
    if stage == "encode":
        sink.write = fail  # type: ignore[method-assign]
    check = fail if stage == "check" else lambda: None
    schedule = Schedule([Fraction(k, 25) for k in range(100)], Fraction(4), Factor(2))
    threads = threading.active_count()
    with pytest.raises((RuntimeError, AttributeError)):
        interpolate(
            source, schedule, average, sink, YUV, ColorSpec("bt601", False), scene_threshold=1, check=check
        )
    assert source.killed and sink.killed
    assert threading.active_count() == threads


def test_a_stop_reaches_an_encoder_that_is_at_its_last_frames(average: Average) -> None:
    closing, killed = threading.Event(), threading.Event()

    class Flushing(Sink):
        def close(self) -> None:
            closing.set()
            assert killed.wait(30)

        def kill(self) -> None:
            killed.set()

    def check() -> None:
        if closing.is_set():
            raise InterruptedError

    source = Flat([40, 60])
    schedule = Schedule([frame.time for frame in source.frames], Fraction(2, 25), Factor(2))
    with pytest.raises(InterruptedError):
        interpolate(
            source,
            schedule,
            average,
            Flushing(),
            YUV,
            ColorSpec("bt601", False),
            scene_threshold=1,
            check=check,
        )


def test_each_frame_that_is_read_made_or_written_is_progress(average: Average) -> None:
    steps: list[str] = []

    def progressed() -> None:
        steps.append(threading.current_thread().name)

    source, sink = Flat([100, 110, 120]), Sink()
    schedule = Schedule([frame.time for frame in source.frames], Fraction(3, 25), Factor(2))
    colors = ColorSpec("bt601", False)
    interpolate(source, schedule, average, sink, YUV, colors, scene_threshold=1, progressed=progressed)
    assert sink.closed and steps.count("decode") == 3 and steps.count("encode") == 6 + 2


def test_a_full_channel_waits_and_a_closed_one_says_why() -> None:
    channel = Channel[int](1)
    channel.put(1)

    def give_up() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        channel.put(2, give_up)
    channel.close(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        channel.put(3)
    reader = channel.read()
    assert next(reader) == 1
    with pytest.raises(ValueError, match="broken"):
        next(reader)
    gone = Channel[int](1)
    gone.close()
    with pytest.raises(Closed):
        gone.put(1)
    assert list(gone.read()) == []


# -- with real processes -----------------------------------------------------------------------------


def children() -> list[psutil.Process]:
    """FFmpeg processes of ours; other tests' servers are none of them."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end while we look
            if "ffmpeg" in child.name():
                found.append(child)
    return found


@pytest.fixture
def plan(video: MakeVideo) -> JobPlan:
    source = video("minute.mp4", "-vf", "loop=loop=40:size=15", "-t", "20", *H264)
    return JobPlan.make(source, probe(source), parse_options({"factor": 2}), segment_frames=100000)


@pytest.mark.parametrize("after", [0, 1, 50])
def test_cancelling_leaves_nothing_behind(
    video: MakeVideo, plan: JobPlan, tmp_path: Path, average: Average, after: int
) -> None:
    source = video("minute.mp4", "-vf", "loop=loop=40:size=15", "-t", "20", *H264)
    done, seen = 0, 0

    def advance(frames: int) -> None:
        nonlocal done
        done += frames

    def check() -> None:
        nonlocal seen
        seen = max(seen, len(children()))
        if done >= after:
            raise InterruptedError

    threads, descriptors = threading.active_count(), psutil.Process().num_fds()
    with pytest.raises(InterruptedError):
        pipeline.render_segment(plan, 0, source, tmp_path / "0.mp4", average, on_frame=advance, check=check)
    assert seen >= 1  # there was something to leave behind
    assert children() == []
    assert threading.active_count() == threads
    assert psutil.Process().num_fds() == descriptors


def test_an_ffmpeg_that_is_killed_is_an_error_at_once(
    video: MakeVideo, plan: JobPlan, tmp_path: Path, average: Average
) -> None:
    source = video("minute.mp4", "-vf", "loop=loop=40:size=15", "-t", "20", *H264)

    def kill_the_encoder(frames: int) -> None:
        for child in children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "libx264" in child.cmdline():
                    child.kill()

    with pytest.raises(MediaError) as caught:
        pipeline.render_segment(plan, 0, source, tmp_path / "0.mp4", average, on_frame=kill_the_encoder)
    assert caught.value.slug == "machine-failed"
    assert children() == []


def test_memory_is_bounded_by_a_slow_encoder(average: Average) -> None:
    taken = 0

    class Counting(Flat):
        def __iter__(self) -> Iterator[Frame]:
            nonlocal taken
            for frame in self.frames:
                taken += 1
                yield frame

    ahead = []

    class Slow(Sink):
        def write(self, planes: Sequence[Plane]) -> None:
            time.sleep(0.002)
            super().write(planes)
            ahead.append(taken - len(self.written))

    run(Counting([40] * 200), Slow(), average, TargetRate(Fraction(25)))
    assert max(ahead) <= 2 * pipeline.AHEAD + 4


# -- the encoder ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "slug"), [("no/0.mp4", "encode-failed"), ("full.mp4", "insufficient-storage")]
)
def test_what_cannot_be_written_is_an_error(video: MakeVideo, tmp_path: Path, file: str, slug: str) -> None:
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    info = probe(video("pictures.mkv", "-c:v", "ffv1", "-slicecrc", "1"))
    planes = [
        np.zeros(shape, np.uint8) for shape in PixelFormat.named(info.working_format).plane_shapes(96, 64)
    ]
    with (
        pytest.raises(MediaError) as caught,
        Encoder(tmp_path / file, choose(info, parse_options({}), Fraction(25))) as encoder,
    ):
        for _ in range(10000):
            encoder.write(planes)
    assert caught.value.slug == slug
    assert children() == []


def test_planes_of_another_size_are_refused(video: MakeVideo, tmp_path: Path) -> None:
    info = probe(video("pictures.mkv", "-c:v", "ffv1", "-slicecrc", "1"))
    with (
        pytest.raises(ValueError, match="expected a plane"),
        Encoder(tmp_path / "0.mp4", choose(info, parse_options({}), Fraction(25))) as e,
    ):
        e.write([np.zeros((2, 2), np.uint8)] * 3)


def test_repeats_that_new_frames_lead_over_are_let_go_of() -> None:
    arrivals = [
        pipeline.Arrival(frame, Thumbnail.of(frame.planes[0]), None) for frame in Flat([90] * 40).frames
    ]
    window = pipeline._Window(iter(arrivals))
    window.from_index(3)
    assert window.over(3, 33) is arrivals[33]
    assert [each.frame.index for each in window._held if each.frame.index > 3] == [32, 33]
