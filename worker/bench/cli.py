"""`dain bench`: how fast the engine is on this machine, and how much of that a job through the service keeps.

Every figure is of one run on one device; speed-ups and shares are ratios within it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from dain_core.outputs import OutputFile, writing
from dain_core.runtime.backends import PRECISIONS as ENGINE_PRECISIONS
from dain_core.runtime.devices import DeviceError, named_device
from dain_core.runtime.memory import is_out_of_memory
from dain_core.weights.files import SHIPPED
from worker.bench.claims import claims
from worker.bench.cuts import cuts
from worker.bench.job import job
from worker.bench.load import load
from worker.bench.measure import EAGER, GIB, SIZES, Baseline, Picture, Row, Size, measure
from worker.bench.media import media
from worker.bench.roofline import roofline
from worker.telemetry import describe

PRECISIONS = (EAGER, "fp32", "tf32", *(name for name in ENGINE_PRECISIONS if name != "fp32"))


@click.group(invoke_without_command=True)
@click.option(
    "--size", "sizes", multiple=True, type=Size(), help="[default: 480p, 720p, 1080p and 4k; or WIDTHxHEIGHT]"
)
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="[default: all]"
)
@click.option("--model", "models", multiple=True, type=click.Choice(list(SHIPPED)), help="[default: all]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--frames", default=30, show_default=True, help="New frames to time; fewer where each takes long."
)
@click.option("--vram-limit", type=float, metavar="GIB", help="Let PyTorch have no more memory than this.")
@click.option("--json", "json_path", type=OutputFile(), help="Write the figures here too.")
@click.pass_context
def bench(
    context: click.Context,
    sizes: tuple[Picture, ...],
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
    try:
        place = named_device(device)
    except DeviceError as error:
        raise click.ClickException(str(error)) from error
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if vram_limit and place.type == "cuda":
        total = torch.cuda.get_device_properties(place).total_memory
        torch.cuda.set_per_process_memory_fraction(min(vram_limit * GIB / total, 1.0), place)
    chosen = [name for name in PRECISIONS if name in (precisions or PRECISIONS)]
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for model in models or tuple(SHIPPED):
        for size in sizes or tuple((name, *shape) for name, shape in SIZES.items()):
            rows += compare(model, size, chosen, place, frames, left_out)
    title = f"{describe(str(place))}, PyTorch {torch.__version__}"
    if vram_limit:
        title += f", at most {vram_limit:g} GiB"
    Console(width=None if sys.stdout.isatty() else 140).print(table(title, rows))
    if json_path:
        document = {
            "device": describe(str(place)),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "vram_limit_gib": vram_limit,
            "rows": [asdict(row) for row in rows],
            "left_out": left_out,
        }
        with writing(json_path):
            json_path.write_text(json.dumps(document, indent=2))


def compare(
    model: str,
    size: Picture,
    precisions: Sequence[str],
    device: torch.device,
    frames: int,
    left_out: dict[str, str],
) -> list[Row]:
    """One row for each precision; one that the device or its memory is not up to is said and left out."""
    rows: list[Row] = []
    baseline: Baseline | None = None
    for precision in precisions:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            row, picture = measure(model, size, precision, device, frames, baseline)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            name, reason = f"{model} {size[0]} {precision}", str(error).splitlines()[0]
            left_out[name] = reason
            click.echo(f"{name}: {reason}", err=True)
            continue
        if baseline is None and precision in (EAGER, "fp32"):
            baseline = Baseline(row.ms if precision == EAGER else None, picture)
        rows.append(row)
    return rows


def table(title: str, rows: Sequence[Row]) -> Table:
    made = Table(title=f"{title}; one new frame for each source frame")
    for heading in ("model", "size", "precision"):
        made.add_column(heading)
    for heading in (
        "ms", "frames/s", f"x {EAGER}", "frame", "pair", "between", "GiB", "reserved", "TFLOP/s", "of max", "dB"
    ):  # fmt: skip
        made.add_column(heading, justify="right")
    for row in rows:
        made.add_row(
            row.model, row.size, row.precision, f"{row.ms:.1f}", f"{row.frames_per_second:.2f}",
            f"{row.speedup:.2f}" if row.speedup else "", f"{row.frame_ms:.1f}", f"{row.pair_ms:.1f}",
            f"{row.between_ms:.1f}", f"{row.vram_allocated_gib:.2f}", f"{row.vram_reserved_gib:.2f}",
            f"{row.tflops:.3g}", f"{row.ceiling_share:.0%}", f"{row.psnr_db:.1f}" if row.psnr_db else "",
        )  # fmt: skip
    return made


bench.add_command(claims)
bench.add_command(cuts)
bench.add_command(job)
bench.add_command(load)
bench.add_command(media)
bench.add_command(roofline)
