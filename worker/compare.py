"""`dain compare`: two videos in one, and how much they differ. Only its options are here: help waits for no PyTorch."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dain_core.outputs import OutputFile, writing
from service.jobs.options import parse_seconds, parse_speed
from worker.cli import Exact
from worker.publishing import check_free, publish

if TYPE_CHECKING:
    from worker.comparison import Figures

LAYOUTS = ("wipe", "side-by-side", "stacked")  #: those of `worker.comparison`


@click.command()
@click.argument("first", metavar="A", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("second", metavar="B", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    help="The video of both.  [default: B's name with -compared.mp4, here]",
)
@click.option("--overwrite", is_flag=True, help="Replace that video if there is one.")
@click.option("--layout", type=click.Choice(LAYOUTS), default="wipe", show_default=True,
              help="wipe: a line moves over the picture, A to its left and B to its right.")  # fmt: skip
@click.option(
    "--slow",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="How many times as slow to play both.",
)
@click.option(
    "--speed",
    type=Exact("speed", parse_speed),
    help="B is A in slow motion of this speed: A is slowed as well.",
)
@click.option(
    "--start", type=Exact("time", parse_seconds), default="0", help="Where to begin: seconds, or 0:01:30.5."
)
@click.option(
    "--duration",
    type=Exact("time", parse_seconds),
    help="How much to compare.  [default: all that both have]",
)
@click.option("--json", "is_json", is_flag=True, help="Print the figures as JSON.")
def compare(
    first: Path, second: Path, output: Path | None, overwrite: bool, layout: str, slow: int, speed: str | None,
    start: str, duration: str | None, is_json: bool,
) -> None:  # fmt: skip
    """Show two videos in one, and say how much they differ.

    A and B may have different frame rates: a frame of the one with fewer frames is set beside what the other shows at
    that time. B is scaled to the size of A. PSNR and SSIM are those of FFmpeg, of the Y, U and V planes in eight bits.
    """
    output = output or Path(f"{second.stem}-compared.mp4")
    if output.suffix.lower() != ".mp4":
        raise click.BadParameter(
            f"{output} is to be an MP4: give it a name that ends in .mp4", param_hint="-o"
        )
    check_free(output, [first, second], overwrite, "-o")
    click.echo(f"Looking into {first.name} and {second.name}.", err=True)
    from worker.comparison import Clip, Comparison
    from worker.media.errors import MediaError

    try:
        begin, stretch = Fraction(start), 1 / Fraction(speed or 1)
        comparison = Comparison(
            Clip.of(first, begin, stretch),
            Clip.of(second, begin * stretch),
            layout,
            slow,
            Fraction(duration) * stretch if duration else None,
        )
        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        with (
            writing(output),
            tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".dain-") as scratch,
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ):
            bar = progress.add_task("comparing", total=comparison.frames)
            whole = Path(scratch, "whole")
            figures = comparison.make(whole, lambda frame: progress.update(bar, completed=frame))
            output = publish(whole, output, overwrite)
    except MediaError as error:
        raise click.ClickException(error.detail) from error
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if is_json:
        click.echo(json.dumps({**dataclasses.asdict(figures), "video": str(output)}, indent=2))
        return
    click.echo(_told(figures))
    click.echo(f"{output}: {comparison.legend}.")


def _told(figures: Figures) -> str:
    """The figures in a sentence or two."""
    if figures.psnr is None:
        return f"All {figures.frames} frames that both show at the same times are equal."
    equal = f", {figures.equal} of them equal" if figures.equal else ""
    return (
        f"{figures.frames} frames that both show at the same times{equal}: PSNR {figures.psnr:.2f} dB, SSIM "
        f"{figures.ssim:.4f}. They differ most at {figures.worst_seconds:.2f} s: {figures.worst_psnr:.2f} dB."
    )
