"""The command ``dain train``. Only its options are here, so that help does not wait for PyTorch."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from dain_core.choices import LEVELS, TRAINED
from dain_core.options import Amount, start_pytorch

#: The parts of a model that train, the losses, and the multiple that a crop's sides are of: `dain_core.training`'s.
PARTS = ("flow", "depth", "kernels", "context", "rectify")
LOSSES = ("frame", "blend", "census", "psnr", "flow", "depth")
CROP_MULTIPLE = 16
#: The settings unless they are given, as `TrainConfig` has them.
DEFAULTS: dict[str, Any] = {
    "reset": (),
    "parts": ("flow", "kernels", "context", "rectify"),
    "steps": None,
    "minutes": None,
    "batch": 16,
    "accumulate": 1,
    "crop": (256, 256),
    "precision": "bf16",
    "rate": 2e-4,
    "warm_up": 0.05,
    "weight_decay": 1e-4,
    "clip": 0.3,
    "ema": 0.998,
    "teacher": None,
    "tune": True,
    "seed": 0,
    "log_every": 50,
    "save_every": 1000,
}


class _CropSize(click.ParamType):
    """The text HEIGHTxWIDTH, as (height, width)."""

    name = "HEIGHTxWIDTH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        height, _, width = value.partition("x")
        if not (height.isdecimal() and width.isdecimal()):
            self.fail(f"{value!r} is not HEIGHTxWIDTH: give two whole numbers, such as 256x384", param, ctx)
        return int(height), int(width)


class PartNames(click.ParamType):
    """The text PART,PART,... or all, as a tuple of names."""

    name = "PART,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = PARTS if value == "all" else tuple(value.split(","))
        for name in names:
            if name not in PARTS:
                self.fail(f"{name!r} is not a part: choose from {', '.join(PARTS)}, or all", param, ctx)
        return names


class Named(click.ParamType):
    """The text NUMBER or NAME=NUMBER, as (name or None, number).

    Args:
        names: the names that may be given.
        alone: whether NUMBER without a name is valid.
    """

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
            self.fail(f"{number!r} is not a number", param, ctx)


def _setting(flag: str, kind: Any, text: str) -> Any:
    """Make the option `flag` for the setting of `TrainConfig` of the same name. The help shows the default."""
    default = DEFAULTS[flag.removeprefix("--").replace("-", "_")]
    if isinstance(default, tuple):
        default = ("x" if isinstance(kind, _CropSize) else ",").join(map(str, default)) or None
    return click.option(flag, type=kind, default=default, show_default=default is not None, help=text)


@click.command()
@click.option("--data", multiple=True, metavar="SOURCE[=SHARE]", help="Learn from this source.")
@click.option(
    "--out", required=True, metavar="DIR", help="Folder of the run: settings, log, checkpoint, weights."
)
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out. Options that are given replace its settings."
)
@click.option("--model", default="dain", show_default=True, type=click.Choice(TRAINED))
@click.option(
    "--init", help="Weights to start from: a shipped model's name, a file, or none.  [default: the model's]"
)
@_setting("--reset", PartNames(), "Parts that start from random weights in spite of --init.")
@_setting("--parts", PartNames(), "Parts that train. The other parts keep their weights.")
@_setting("--steps", click.IntRange(0), "Total number of steps.")
@_setting("--minutes", Amount(0), "Stop after so many minutes. The learning rate falls accordingly.")
@_setting("--batch", click.IntRange(1), "Triplets for each GPU and batch.")
@_setting("--accumulate", click.IntRange(1), "Batches whose gradients are added up for one step.")
@_setting("--crop", _CropSize(), f"Size of the triplets, in multiples of {CROP_MULTIPLE}.")
@_setting("--precision", click.Choice(LEVELS), "Precision of the arithmetic.")
@click.option(
    "--lr",
    multiple=True,
    type=Named(PARTS, alone=True),
    help=f"Highest learning rate, for all parts or one: --lr 2e-4 --lr rectify=1e-4.  [default: {DEFAULTS['rate']}]",
)
@_setting("--warm-up", Amount(0, 1), "Share of the run in which the learning rate rises.")
@_setting("--weight-decay", Amount(0), "Weight decay of AdamW.")
@_setting(
    "--clip",
    Amount(0, min_open=True),
    "Largest norm of the gradient of a part. Larger gradients are scaled down.",
)
@_setting("--ema", Amount(0, 1), "Share of the averaged weights that a step keeps.")
@click.option(
    "--weight",
    multiple=True,
    type=Named(LOSSES, alone=False),
    help="Weight of a loss: --weight flow=0.05. With --weight frame=0 only flow and depth train.",
)
@_setting("--teacher", str, "Weights of `dain`, a name or a file. Their flow and depth are targets too.")
@click.option(
    "--tune/--no-tune",
    default=DEFAULTS["tune"],
    show_default=True,
    help="Let cuDNN search for its fastest kernels. The start is slower; runs of minutes do not gain.",
)
@_setting("--seed", int, "Seed of all random numbers.")
@_setting("--log-every", click.IntRange(1), "Steps between log lines.")
@_setting("--save-every", click.IntRange(1), "Steps between checkpoints.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto: all GPUs.")
@click.option("--gpus", type=click.IntRange(1), help="Number of GPUs to use.  [default: all]")
@click.pass_context
def train(context: click.Context, resume: bool, device: str, gpus: int | None, **_: Any) -> None:
    """Train a model on triplets of frames: it makes the middle frame from the other two.

    A SOURCE is a folder of videos, a folder of pictures from which scenes are made, a folder of Vimeo-90K, or the word
    `scenes` for scenes made without pictures. Several sources are mixed by their SHAREs.
    """
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    for name in ("resume", "device", "gpus"):
        given.pop(name, None)
    start_pytorch()
    from dain_core.training.command import run

    run(given, resume, device, gpus)
