"""`dain bench`: how fast the engine is on this machine, and how much of that a job through the service keeps.

Every figure is of one run on one device; speed-ups and shares are ratios within it. Only options are here: what
measures is imported when it is asked for, so that help does not wait for PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dain_core.options import LateGroup
from dain_core.outputs import OutputFile
from service.jobs.options import SHIPPED_MODELS
from worker.bench.choices import PRECISIONS, Picture, Size

#: The other measurements: each is a command of its name in a module of its name.
OTHERS = {
    "claims": "Set what was promised beside what this machine shows.",
    "cuts": "Measure how well cuts are found.",
    "job": "Measure how much of the engine a job through a service keeps.",
    "load": "Put a service under the load of many clients.",
    "media": "Time decoding, copies and encoding.",
    "roofline": "Tell what to expect of small machines, by their data sheets.",
}


@click.group(
    cls=LateGroup,
    late={name: (f"worker.bench.{name}", name, words) for name, words in OTHERS.items()},
    invoke_without_command=True,
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=Size(),
    help="480p, 720p, 1080p, 4k or WIDTHxHEIGHT.  [default: all four; 480p and 720p on a CPU]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(PRECISIONS),
    help="[default: all that suit the device]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice([name for name in SHIPPED_MODELS if name != "auto"]),
    help="[default: all; dain-lite on a CPU]",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--frames", default=30, show_default=True, help="New frames to time; fewer where each takes long."
)
@click.option("--vram-limit", type=float, metavar="GIB", help="Let PyTorch have no more memory than this.")
@click.option("--json", "json_path", type=OutputFile(), help="Write the figures here too.")
@click.pass_context
def bench(
    context: click.Context,
    sizes: Sequence[Picture],
    precisions: Sequence[str],
    models: Sequence[str],
    device: str,
    frames: int,
    vram_limit: float | None,
    json_path: Path | None,
) -> None:
    """Time the engine: ms a new frame, frames/s, memory, share of the device's ceiling, precision's cost."""
    if context.invoked_subcommand:
        return
    click.echo("Starting PyTorch.", err=True)
    from worker.bench.engine import run

    run(sizes, precisions, models, device, frames, vram_limit, json_path)
