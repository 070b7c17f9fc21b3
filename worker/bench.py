"""`dain bench`: how fast the engine is on this machine, and how much of that a job through the service keeps.

Every figure is of one run on one device; speed-ups and shares are ratios within it.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dain_core import metrics
from dain_core.engine import Interpolator
from dain_core.model import CONFIGS, DAIN, ModelConfig
from dain_core.padding import pad
from service.client import Client
from worker import ffmpeg
from worker.telemetry import describe

SIZES = {"480p": (480, 640), "720p": (720, 1280), "1080p": (1080, 1920), "4k": (2160, 3840)}
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
MATMUL = 8192  # of the measured ceiling on a GPU; a CPU takes an eighth
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One model at one size in one precision; a steady stream, one new frame for each source frame."""

    model: str
    size: str
    precision: str
    ms: float
    frames_per_second: float
    speedup: float | None  # over fp32 in the same run
    frame_ms: float
    pair_ms: float
    between_ms: float
    vram_allocated_gib: float
    vram_reserved_gib: float
    ceiling_share: float  # of the matmul rate in this precision, measured in the same run
    psnr_db: float | None  # against fp32


@click.group(invoke_without_command=True)
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(SIZES)), help="[default: all]")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="[default: all]"
)
@click.option("--model", "models", multiple=True, type=click.Choice(list(CONFIGS)), help="[default: all]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--frames", default=10, show_default=True, help="New frames to time.")
@click.option("--vram-limit", type=float, metavar="GIB", help="Let PyTorch have no more memory than this.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here too.")
@click.pass_context
def bench(
    context: click.Context,
    sizes: tuple[str, ...],
    precisions: tuple[str, ...],
    models: tuple[str, ...],
    device: str,
    frames: int,
    vram_limit: float | None,
    json_path: Path | None,
) -> None:
    """Time the engine: ms a new frame, frames/s, memory, share of the device's ceiling, precision's cost."""
    if context.invoked_subcommand:
        return
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if vram_limit and device != "cpu":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(vram_limit * GIB / total, 1.0), torch.device(device))
    rows: list[Row] = []
    for model in models or tuple(CONFIGS):
        for size in sizes or tuple(SIZES):
            # fp32 first: the others are compared with it.
            rows += measure(
                model, size, [p for p in PRECISIONS if p in (precisions or PRECISIONS)], device, frames
            )
    report(rows, device, json_path)


def measure(model: str, size: str, precisions: list[str], device: str, frames: int) -> Iterator[Row]:
    """One row for each precision; one that does not fit into memory is said and left out."""
    height, width = SIZES[size]
    baseline: tuple[float, Tensor] | None = None
    for precision in precisions:
        with tf32(precision == "tf32"):
            try:
                engine = Interpolator.load(model, device=device, precision=precision.replace("tf32", "fp32"))
                row, picture = stream(
                    engine, size, precision, texture(height, width, frames + 3, engine.device), baseline
                )
            except torch.OutOfMemoryError as error:
                click.echo(f"{model} {size} {precision}: {str(error).splitlines()[0]}", err=True)
                continue
        if precision == "fp32":
            baseline = row.ms, picture
        yield row
        del engine
        if device != "cpu":
            torch.cuda.empty_cache()


def stream(
    engine: Interpolator,
    size: str,
    precision: str,
    pictures: list[Tensor],
    baseline: tuple[float, Tensor] | None,
) -> tuple[Row, Tensor]:
    """Interpolate through `pictures` as a job would, and time it."""
    engine.warm_up(*pictures[0].shape[2:])
    on_gpu = engine.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(engine.device)
    sample, _ = interpolate_all(engine, pictures[:3])
    _, seconds = interpolate_all(engine, pictures)
    ms = 1000 * seconds / (len(pictures) - 2)

    first, second = engine.frame(pictures[0]), engine.frame(pictures[1])
    pair = engine.pair(first, second)
    stages: dict[str, Callable[[], object]] = {
        "frame_ms": lambda: engine.frame(pictures[0]),
        "pair_ms": lambda: engine.pair(first, second),
        "between_ms": lambda: engine.between(pair, 0.5),
    }
    padded, _ = pad(pictures[0], ModelConfig.named(engine.model_name).multiple)
    work = operations_per_pixel(engine.model_name) * padded[0, 0].numel() / (ms / 1000)
    row = Row(
        model=engine.model_name,
        size=size,
        precision=precision,
        ms=ms,
        frames_per_second=1000 / ms,
        speedup=baseline[0] / ms if baseline else None,
        **{name: typical(engine, stage) for name, stage in stages.items()},
        vram_allocated_gib=torch.cuda.max_memory_allocated(engine.device) / GIB if on_gpu else 0.0,
        vram_reserved_gib=torch.cuda.max_memory_reserved(engine.device) / GIB if on_gpu else 0.0,
        ceiling_share=work / ceiling(engine.device, precision),
        psnr_db=float(metrics.psnr(sample, baseline[1])) if baseline else None,
    )
    return row, sample


