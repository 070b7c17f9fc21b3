"""The pipeline on a GPU: the engine's frames, whole and in order, whatever the threads do; and a GPU that is lost.

pytest --noconftest tests/gpu/test_pipeline.py needs what the worker needs, a Redis server and FFmpeg.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cuda_ext

if not torch.cuda.is_available():
    pytest.skip("no GPU that PyTorch can use", allow_module_level=True)
if cuda_ext.backend() != "cuda":
    pytest.skip("the CUDA kernels are not built: python -m cuda_ext.build", allow_module_level=True)
pytest.importorskip("av")
pytest.importorskip("redis")

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError, ConnectionError
from redis.retry import Retry

from dain_core.runtime.color import ColorSpec, to_rgb, to_yuv
from dain_core.runtime.engine import Interpolator, Pending
from dain_core.runtime.pixels import PixelFormat
from service.jobs.janitor import Janitor
from service.jobs.machine import Jobs
from service.jobs.names import PLAN, new_job_id
from service.jobs.options import Options
from service.jobs.queue import Queue
from service.jobs.records import Job, State
from service.jobs.workers import Workers
from service.settings import Settings
from service.store import open_store
from service.up import redis_server
from worker.channel import nothing
from worker.media import ffmpeg
from worker.media.decode import Frame, Plane
from worker.media.sandbox import probe
from worker.pipeline import SegmentStats, interpolate
from worker.schedule import Between, Copy, Factor, OutputFrame, Schedule
from worker.watchdog import HUNG

# With several, not the one that is everyone's default.
GPU = torch.device("cuda", torch.cuda.device_count() - 1)
COLORS = ColorSpec("bt709", False)
YUV = PixelFormat.named("yuv420p")


class Clip:
    """A source of frames that come at odd moments."""

    def __init__(self, planes: Sequence[tuple[Plane, ...]], pause: Callable[[], None] = nothing) -> None:
        self.frames = [Frame(k, Fraction(k, 25), each) for k, each in enumerate(planes)]
        self._pause = pause

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.frames:
            self._pause()
            yield frame

    def kill(self) -> None: ...

    def schedule(self, factor: int) -> Sequence[OutputFrame]:
        return Schedule([frame.time for frame in self.frames], Fraction(len(self.frames), 25), Factor(factor))


class Sink:
    """Reads a frame when it comes and, as a pipe would, takes its time over it."""

    def __init__(self, pause: Callable[[], None] = nothing) -> None:
        self.written: list[list[Plane]] = []
        self._pause = pause

    def write(self, planes: Sequence[Plane]) -> None:
        self._pause()
        self.written.append([plane.copy() for plane in planes])

    def close(self) -> None: ...
    def kill(self) -> None: ...


class Average:
    """A network that takes the GPU a random while, and gives what can be told in advance."""

    device = GPU
    recomputed = replanned = 0

    def __init__(self) -> None:
        self._random = random.Random(1)

    def frame(self, rgb: Tensor, mask: Tensor | None = None) -> Tensor:
        return rgb

    def pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first, second

    def submit(self, pair: tuple[Tensor, Tensor], time: float) -> Pending:
        torch.cuda._sleep(self._random.randrange(3_000_000))
        frame = torch.lerp(*pair, time)
        return Pending(frame, frame.sum(), lambda: frame)


def jitter(seed: int, most: float) -> Callable[[], None]:
    dice = random.Random(seed)
    return lambda: time.sleep(dice.random() * most)


def run(
    engine: Any, clip: Clip, sink: Sink, factor: int = 2, pixels: PixelFormat = YUV, **more: Any
) -> SegmentStats:
    return interpolate(clip, clip.schedule(factor), engine, sink, pixels, COLORS, scene_threshold=1.0, **more)


def moving_texture(height: int, width: int, shift: int) -> Tensor:
    """A smooth random picture, moved right by `shift` pixels."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand((1, 3, 12, 16), generator=generator)
    large = torch.nn.functional.interpolate(coarse, (height, width + 64), mode="bicubic").clamp(0, 1)
    return large[..., 64 - shift : 64 - shift + width]


def planes_of(rgb: Tensor, pixels: PixelFormat) -> tuple[Plane, ...]:
    return tuple(plane.cpu().numpy().view(pixels.dtype) for plane in to_yuv(rgb, pixels, COLORS))


def flat(level: int, height: int = 64, width: int = 96) -> tuple[Plane, ...]:
    luma, chroma, _ = YUV.plane_shapes(width, height)
    grey = np.full(chroma, 128, np.uint8)
    return np.full(luma, level, np.uint8), grey, grey


