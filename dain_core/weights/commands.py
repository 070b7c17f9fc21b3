"""The commands of ``dain weights``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from torch import Tensor

from dain_core.network.networks import Config
from dain_core.outputs import writing
from dain_core.weights import files as checkpoint


def list_weights() -> None:
    """Do what `dain weights list` says, with its options."""
    for name, digest in checkpoint.SHIPPED.items():
        path = checkpoint.shipped_path(name)
        size = f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "missing"
        click.echo(f"{name}\t{size}\tsha256 {digest}\t{path}")


def verify(source: str, model: str | None) -> None:
    """Do what `dain weights verify` says, with its options."""
    state = checkpoint.load_weights(source, _config(source, model))
    parameters = sum(value.numel() for key, value in state.items() if _is_parameter(key))
    click.echo(f"{source}: good, {len(state)} tensors, {parameters:,} parameters")


def convert(source: str, destination: Path, layout: str, model: str | None) -> None:
    """Do what `dain weights convert` says, with its options."""
    config = _config(source, model)
    _save(checkpoint.load_weights(source, config), destination, layout, config)


def mean(sources: Sequence[tuple[str, float]], destination: Path, layout: str, model: str | None) -> None:
    """Do what `dain weights mean` says, with its options."""
    config = _config(sources[0][0], model)
    states = [(checkpoint.load_weights(source, config), share) for source, share in sources]
    _save(checkpoint.mean(states), destination, layout, config)


def download(destination: Path) -> None:
    """Do what `dain weights download` says, with its options."""
    with writing(destination):
        checkpoint.download(destination)
    click.echo(f"{destination}: the authors' checkpoint; use it with `weights` set to this path")


def _config(source: str, model: str | None) -> Config:
    return checkpoint.config_of(source) if model is None else checkpoint.config_for(source, model)


def _save(state: Mapping[str, Tensor], destination: Path, layout: str, config: Config) -> None:
    if destination.suffix != ".safetensors":
        raise click.BadParameter("must end in .safetensors", param_hint="DESTINATION")
    with writing(destination):
        checkpoint.save(state, destination, layout, config)
    click.echo(f"{destination}: {destination.stat().st_size / 1e6:.1f} MB, {layout}")


def _is_parameter(key: str) -> bool:
    return not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
