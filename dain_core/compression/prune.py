"""``dain compress prune``: removes the channels of a model that matter least, and trains what is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from dain_core.compression.channels import trace
from dain_core.compression.distil import Settings, distil, open_footage, quality
from dain_core.compression.importance import importance
from dain_core.compression.quantise import model_called
from dain_core.compression.selection import choose, choose_widths, pruned, shortened
from dain_core.errors import DainCoreError
from dain_core.network.networks import Config, Network, config_from_json, widths
from dain_core.network.refined import RefinedConfig
from dain_core.outputs import check_writable, writing
from dain_core.runtime.backends import Source
from dain_core.runtime.backends.fused import FusedDAIN
from dain_core.runtime.backends.refined import RefinedStages
from dain_core.runtime.devices import named_device
from dain_core.training.resident import Triplets
from dain_core.weights.files import save

#: The share of the multiplications that is left unless another is asked for.
_KEPT = 0.7
#: The number of batches of eight triplets by which networks are compared.
_COMPARED = 4


def prune(
    model: str, out: Path, keep: float | None, wanted: Path | None, data: tuple[Path, ...], measure: str, samples: int,
    minutes: float | None, steps: int | None, batch: int, crop: tuple[int, int], rate: float, layout: str,
    device: str, seed: int, models: Path | None,
) -> None:  # fmt: skip
    """Do what `dain compress prune` says, with its options."""
    check_options(out, crop)
    if keep is not None and wanted is not None:
        raise click.UsageError("--keep and --widths exclude each other: leave one of them out")
    target = None if wanted is None else _read_widths(wanted)
    try:
        place = named_device(device)
        whole = Source(model_called(model, models)).network().to(place).eval()
        footage = open_footage(data, crop, place, seed)
        known = [footage(1) for _ in range(samples)]
        small = (
            _pruned(whole, _KEPT if keep is None else keep, measure, known)
            if target is None
            else _narrowed(whole, target, measure, known)
        )
    except (DainCoreError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    compared = [footage(8) for _ in range(_COMPARED)]
    figures = {"before": quality(whole, compared), "pruned": quality(small, compared)}
    _show(whole.config, small.config)
    settings = Settings(10.0 if minutes is None and steps is None else minutes, steps, batch, rate)
    if steps != 0 and minutes != 0:
        distil(small, whole, footage, settings, _report)
        figures["trained"] = quality(small, compared)
    with writing(out):
        save({name: value.cpu() for name, value in small.state_dict().items()}, out, layout, small.config)
    text = ", ".join(f"{name} {value:.2f} dB" for name, value in figures.items())
    click.echo(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {layout}; {text} on {8 * _COMPARED} triplets of the data"
    )
    click.echo(kernels(small.config, place))


def _pruned(whole: Network, keep: float, measure: str, known: Sequence[Triplets]) -> Network:
    """Return the network with a share of its multiplications."""
    channels = trace(whole.config)
    pruning = choose(whole.config, channels, importance(whole, channels, measure, known), keep)
    return pruned(whole, channels, pruning)


def _narrowed(whole: Network, target: Config, measure: str, known: Sequence[Triplets]) -> Network:
    """Return the network of the configuration `target`, with the most important channels of the network `whole`.

    Args:
        measure, known: see `importance`.

    Raises:
        CompressionError: the network lacks what `target` has.
    """
    whole = shortened(whole, target)
    channels = trace(whole.config)
    ranks = importance(whole, channels, measure, known)
    return pruned(whole, channels, choose_widths(whole.config, channels, ranks, widths(target)))


def _read_widths(path: Path) -> Config:
    """Read the configuration of a network."""
    try:
        return config_from_json(path.read_text())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path} holds no widths of a network: {error}") from error


def check_options(out: Path, crop: tuple[int, int]) -> None:
    """Refuse before the work what would be refused after it."""
    if out.suffix != ".safetensors":
        raise click.BadParameter("must end in .safetensors", param_hint="OUT")
    if any(side % 64 for side in crop):
        raise click.BadParameter(
            f"{crop[0]} {crop[1]}: both sides must be multiples of 64", param_hint="--crop"
        )
    check_writable(out)


def _report(progress: float, psnr: float) -> None:
    click.echo(f"trained {progress:.0%}, {psnr:.2f} dB", err=True)


def _show(before: Config, after: Config) -> None:
    share = trace(after).macs() / trace(before).macs()
    click.echo(f"{share:.0%} of the multiplications are left")
    table = Table("part", "before", "after")
    left = dict(_numbers(asdict(after)))
    for name, number in _numbers(asdict(before)):
        if left[name] != number:
            table.add_row(name, str(number), str(left[name]))
    Console().print(table)


def _numbers(part: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Give the numbers of a configuration by name, such as "refine.2" or "base.flow_scale"."""
    if isinstance(part, int):
        yield name, part
        return
    for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
        yield from _numbers(inner, f"{name}.{key}".lstrip("."))


def kernels(config: Config, device: torch.device) -> str:
    """Return a sentence on whether GPUs run a network by the fused kernels."""
    stages = RefinedStages if isinstance(config, RefinedConfig) else FusedDAIN
    if stages.supports(config, device):  # type: ignore[arg-type]
        return "GPUs of compute capability 8.0 and up run it by the fused kernels."
    return (
        "No GPU runs it by the fused kernels, because a width is no multiple of 16: PyTorch runs it, slower."
    )
