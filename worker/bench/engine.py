"""What `dain bench` does: times the engine in each precision, and prints a table of it.

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

from dain_core.outputs import writing
from dain_core.runtime.devices import DeviceError, named_device
from dain_core.runtime.memory import is_out_of_memory
from dain_core.weights.files import SHIPPED
from worker.bench.choices import PRECISIONS, SIZES, Picture
from worker.bench.measure import EAGER, GIB, Baseline, Row, measure
from worker.telemetry import describe

#: What is measured on a CPU unless asked otherwise: what it computes fast, in sizes that take seconds.
ON_CPU = (EAGER, "fp32", "bf16", "int8")
SIZES_ON_CPU = ("480p", "720p")


def run(
    sizes: Sequence[Picture],
    precisions: Sequence[str],
    models: Sequence[str],
    device: str,
    frames: int,
    vram_limit: float | None,
    json_path: Path | None,
) -> None:
    """Measure and print a table; what is not chosen is what suits the device."""
    try:
        place = named_device(device)
    except DeviceError as error:
        raise click.ClickException(str(error)) from error
    on_gpu = place.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(place)
    if vram_limit and on_gpu:
        total = torch.cuda.get_device_properties(place).total_memory
        torch.cuda.set_per_process_memory_fraction(min(vram_limit * GIB / total, 1.0), place)
    wanted = precisions or (PRECISIONS if on_gpu else ON_CPU)
    chosen = [name for name in PRECISIONS if name in wanted]
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for model in models or (tuple(SHIPPED) if on_gpu else ("dain-lite",)):
        for size in sizes or [(name, *SIZES[name]) for name in (SIZES if on_gpu else SIZES_ON_CPU)]:
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
        name = f"{model} {size[0]} {precision}"
        click.echo(f"{name}: measuring", err=True)
        try:
            row, picture = measure(model, size, precision, device, frames, baseline)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
            left_out[name] = reason
            click.echo(f"{name}: {reason}", err=True)
            continue
        if baseline is None and precision in (EAGER, "fp32"):
            baseline = Baseline(row.ms if precision == EAGER else None, picture)
        click.echo(f"{name}: {row.ms:.0f} ms a frame, {row.frames_per_second:.2f} frames/s", err=True)
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
