"""The commands of ``dain weights``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from dain_core.network.networks import NETWORKS, Config
from dain_core.outputs import OutputFile, writing
from dain_core.weights import files as checkpoint


class _Share(click.ParamType):
    """Weights and their share in a mean, SOURCE=NUMBER."""

    name = "SOURCE=SHARE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        source, _, share = value.rpartition("=")
        if not source or not re.fullmatch(r"\d+(\.\d+)?", share) or float(share) == 0:
            self.fail(f"{value!r} is not SOURCE=SHARE with a share above 0", param, ctx)
        return source, float(share)


_LAYOUT = click.option(
    "--layout", default="int8", show_default=True, type=click.Choice(checkpoint.FORMATS), help="How to store."
)
_MODEL = click.option(
    "--model", default="dain", show_default=True, type=click.Choice(list(NETWORKS)), help="What they are for."
)


@click.command("list")
def list_weights() -> None:
    """List the weights that come with the project."""
    for name, digest in checkpoint.SHIPPED.items():
        path = checkpoint.shipped_path(name)
        size = f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "missing"
        click.echo(f"{name}\t{size}\tsha256 {digest}\t{path}")


@click.command()
@click.argument("source", default="dain")
@_MODEL
def verify(source: str, model: str) -> None:
    """Check that SOURCE, an installed model's name or a file, is complete and fits."""
    config = None if source in checkpoint.SHIPPED else checkpoint.config_for(source, model)
    state = checkpoint.load_weights(source, config)
    parameters = sum(value.numel() for key, value in state.items() if _is_parameter(key))
    click.echo(f"{source}: good, {len(state)} tensors, {parameters:,} parameters")


@click.command()
@click.argument("source")
@click.argument("destination", type=OutputFile())
@_LAYOUT
@_MODEL
def convert(source: str, destination: Path, layout: str, model: str) -> None:
    """Write the weights of SOURCE, such as the authors' best.pth, to DESTINATION as safetensors."""
    config = checkpoint.config_for(source, model)
    _save(checkpoint.load_weights(source, config), destination, layout, config)


@click.command()
@click.argument("sources", type=_Share(), nargs=-1, required=True)
@click.argument("destination", type=OutputFile())
@_LAYOUT
@_MODEL
def mean(sources: Sequence[tuple[str, float]], destination: Path, layout: str, model: str) -> None:
    """Write the mean of SOURCES to DESTINATION, each with its share, such as `dain=1 run/weights.safetensors=3`.

    Of weights that were trained on from one another it is often better than each.
    """
    config = checkpoint.config_for(sources[0][0], model)
    states = [(checkpoint.load_weights(source, config), share) for source, share in sources]
    _save(checkpoint.mean(states), destination, layout, config)


@click.command()
@click.argument("destination", type=click.Path(path_type=Path), default="best.pth")
def download(destination: Path) -> None:
    """Fetch the authors' checkpoint (96 MB) to DESTINATION and check its hash."""
    with writing(destination):
        checkpoint.download(destination)
    click.echo(f"{destination}: the authors' checkpoint; use it with `weights` set to this path")


def _save(state: Mapping[str, Tensor], destination: Path, layout: str, config: Config) -> None:
    if destination.suffix != ".safetensors":
        raise click.BadParameter("must end in .safetensors", param_hint="DESTINATION")
    with writing(destination):
        checkpoint.save(state, destination, layout, config)
    click.echo(f"{destination}: {destination.stat().st_size / 1e6:.1f} MB, {layout}")


def _is_parameter(key: str) -> bool:
    return not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
