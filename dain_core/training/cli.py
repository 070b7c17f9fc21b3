"""``dain train``."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from dain_core.network.model import CONFIGS, ModelConfig
from dain_core.runtime.devices import DeviceError
from dain_core.training.batch import Source, TrainingDataError
from dain_core.training.checkpoints import Run
from dain_core.training.config import CROP_MULTIPLE, PARTS, TrainConfig
from dain_core.training.data import open_source
from dain_core.training.errors import TrainingError
from dain_core.training.launch import launch
from dain_core.training.loop import OpenSource
from dain_core.training.loop import train as run_training
from dain_core.training.objective import WEIGHTS
from dain_core.training.precision import LEVELS
from dain_core.training.ranks import Ranks
from dain_core.weights.files import SHIPPED, WeightsError


class _Size(click.ParamType):
    name = "HEIGHTxWIDTH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        height, _, width = value.partition("x")
        if not (height.isdecimal() and width.isdecimal()):
            self.fail(f"{value!r} is no size: give two numbers, such as 256x384", param, ctx)
        return int(height), int(width)


class PartNames(click.ParamType):
    name = "PART,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(PARTS) if value == "all" else tuple(value.split(","))
        for name in names:
            if name not in PARTS:
                self.fail(f"{name!r} is no part: choose from {', '.join(PARTS)}, or all", param, ctx)
        return names


class Named(click.ParamType):
    """A number, or NAME=NUMBER, as (name or None, number)."""

    def __init__(self, names: tuple[str, ...], alone: bool) -> None:
        self.name = "NUMBER|NAME=NUMBER" if alone else "NAME=NUMBER"
        self._names, self._alone = names, alone

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, float]:
        if isinstance(value, tuple):
            return value
        name, named, number = value.rpartition("=")
        if (named or not self._alone) and name not in self._names:
            self.fail(f"{value!r} names none of {', '.join(self._names)}", param, ctx)
        try:
            return name or None, float(number)
        except ValueError:
            self.fail(f"{number!r} is no number", param, ctx)


def _setting(flag: str, kind: Any, text: str) -> Any:
    """An option for the setting of `TrainConfig` of that name, whose default it shows."""
    default = getattr(TrainConfig, flag.removeprefix("--").replace("-", "_"))
    if isinstance(default, tuple):
        default = ("x" if isinstance(kind, _Size) else ",").join(map(str, default)) or None
    return click.option(flag, type=kind, default=default, show_default=default is not None, help=text)


@click.command()
@click.option("--data", multiple=True, metavar="SOURCE[=SHARE]", help="What to learn from.")
@click.option(
    "--out", required=True, metavar="DIR", help="The run's folder: settings, log, checkpoint, weights."
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run in --out, with its settings but for those given."
)
@click.option("--model", default="dain", show_default=True, type=click.Choice(list(CONFIGS)))
@click.option(
    "--init", help="Weights to start from: a shipped model's name, a file, or none.  [default: the model's]"
)
@_setting("--reset", PartNames(), "Parts that start from nothing all the same.")
@_setting("--parts", PartNames(), "Parts that train; the others stay as they are.")
@_setting("--steps", click.IntRange(0), "Steps to make in all.")
@_setting("--minutes", click.FloatRange(0), "Stop after so long, with the learning rate down in time.")
@_setting("--batch", click.IntRange(1), "Samples of each GPU and step.")
@_setting("--accumulate", click.IntRange(1), "Batches whose gradients make one step.")
@_setting("--crop", _Size(), f"Size of the samples, in multiples of {CROP_MULTIPLE}.")
@_setting("--precision", click.Choice(list(LEVELS)), "Precision of the arithmetic.")
@click.option(
    "--lr",
    multiple=True,
    type=Named(PARTS, alone=True),
    help=f"Highest learning rate, of all or of one part: --lr 2e-4 --lr rectify=1e-4.  [default: {TrainConfig.rate}]",
)
@_setting("--warm-up", click.FloatRange(0, 1), "Share of the run in which the learning rate rises.")
@_setting("--weight-decay", click.FloatRange(0), "Of AdamW.")
@_setting("--clip", click.FloatRange(0, min_open=True), "Norm to which a part's gradient is cut.")
@_setting("--ema", click.FloatRange(0, 1), "How much of the averaged weights a step keeps.")
@click.option(
    "--weight",
    multiple=True,
    type=Named(tuple(WEIGHTS), alone=False),
    help="Weight of a loss: --weight flow=0.05. Without one of the frame (frame=0), flow and depth train alone.",
)
@_setting("--teacher", str, "Weights of `dain`, by name or file, to learn flow and depth from as well.")
@click.option(
    "--tune/--no-tune",
    default=TrainConfig.tune,
    show_default=True,
    help="Let cuDNN try its kernels at first: a slower start, faster steps. Not worth it for a run of minutes.",
)
@_setting("--seed", int, "Of everything random.")
@_setting("--log-every", click.IntRange(1), "Steps between log lines.")
@_setting("--save-every", click.IntRange(1), "Steps between checkpoints.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto: all GPUs.")
@click.option("--gpus", type=click.IntRange(1), help="How many GPUs to use.  [default: all]")
@click.pass_context
def train(context: click.Context, resume: bool, device: str, gpus: int | None, **_: Any) -> None:
    """Train a model on triplets of frames: the middle one is made from the others, and compared.

    A SOURCE is a folder: of videos, of pictures to make scenes from, or of Vimeo-90K; or it is `scenes`: made from
    nothing. Several are mixed, by their shares.
    """
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    for name in ("resume", "device", "gpus"):
        given.pop(name, None)
    try:
        config = _config(given, resume)
    except (TrainingError, WeightsError) as error:
        raise click.ClickException(str(error)) from error
    launch(partial(work, config, resume, device), gpus or processes(device))


def processes(device: str) -> int:
    """How many to start for a run: one a GPU, unless torchrun has done it."""
    if "WORLD_SIZE" in os.environ or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return 1
    return torch.cuda.device_count()


def _config(given: dict[str, Any], resume: bool) -> TrainConfig:
    """The run's settings, from what the command was given, by option."""
    model = given.pop("model", None)
    if model is not None or not resume:
        given["network"] = ModelConfig.named(model or "dain")
    if given.get("init") == "none" or (
        not resume and "init" not in given and (model or "dain") not in SHIPPED
    ):
        given["init"] = None
    elif model is not None:
        given.setdefault("init", model)
    if rates := given.pop("lr", ()):
        given["rates"] = dict(rates)
        if None in given["rates"]:
            given["rate"] = given["rates"].pop(None)
    if "weight" in given:
        given["weights"] = dict(given.pop("weight"))
    if resume:
        return replace(Run(Path(given["out"])).config(), **given)
    return TrainConfig(**{"data": (), **given})


def open_data(config: TrainConfig, ranks: Ranks) -> Source:
    """What a run learns from, for one of its processes; see `open_source`."""
    return open_source(
        config.data,
        config.crop,
        device=ranks.device,
        seed=ranks.seed(config.seed),
        part=(ranks.index, ranks.count),
    )


def work(config: TrainConfig, resume: bool, device: str, data: OpenSource = open_data) -> None:
    """The work of one process; SystemExit, and a sentence that says what to do, if it fails."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    try:
        run_training(config, data, resume=resume, device=device)
    except (TrainingError, TrainingDataError, WeightsError, DeviceError) as error:
        raise SystemExit(_complain(str(error))) from error
    except torch.OutOfMemoryError as error:
        advice = "take a smaller --batch (and --accumulate), a smaller --crop, or a mixed --precision"
        raise SystemExit(_complain(f"the GPU's memory is too small for this run: {advice}")) from error


def _complain(message: str) -> int:
    click.echo(f"Error: {message}", err=True)
    return 1