def interpolate_all(engine: Interpolator, pictures: list[Tensor]) -> tuple[Tensor, float]:
    """The last frame between `pictures`, and the seconds that the pairs after the first took."""
    began = 0.0
    known = engine.frame(pictures[0])
    for number, picture in enumerate(pictures[1:]):
        if number == 1:
            began = now(engine.device)
        after = engine.frame(picture)
        made, known = engine.between(engine.pair(known, after), 0.5), after
    return made.clone(), now(engine.device) - began


def typical(engine: Interpolator, call: Callable[[], object]) -> float:
    """Median milliseconds of a call by itself."""
    taken = []
    for _ in range(5):
        began = now(engine.device)
        call()
        taken.append(1000 * (now(engine.device) - began))
    return statistics.median(taken)


def now(device: torch.device) -> float:
    """The time in seconds once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@functools.cache
def operations_per_pixel(model: str) -> float:
    """Floating-point operations of the convolutions, for a pixel of one new frame in a steady stream."""
    config = ModelConfig.named(model)
    side = config.multiple
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network = DAIN(config).eval()
        one = network.features(torch.zeros(1, 3, side, side))
        network.synthesise(one, one, network.motion(one, one), 0.5)
    return counter.get_total_flops() / side**2


@functools.cache
def ceiling(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of a large matrix product on this device."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    side = MATMUL if device.type == "cuda" else MATMUL // 8
    a = torch.randn(side, side, device=device).to(dtype)
    taken = []
    for _ in range(5):
        began = now(device)
        a @ a
        taken.append(now(device) - began)
    return 2 * side**3 / min(taken)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let float32 products be made of TF32 ones, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def texture(height: int, width: int, count: int, device: torch.device) -> list[Tensor]:
    """A smooth random picture that moves three pixels to the right from frame to frame; (1, 3, height, width)."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 8 + 2, (width + 3 * count) // 8 + 2, generator=random)
    wide = F.interpolate(coarse, size=(height, width + 3 * count), mode="bicubic").clamp(0, 1)
    return [wide[..., 3 * (count - k) :][..., :width].contiguous().to(device) for k in range(count)]


def report(rows: list[Row], device: str, json_path: Path | None) -> None:
    """A table for people and, if asked for, JSON for programs."""
    name = describe(device if ":" in device or device == "cpu" else "cuda:0")
    if json_path:
        document = {"device": name, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
        json_path.write_text(json.dumps(document, indent=2))
    table = Table(title=f"{name}, PyTorch {torch.__version__}; one new frame for each source frame")
    for heading in ("model", "size", "precision"):
        table.add_column(heading)
    for heading in (
        "ms",
        "frames/s",
        "x fp32",
        "frame",
        "pair",
        "between",
        "GiB",
        "reserved",
        "ceiling",
        "dB",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.model, row.size, row.precision, f"{row.ms:.1f}", f"{row.frames_per_second:.2f}",
            f"{row.speedup:.2f}" if row.speedup else "", f"{row.frame_ms:.1f}", f"{row.pair_ms:.1f}",
            f"{row.between_ms:.1f}", f"{row.vram_allocated_gib:.2f}", f"{row.vram_reserved_gib:.2f}",
            f"{row.ceiling_share:.0%}", f"{row.psnr_db:.1f}" if row.psnr_db else "",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@bench.command("job")
@click.option(
    "--url", envvar="DAIN_URL", default="http://127.0.0.1:8000", show_default=True, help="The service."
)
@click.option("--size", type=click.Choice(list(SIZES)), default="480p", show_default=True)
@click.option("--frames", default=100, show_default=True, help="Source frames of the clip.")
def bench_job(url: str, size: str, frames: int) -> None:
    """Time a whole job through a service, against what its networks alone took."""
    height, width = SIZES[size]
    with tempfile.TemporaryDirectory() as folder, Client(url) as client:
        clip = Path(folder, "clip.mp4")
        moving = f"testsrc2=size={width}x{height}:rate=30,trim=end_frame={frames}"
        command = [
            ffmpeg.binary(),
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            moving,
            "-pix_fmt",
            "yuv420p",
            str(clip),
        ]
        subprocess.run(command, check=True)
        job = client.wait(client.submit(clip, {"factor": 2})["id"], interval=0.1)
    if job["status"] != "succeeded":
        raise click.ClickException(job["error"]["detail"])
    seconds, metrics = job["finished_at"] - job["started_at"], job["metrics"]
    stages = ", ".join(f"{name} {value:.2f} s" for name, value in metrics["stage_seconds"].items())
    click.echo(
        f"{size}: {metrics['new_frames'] / seconds:.2f} new frames/s through the service; {seconds:.2f} s in all"
    )
    click.echo(
        f"stages: {stages}; the network took {metrics['stage_seconds']['inference'] / seconds:.0%} of the time"
    )
