"""Videos made for the tests, an interpolator that needs no network, and a worker that uses it."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from dain_core.runtime.pixels import PixelFormat
from service.api.options import parse_options
from tests.worker.forks import Forks
from worker import pipeline
from worker.media import ffmpeg, sandbox
from worker.media.sandbox import probe
from worker.plan import JobPlan

#: Tests of what starts the processes of the sandbox.
STARTERS = {"test_sandbox.py", "test_forkserver.py", "test_memory.py"}


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    started = Forks()
    yield started
    started.end()


@pytest.fixture(autouse=True)
def looks_are_forks(request: pytest.FixtureRequest, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look into a file costs no new interpreter; see `tests.worker.forks`."""
    if request.path.name in STARTERS:
        return
    for ask in (sandbox.probe, sandbox.picture):
        defaults = [forks.start if each is sandbox.spawn else each for each in ask.__defaults__ or ()]
        monkeypatch.setattr(ask, "__defaults__", tuple(defaults))
    monkeypatch.setitem(sandbox.look.__kwdefaults__, "start", forks.start)


MakeVideo = Callable[..., Path]
Interpolate = Callable[..., Path]
Interpolated = Callable[..., tuple[Path, JobPlan]]


class Done:
    """A new frame that is there already."""

    def __init__(self, frame: Tensor) -> None:
        self._frame = frame

    def result(self) -> Tensor:
        return self._frame


class Average:
    """Stands in for the network: a blend is the weighted mean of its neighbours."""

    device = torch.device("cpu")
    recomputed = replanned = 0

    def __init__(self) -> None:
        self.frames = 0
        self.pairs = 0

    def frame(self, rgb: Tensor, mask: Tensor | None = None) -> Tensor:
        self.frames += 1
        self.mask = mask
        return rgb

    def pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        self.pairs += 1
        return first, second

    def moved(self, pair: object, first: Tensor, second: Tensor, time: float) -> Tensor:
        return first * (1 - time) + second * time

    def submit(self, pair: tuple[Tensor, Tensor], time: float) -> Done:
        return Done(pair[0] * (1 - time) + pair[1] * time)


@pytest.fixture
def average() -> Average:
    return Average()


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> MakeVideo:
    """Makes a file with ffmpeg, once: `video("name.mp4", *arguments)`; without inputs of a moving picture."""
    folder = tmp_path_factory.mktemp("videos")

    def make(name: str, *arguments: object) -> Path:
        given = [str(argument) for argument in arguments]
        if "-i" not in given:
            given = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.6", *given]
        path = folder / hashlib.md5(repr(given).encode()).hexdigest() / name  # another test may use the name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            subprocess.run([ffmpeg.binary(), "-nostdin", "-v", "error", *given, str(path)], check=True)
        return path

    return make


@pytest.fixture
def interpolated(tmp_path: Path, average: Average) -> Interpolate:
    """Takes a video all the way: `interpolated(path, segment_frames=…, **options)`."""

    def run(source: Path, segment_frames: int = 1000, **options: object) -> Path:
        plan = JobPlan.make(source, probe(source), parse_options(options), segment_frames=segment_frames)
        parts = [tmp_path / f"{segment_frames}-{k}.mp4" for k in range(len(plan.segments))]
        for k, part in enumerate(parts):
            pipeline.render_segment(plan, k, source, part, average)
        result = tmp_path / f"{source.stem}-{segment_frames}.mp4"
        pipeline.assemble(plan, parts, source, result)
        return result

    return run


def deliver(source: Path, folder: Path, segment_frames: int = 8, **options: object) -> tuple[Path, JobPlan]:
    """Takes a video all the way, in segments; gives the result, in `folder`, and its plan."""
    plan = JobPlan.make(source, probe(source), parse_options(options), segment_frames=segment_frames)
    parts = [folder / str(index) for index in range(len(plan.segments))]
    for index, part in enumerate(parts):
        pipeline.render_segment(plan, index, source, part, Average())
    result = folder / f"result{plan.delivery.kind.suffixes[0]}"
    result.unlink(missing_ok=True)
    pipeline.assemble(plan, parts, source, result)
    return result, plan


@pytest.fixture
def delivered(tmp_path: Path) -> Interpolated:
    """`deliver` into a folder of the test's own: `delivered(path, container="mkv")`."""
    return partial(deliver, folder=tmp_path)


def packet_times(path: Path, kind: str = "video", index: int = 0) -> list[Fraction]:
    """When the packets of a stream are presented, in order."""
    with av.open(str(path)) as container:
        stream = container.streams.get({kind: index})[0]
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        return sorted(packet.pts * packet.time_base for packet in packets)


def decoded(path: Path, pixel_format: str, video: int = 0) -> list[np.ndarray]:
    """Every frame of a video stream as ffmpeg decodes it, each as the flat bytes of its planes."""
    with av.open(str(path)) as container:
        stream = container.streams.video[video]
        width, height = stream.width, stream.height
    command = [ffmpeg.binary(), "-nostdin", "-v", "error", "-noautorotate", "-i", str(path)]
    command += [
        "-map",
        f"0:v:{video}",
        "-fps_mode",
        "passthrough",
        "-pix_fmt",
        pixel_format,
        "-f",
        "rawvideo",
        "-",
    ]
    pixels = subprocess.run(command, check=True, capture_output=True).stdout
    size = PixelFormat.named(pixel_format.replace("yuvj", "yuv")).frame_bytes(width, height)
    return list(np.frombuffer(pixels, np.uint8).reshape(-1, size))
