"""The command `dain eval`: compares the frames that our models and other methods make with true frames."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from dain_core.errors import DainCoreError
from dain_core.evaluation.cases import Worst
from dain_core.evaluation.clips import Clip, Selection, find_clips
from dain_core.evaluation.depth import DepthModel, DepthPicture, find_depth, read_pictures
from dain_core.evaluation.methods import (
    PLAIN,
    Method,
    has_opencv,
    model_method,
    plain_method,
    plug_in_method,
)
from dain_core.evaluation.pictures import EvaluationError
from dain_core.evaluation.report import Report
from dain_core.evaluation.run import Results, evaluate_depth, evaluate_frames
from dain_core.evaluation.scenes import MadeClip
from dain_core.evaluation.scores import load_lpips
from dain_core.evaluation.vmaf import load_vmaf
from dain_core.outputs import OutputFile, writing
from dain_core.runtime.backends import PRECISIONS
from dain_core.runtime.devices import named_device


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

    The page shows the worst cases of the first model. Without --model and --method, `dain` is compared with averaging
    and DIS flow.
    """
    if not (models or others):
        models, others = ("dain",), available_plain()
    try:
        device = str(named_device(device))
        clips, pictures = _gather(paths, scenes, device)
        methods = load_methods(models, precisions or ("auto",), others, device) if clips else []
        lpips, no_lpips = load_lpips(torch.device(device))
        vmaf, no_vmaf = load_vmaf()
        selection = Selection(limit, every, gap, flicker, downscale, crop)
        depth_models = [DepthModel(spec, device) for spec in models] if pictures else []
        results = Results(Worst(worst if page_path else 0))
        with _progress() as advance:
            evaluate_frames(clips, methods, selection, torch.device(device), lpips, vmaf, results, advance)
            evaluate_depth(chain(*pictures), depth_models, results, advance)
    except DainCoreError as error:
        raise click.ClickException(str(error)) from error
    processor = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    title = f"dain eval, {processor}, PyTorch {torch.__version__}"
    report = Report(title, [note for note in (no_lpips, no_vmaf) if clips and note], results)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in report.tables():
        console.print(table)
    for line in report.notes:
        console.print(line)
    if json_path:
        document = {"options": click.get_current_context().params, **report.document()}
        with writing(json_path):
            json_path.write_text(json.dumps(document, indent=1, allow_nan=False, default=str))
    if page_path:
        with writing(page_path):
            page_path.write_text(report.page())


def _gather(
    paths: Sequence[Path], scenes: int, device: str
) -> tuple[list[Clip], list[Iterator[DepthPicture]]]:
    """Return the clips on which made frames are evaluated, and the pictures on which depth is evaluated."""
    folders = [path for path in paths if find_depth(path)]
    clips = [clip for path in paths if path not in folders for clip in find_clips(path)]
    pictures = [read_pictures(folder) for folder in folders]
    if scenes:
        made = MadeClip(scenes, device)
        clips, pictures = [*clips, made], [*pictures, made.pictures()]
    if not (clips or pictures):
        raise EvaluationError("there is nothing to evaluate on: name videos or folders, or use --scenes.")
    for name, count in Counter(clip.name for clip in clips).items():
        if count > 1:
            raise EvaluationError(
                f"{count} clips are called {name}: rename them, or evaluate them one after the other."
            )
    return clips, pictures


def load_methods(
    models: Sequence[str], precisions: Sequence[str], others: Sequence[str], device: str
) -> list[Method]:
    """Load the methods to compare, the judged method first.

    Args:
        models: models as NAME or NAME=FILE.
        precisions: the precisions in which every model runs.
        others: names of `PLAIN`, or Python files.
        device: the device, such as "cuda:0".

    Raises:
        EvaluationError: a method cannot be loaded, or two methods have one name.
    """
    made = [model_method(spec, device, precision) for spec in models for precision in precisions]
    made += [plain_method(spec) if spec in PLAIN else plug_in_method(Path(spec)) for spec in others]
    for name, count in Counter(method.name for method in made).items():
        if count > 1:
            raise EvaluationError(
                f"{count} methods are called {name}: rename a weights file, or set NAME in a plug-in."
            )
    return made


def available_plain() -> tuple[str, ...]:
    """Return the plain methods whose packages are installed."""
    return PLAIN if has_opencv() else ("average",)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the progress on standard error; give the function to call with the clip's name after each sample."""
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed} samples"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda clip: progress.update(task, advance=1, description=clip)