@pytest.fixture(scope="module")
def engine() -> Interpolator:
    return Interpolator.load(device=str(GPU))


@pytest.mark.parametrize(
    ("name", "size", "factor"),
    [("yuv420p", (270, 482), 3), ("yuv422p10le", (96, 161), 2), ("yuv420p", (1080, 1920), 2)],
)
def test_the_frames_are_the_engines(
    engine: Interpolator, name: str, size: tuple[int, int], factor: int
) -> None:
    pixels = PixelFormat.named(name)
    clip, sink = Clip([planes_of(moving_texture(*size, 5 * k), pixels) for k in range(6)]), Sink()
    stats = run(engine, clip, sink, factor, pixels)
    assert stats.new_frames == 5 * (factor - 1) and stats.seconds_inference > 0 and stats.vram_peak_bytes > 0

    signed = np.dtype(f"i{pixels.dtype.itemsize}") if pixels.depth > 8 else pixels.dtype
    uploaded = [[torch.from_numpy(p.view(signed)).to(GPU) for p in frame.planes] for frame in clip.frames]
    known = [engine.frame(to_rgb(planes, pixels, COLORS)) for planes in uploaded]
    for frame, planes in zip(clip.schedule(factor), sink.written, strict=True):
        match frame.action:
            case Copy(source):
                assert all(map(np.array_equal, planes, clip.frames[source].planes))
            case Between(first, t):
                made = engine.between(engine.pair(known[first], known[first + 1]), float(t))
                for ours, theirs in zip(planes, planes_of(made, pixels), strict=True):
                    off = np.abs(ours.astype(int) - theirs)
                    assert (off > 1).mean() < 1e-3 and off.mean() < 0.1


