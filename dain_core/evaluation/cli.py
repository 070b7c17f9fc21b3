"""The command `dain eval`. Only its options are here, so that help does not wait for PyTorch."""

from __future__ import annotations

from pathlib import Path

import click

from dain_core.outputs import OutputFile

PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8")  #: the engine's


class FrameSize(click.ParamType):
    """The text WIDTHxHEIGHT, as (width, height)."""

    name = "WIDTHxHEIGHT"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        width, _, height = value.partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(f"{value!r} is not WIDTHxHEIGHT, such as 2048x1080", param, ctx)
        return int(width), int(height)


@click.command("eval")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--scenes",
    type=click.IntRange(0),
    default=0,
    help="Also evaluate frames and depth of so many made scenes.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME[=FILE]",
    help="Evaluate this model, with the weights in FILE if it is given.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["auto", *PRECISIONS]),
    help="Run every model in this precision.  [default: auto]",
)
@click.option(
    "--method",
    "others",
    multiple=True,
    metavar="average|dis|FILE.py",
    help="Evaluate this method too. A file defines interpolate(first, second, time).",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--limit",
    type=click.IntRange(0),
    help="Largest number of samples of a clip, spread evenly; 0 is all.  [default: 30 for a video, all of a list]",
)
@click.option(
    "--every", type=click.IntRange(1), default=1, show_default=True, help="Take only every N-th sample."
)
@click.option(
    "--gap",
    type=click.IntRange(2),
    default=2,
    show_default=True,
    help="Distance from the first frame to the last, in frames of a video. All frames between them are made.",
)
@click.option(
    "--flicker", is_flag=True, help="Also make the sample after each sample of a video, to measure flicker."
)
@click.option(
    "--downscale", type=click.IntRange(1), default=1, show_default=True, help="Shrink frames by this factor."
)
@click.option("--crop", type=FrameSize(), help="Then cut this size out of the middle.")
@click.option(
    "--worst",
    default=4,
    show_default=True,
    type=click.IntRange(0),
    help="Number of cases of each clip on the page.",
)
@click.option("--json", "json_path", type=OutputFile(), help="Write the figures to this file.")
@click.option(
    "--page",
    "page_path",
    type=OutputFile(),
    help="Write the figures, and pictures of the worst cases, to this HTML file.",
)
def evaluate(
    paths: tuple[Path, ...], scenes: int, models: tuple[str, ...], precisions: tuple[str, ...],
    others: tuple[str, ...], device: str, limit: int | None, every: int, gap: int, flicker: bool, downscale: int,
    crop: tuple[int, int] | None, worst: int, json_path: Path | None, page_path: Path | None,
) -> None:  # fmt: skip
    """Compare made frames with true frames, and a model's depth with true depth.

    PATHS are videos, folders of frames, folders or lists of Vimeo-90K, Middlebury, UCF101 and SNU-FILM, and folders of
    any of these. A folder with pictures in `rgb` and their depth in `depth` is evaluated for depth.

    The page shows the worst cases of the first model. Without --model and --method, dain-refined (dain-lite on a
    CPU) is compared with averaging and DIS flow.
    """
    if not (paths or scenes):
        raise click.UsageError("Name a video or a folder of what is to be evaluated, or --scenes 8.")
    click.echo("Starting PyTorch.", err=True)
    from dain_core.evaluation.clips import Selection
    from dain_core.evaluation.command import run

    selection = Selection(limit, every, gap, flicker, downscale, crop)
    options = click.get_current_context().params
    run(paths, scenes, models, precisions, others, device, selection, worst, json_path, page_path, options)
