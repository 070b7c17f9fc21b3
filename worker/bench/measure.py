"""How fast an engine is, and what it takes: a steady stream through it, stage by stage, against the device's best."""

from __future__ import annotations

import functools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dain_core.evaluation import metrics
from dain_core.network.networks import build, config_named
from dain_core.runtime.engine import Interpolator
from dain_core.weights.files import load_weights
from worker.bench.choices import Picture
from worker.transfer import Pending

EAGER = "eager"  # the plain network in float32: what the engine is compared with
AHEAD = 2  # frames that the device has before the result of one is taken, as in a job
MATMUL = 8192  # side of the product that the ceiling is measured with; a CPU takes an eighth
ENOUGH_SECONDS = 8.0  # of timing one stream
GIB = 2**30


class Engine(Protocol):
    """What is used of ``dain_core.runtime.engine.Interpolator``."""

    device: torch.device
    recomputed: int

    def frame(self, rgb: Tensor) -> Any: ...
    def pair(self, first: Any, second: Any) -> Any: ...
    def submit(self, pair: Any, time: float) -> Pending: ...


class Eager:
    """The plain network in float32, as PyTorch runs it, with the methods of an engine."""

    recomputed = 0

    def __init__(self, model: str, device: torch.device) -> None:
        self.device = device
        config = config_named(model)
        with torch.device("meta"):
            network = build(config)
        network.load_state_dict(load_weights(model, config), assign=True)
        self._network = network.prepare(torch.float32).to(device)

    @torch.inference_mode()
    def frame(self, rgb: Tensor) -> Any:
        return self._network.features(rgb.contiguous(memory_format=torch.channels_last))

    @torch.inference_mode()
    def pair(self, first: Any, second: Any) -> Any:
        return first, second, self._network.motion(first, second)

    @torch.inference_mode()
    def submit(self, pair: Any, time: float) -> Pending:
        first, second, motion = pair
        return _Made(self._network.synthesise(first, second, motion, time).output.clamp(0, 1))


@dataclass(frozen=True)
class _Made:
    frame: Tensor

    def result(self) -> Tensor:
        now(self.frame.device)
        return self.frame


@dataclass(frozen=True)
class Row:
    """One model at one size in one precision; a steady stream, one new frame for each source frame."""

    model: str
    size: str
    precision: str
    ms: float
    frames_per_second: float
    speedup: float | None  # over the plain network in float32, in the same run
    frame_ms: float
    pair_ms: float
    between_ms: float
    vram_allocated_gib: float
    vram_reserved_gib: float
    tflops: float  # of the convolutions, but for what lies around the frame
    ceiling_tflops: float  # of a large matrix product in this precision, measured in the same run
    ceiling_share: float
    psnr_db: float | None  # against float32
    recomputed: int  # frames that had to be made again in float32


@dataclass(frozen=True)
class Baseline:
    """What the plain network took, and what it made."""

    ms: float | None
    picture: Tensor


def load(model: str, precision: str, device: torch.device) -> Engine:
    if precision == EAGER:
        return Eager(model, device)
    return Interpolator.load(
        model, device=str(device), precision="fp32" if precision == "tf32" else precision
    )