def test_no_frame_is_torn_or_out_of_its_place() -> None:
    """Neighbouring frames differ in every pixel, so a piece of another frame would show."""
    levels = [16 + 2 * (37 * k % 109) for k in range(300)]
    clip, sink = Clip([flat(level) for level in levels], jitter(2, 0.004)), Sink(jitter(3, 0.004))
    run(Average(), clip, sink)
    middles = [(a + b) // 2 for a, b in zip(levels, levels[1:], strict=False)]
    expected = [level for both in zip(levels, [*middles, levels[-1]], strict=True) for level in both]
    assert [sorted({*planes[0].flat}) for planes in sink.written] == [[level] for level in expected]


def test_a_stop_in_mid_stream_leaves_the_gpu_usable(engine: Interpolator) -> None:
    clip = Clip([planes_of(moving_texture(96, 160, k), YUV) for k in range(40)])
    threads = threading.active_count()
    for after in (0, 1, 7, 30):
        sink = Sink(jitter(after, 0.002))

        def stop(after: int = after, sink: Sink = sink) -> None:
            if len(sink.written) >= after:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            run(engine, clip, sink, check=stop)
        assert threading.active_count() == threads
    sink = Sink()
    run(engine, clip, sink)
    assert len(sink.written) == 80
    made = engine.interpolate(
        *(
            to_rgb([torch.from_numpy(p).to(GPU) for p in frame.planes], YUV, COLORS)
            for frame in clip.frames[:2]
        ),
        [0.5],
    )
    off = np.abs(sink.written[1][0].astype(int) - planes_of(made, YUV)[0])
    assert off.mean() < 0.1


def test_memory_does_not_grow(engine: Interpolator) -> None:
    short, long = (
        Clip([planes_of(moving_texture(96, 160, k % 60), YUV) for k in range(n)]) for n in (30, 300)
    )
    run(engine, short, Sink(lambda: time.sleep(0.005)))  # fills every queue
    device, host = torch.cuda.memory_allocated(GPU), pinned_allocations()
    run(engine, long, Sink())
    assert torch.cuda.memory_allocated(GPU) <= device
    assert pinned_allocations() - host <= 27  # of the 2700 planes that travelled


def test_segments_share_their_streams() -> None:
    """Memory that is freed on a stream is kept for that stream: new ones for each segment would keep more and more."""
    clip = Clip([planes_of(moving_texture(1080, 1920, k), YUV) for k in range(20)])
    run(Average(), clip, Sink(lambda: time.sleep(0.02)))  # fills every queue
    reserved = torch.cuda.memory_reserved(GPU)
    for _ in range(8):
        run(Average(), clip, Sink())
    assert torch.cuda.memory_reserved(GPU) <= reserved


def pinned_allocations() -> int:
    return int(torch.cuda.host_memory_stats()["num_host_alloc"])


# -- a worker whose GPU fails ------------------------------------------------------------------------

FAILING_WORKER = f"""
import sys
import torch
from dain_core.runtime.engine import Interpolator
from service.settings import Settings
from worker import main

submit = Interpolator.submit

def fail(self, pair, time):
    %s
    return submit(self, pair, time)

Interpolator.warm_up = lambda self: None
Interpolator.submit = fail
sys.exit(main.run(Settings(device="{GPU}")))
"""
LOSE_THE_GPU = "torch.zeros(4, device=self.device)[torch.tensor([1 << 20], device=self.device)]"
SPIN = "torch.cuda._sleep(1 << 37)"  # cycles: more than a minute


@dataclass
class Service:
    """A job that waits in a service with a Redis of its own, and workers that take it."""

    settings: Settings
    folder: Path

    def __post_init__(self) -> None:
        patient = Retry(ConstantBackoff(0.05), 200, (ConnectionError, BusyLoadingError))
        redis = Redis.from_url(self.settings.require_redis_url, retry=patient)
        self.jobs, self.queue = Jobs.from_settings(redis, self.settings), Queue(redis)
        store, workers = open_store(self.settings.store_url), Workers(redis, ttl_seconds=3)
        self.janitor = Janitor(self.jobs, self.queue, workers, store, record_ttl_seconds=1000)
        self.job_id, clip = new_job_id(), self.folder / "clip.mp4"
        picture = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=24:duration=1", "-pix_fmt", "yuv420p"]
        subprocess.run([ffmpeg.binary(), "-v", "error", *picture, str(clip)], check=True)
        facts = probe(clip).as_dict()
        source = store.put(clip, f"uploads/{self.job_id}").key
        self.jobs.create(self.job_id, source=source, filename="clip.mp4", options=Options(), input=facts)
        self.queue.enqueue(self.job_id, PLAN)

    @property
    def environment(self) -> dict[str, str]:
        names = {
            "redis_url",
            "state_dir",
            "min_free_bytes",
            "segment_frames",
            "worker_ttl_seconds",
            "stall_seconds",
        }
        chosen = self.settings.model_dump(include=names)
        return os.environ | {f"DAIN_{name.upper()}": str(value) for name, value in chosen.items()}

    def fail(self, how: str) -> str:
        """Have a worker fail in its first segment; returns its messages."""
        command = [sys.executable, "-c", FAILING_WORKER % how]
        done = subprocess.run(command, env=self.environment, timeout=120, capture_output=True, text=True)
        assert done.returncode == HUNG, done.stderr[-3000:]
        return done.stderr[-3000:]

    def succeed(self) -> None:
        """Have a good worker finish the job."""
        command = [sys.executable, "-m", "worker.main", "--device", str(GPU)]
        with subprocess.Popen(command, env=self.environment) as worker:
            end = time.monotonic() + 90
            while not self.job.status.terminal and worker.poll() is None and time.monotonic() < end:
                self.janitor.redeliver()
                time.sleep(0.2)
            worker.terminate()
        assert self.job.status is State.SUCCEEDED and worker.returncode == 0

    @property
    def job(self) -> Job:
        return self.jobs.get(self.job_id)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    socket = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path), "--save", ""]
    settings = Settings(
        state_dir=tmp_path / "state",
        redis_url=f"unix://{socket}",
        min_free_bytes=1,
        segment_frames=8,
        worker_ttl_seconds=3,
        stall_seconds=10,
    )
    with subprocess.Popen([redis_server(), *options], stdout=subprocess.DEVNULL) as server:
        try:
            yield Service(settings, tmp_path)
        finally:
            server.terminate()


def test_a_worker_that_loses_its_gpu_gives_its_task_back_and_ends(service: Service) -> None:
    messages = service.fail(LOSE_THE_GPU)
    assert service.job.status is State.RUNNING and service.job.metrics.attempts_failed == 1, messages
    assert {task for _, task in service.queue.waiting()} >= {"segment-0", "segment-1"}
    service.succeed()


def test_a_worker_whose_kernel_spins_ends_and_another_does_its_task(service: Service) -> None:
    messages = service.fail(SPIN)
    assert "made no progress for 10 s" in messages
    assert service.job.status is State.RUNNING and service.job.metrics.attempts_failed == 0, messages
    service.succeed()
