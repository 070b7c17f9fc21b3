"""What `dain eval` does: compares the frames that our models and other methods make with true frames."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from dain_core.outputs import writing
from dain_core.runtime.devices import named_device

QUIET_SECONDS = 10.0  # between two lines of progress, where there is no terminal
#: The model that is evaluated unless another is named, by the kind of device.
DEFAULTS = {"cuda": "dain-refined", "cpu": "dain-lite"}


def run(
    paths: Sequence[Path], scenes: int, models: Sequence[str], precisions: Sequence[str], others: Sequence[str],
    device: str, selection: Selection, worst: int, json_path: Path | None, page_path: Path | None,
    options: Mapping[str, object],
) -> None:  # fmt: skip
    """Evaluate, print the tables, and write the files that are asked for; `dain eval` explains what is what.

    Without models and other methods, the model that suits the device is compared with the plain methods.

    Raises:
        click.ClickException: something cannot be evaluated.
    """
    try:
        device = str(named_device(device))
        if not (models or others):
            models, others = (DEFAULTS[torch.device(device).type],), available_plain()
        clips, pictures = _gather(paths, scenes, device)
        methods = load_methods(models, precisions or ("auto",), others, device) if clips else []
        lpips, no_lpips = load_lpips(torch.device(device))
        vmaf, no_vmaf = load_vmaf()
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
        document = {"options": options, **report.document()}
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
    """Show the progress on standard error; give the function to call with the clip's name after each sample.

    On a terminal that is a line that changes, elsewhere a line every `QUIET_SECONDS`.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed} samples"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda clip: progress.update(task, advance=1, description=clip)


class _Lines:
    """Progress for who reads a log."""

    def __init__(self) -> None:
        self._samples, self._said = 0, time.monotonic()
        click.echo("Reading the clips.", err=True)

    def __call__(self, clip: str) -> None:
        self._samples += 1
        if time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            click.echo(f"{clip}: {self._samples} samples so far", err=True)