def measure(
    model: str,
    size: Picture,
    precision: str,
    device: torch.device,
    frames: int,
    baseline: Baseline | None,
) -> tuple[Row, Tensor]:
    """A row of the table, and the new frame that its precision is judged by.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    name, height, width = size
    with tf32(precision == "tf32"):
        engine, pictures = load(model, precision, device), panned(height, width, device)
        for _ in range(2):  # libraries choose their algorithms, graphs are captured
            picture = between(engine, pictures).cpu()
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        ms = steady(engine, pictures, frames)
        allocated = torch.cuda.max_memory_allocated(device) if on_gpu else 0
        reserved = torch.cuda.max_memory_reserved(device) if on_gpu else 0
        stages = stage_times(engine, pictures)
        tflops = operations_per_pixel(model) * height * width / (ms / 1000) / 1e12
        best = ceiling(device, precision)
    row = Row(
        model=model,
        size=name,
        precision=precision,
        ms=ms,
        frames_per_second=1000 / ms,
        speedup=baseline.ms / ms if baseline and baseline.ms else None,
        **stages,
        vram_allocated_gib=allocated / GIB,
        vram_reserved_gib=reserved / GIB,
        tflops=tflops,
        ceiling_tflops=best,
        ceiling_share=tflops / best,
        psnr_db=float(metrics.psnr(picture, baseline.picture)) if baseline else None,
        recomputed=engine.recomputed,
    )
    return row, picture


def between(engine: Engine, pictures: list[Tensor]) -> Tensor:
    first, second = engine.frame(pictures[0]), engine.frame(pictures[1])
    return engine.submit(engine.pair(first, second), 0.5).result()


def steady(engine: Engine, pictures: list[Tensor], frames: int) -> float:
    """Milliseconds a new frame in a stream through `pictures` and back, fed as a job feeds it.

    It times `frames` new frames, or as many as there is time for.
    """
    loop = [*pictures, *pictures[-2:0:-1]]
    pending: deque[Pending] = deque()
    known = engine.frame(loop[0])
    began, made = now(engine.device), 0
    while made < frames and (made < AHEAD or time.perf_counter() - began < ENOUGH_SECONDS):
        made += 1
        after = engine.frame(loop[made % len(loop)])
        pending.append(engine.submit(engine.pair(known, after), 0.5))
        known = after
        if len(pending) > AHEAD:
            pending.popleft().result()
    for frame in pending:
        frame.result()
    return 1000 * (now(engine.device) - began) / made


def stage_times(engine: Engine, pictures: list[Tensor]) -> dict[str, float]:
    """Median milliseconds of each stage by itself."""
    first, second = engine.frame(pictures[0]), engine.frame(pictures[1])
    pair = engine.pair(first, second)
    stages: dict[str, Callable[[], object]] = {
        "frame_ms": lambda: engine.frame(pictures[0]),
        "pair_ms": lambda: engine.pair(first, second),
        "between_ms": lambda: engine.submit(pair, 0.5).result(),
    }
    return {name: statistics.median(timed(engine.device, stage, 5)) for name, stage in stages.items()}


def timed(device: torch.device, call: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each of several calls, or of as many as there is time for."""
    taken: list[float] = []
    while len(taken) < times and sum(taken) < 1000 * ENOUGH_SECONDS / 4:
        began = now(device)
        call()
        taken.append(1000 * (now(device) - began))
    return taken


def now(device: torch.device) -> float:
    """The time in seconds once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@functools.cache
def operations_per_pixel(model: str) -> float:
    """Floating-point operations of the convolutions, for a pixel of one new frame in a steady stream."""
    config = config_named(model)
    side = config.multiple
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network = build(config).eval()
        one: Any = network.features(torch.zeros(1, 3, side, side))
        network.synthesise(one, one, network.motion(one, one), 0.5)
    return counter.get_total_flops() / side**2


@functools.cache
def ceiling(device: torch.device, precision: str) -> float:
    """TFLOP/s of a large matrix product in this precision on this device."""
    side = MATMUL if device.type == "cuda" else MATMUL // 8
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    a = torch.randn(side, side, device=device).to(dtype)
    b, one = a.T.contiguous().T, torch.ones((), device=device)
    if precision == "fp8":
        a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        taken = timed(device, lambda: torch._scaled_mm(a8, b8, one, one, out_dtype=torch.float16), 10)
    elif precision == "int8":
        a8, b8 = a.to(torch.int8), b.to(torch.int8)
        taken = timed(device, lambda: torch._int_mm(a8, b8), 10)
    else:
        taken = timed(device, lambda: a @ b, 10)
    return 2 * side**3 / min(taken) / 1e9


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let float32 products be made of TF32 ones, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def panned(height: int, width: int, device: torch.device, count: int = 16) -> list[Tensor]:
    """A smooth random picture that moves three pixels from frame to frame: views, (1, 3, height, width), of one."""
    random = torch.Generator().manual_seed(0)
    whole = width + 3 * count
    coarse = torch.rand(1, 3, height // 8 + 2, whole // 8 + 2, generator=random)
    wide = F.interpolate(coarse, size=(height, whole), mode="bicubic").clamp(0, 1).to(device)
    return [wide[..., 3 * (count - k) :][..., :width] for k in range(count)]
