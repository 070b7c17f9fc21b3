"""Removes the channels of a network that matter least for the work that they cost.

The result is the same network with narrower widths, all multiples of what a tensor core takes at once. So everything
that runs, exports or plans a network does so with a pruned one, without knowing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dain_core.compression.channels import Channels
from dain_core.compression.errors import CompressionError
from dain_core.network.networks import Config, Network, build, kind_of, widths, with_widths
from dain_core.runtime.backends.fused.layers import GROUP


@dataclass(frozen=True)
class Pruning:
    """What is to be removed from a network.

    Attributes:
        config: the configuration of what is left.
        removed: the channels that are removed.
    """

    config: Config
    removed: frozenset[int]


def choose(config: Config, channels: Channels, importance: Mapping[int, float], share: float) -> Pruning:
    """Choose the channels to remove.

    In each step that width becomes narrower which loses the least importance for each multiplication saved. It becomes
    the next smaller multiple of 16, and each of its groups loses its least important channels.

    Args:
        config: the configuration of the network.
        channels: its channels.
        importance: the importance of channels. A width stays if one of its channels has none.
        share: the multiplications to keep, as a share of those of the whole network, 0 to 1.

    Raises:
        CompressionError: with every width at its least, more multiplications are left.
    """
    ranked = _ranked(channels, importance)
    whole, before = channels.macs(), widths(config)
    now = {width: before[width] for width in ranked}

    def macs(changed: Mapping[str, int]) -> float:
        return channels.macs({name: width / before[name] for name, width in {**now, **changed}.items()})

    steps: list[tuple[str, int]] = []  # the width that a step made narrower, and what it was before
    while macs({}) > share * whole:
        costs = {}
        for width, groups in ranked.items():
            smaller = _smaller(now[width])
            if smaller:
                gone, more = before[width] - now[width], before[width] - smaller
                lost = sum(importance[channel] for group in groups for channel in group[gone:more])
                costs[width] = lost / max(macs({}) - macs({width: smaller}), 1e-9)
        if not costs:
            raise CompressionError(
                f"at {GROUP} channels for every width that can be pruned, {macs({}) / whole:.0%} of the "
                f"multiplications are left, not {share:.0%}: choose a larger --keep"
            )
        width = min(costs, key=lambda name: costs[name])
        steps.append((width, now[width]))
        now[width] = _smaller(now[width])
    for width, was in reversed(steps):  # the last step may have saved so much that others need not be
        if _smaller(was) == now[width] and macs({width: was}) <= share * whole:
            now[width] = was
    return _pruning(config, channels, ranked, now)


def choose_widths(
    config: Config, channels: Channels, importance: Mapping[int, float], target: Mapping[str, int]
) -> Pruning:
    """Choose the channels to remove for given widths: the least important ones of each group.

    Args:
        config: the configuration of the network.
        channels: its channels.
        importance: the importance of channels. A width stays if one of its channels has none.
        target: the widths of what is left, by name.

    Raises:
        CompressionError: a width would grow, or it cannot be pruned.
    """
    ranked, before = _ranked(channels, importance), widths(config)
    for width, number in target.items():
        if number > before[width]:
            raise CompressionError(f"{width} cannot be {number}: it is {before[width]} before. Choose less")
        if number < before[width] and width not in ranked:
            raise CompressionError(f"{width} cannot be pruned: leave it at {before[width]}")
    return _pruning(config, channels, ranked, {width: target[width] for width in ranked})


def _pruning(
    config: Config, channels: Channels, ranked: Mapping[str, list[list[int]]], left: Mapping[str, int]
) -> Pruning:
    """Return what is to be removed so that widths are as `left` has them, given the result of `_ranked`."""
    before = widths(config)
    removed = {
        channel
        for width, groups in ranked.items()
        for group in groups
        for channel in group[: before[width] - left[width]]
    }
    return Pruning(with_widths(config, left), frozenset(removed))


def shortened(network: Network, target: Config) -> Network:
    """Return the network with the structure of `target`, but with its own widths: all weights are the network's.

    The first residual blocks of each row are left; flow and depth see the sizes that `target` gives them.

    Raises:
        CompressionError: `target` has parts that the network lacks.
    """
    if type(target) is not type(network.config):
        raise CompressionError(
            f"the widths are those of a {kind_of(target)}, the model is none: choose others"
        )
    own = network.state_dict()
    made = build(with_widths(target, widths(network.config)))
    needed = made.state_dict()
    if lacking := [name for name in needed if name not in own or own[name].shape != needed[name].shape]:
        raise CompressionError(
            f"the model has no {lacking[0]} such as the widths ask for: choose no more residuals or kernels than it "
            "has and no finer flow, and leave matched and rectify_kernel as they are"
        )
    made.load_state_dict({name: own[name] for name in needed})
    return made.to(next(network.parameters()).device).eval()


def _smaller(width: int) -> int:
    """Return the next smaller multiple of 16, or 0."""
    return (width - 1) // GROUP * GROUP


def _ranked(channels: Channels, importance: Mapping[int, float]) -> dict[str, list[list[int]]]:
    """Return for each width that can be pruned the channels of its groups, the least important first."""
    found: dict[str, list[list[int]]] = {}
    stay = set()
    for group in channels.groups:
        if not group.channels <= importance.keys():
            stay.add(group.width)
        else:
            ranked = sorted(group.channels, key=lambda channel: (importance[channel], channel))
            found.setdefault(group.width, []).append(ranked)
    return {width: groups for width, groups in found.items() if width not in stay}


def pruned(network: Network, channels: Channels, pruning: Pruning) -> Network:
    """Return the network without the channels that are removed, on the same device."""
    state: dict[str, Tensor] = {}
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        tensor = tensor.detach().clone()
        for dim, held in channels.dims.get(name, {}).items():
            kept = [index for index, channel in enumerate(held) if channel not in pruning.removed]
            scales = [_scale(held[index], channels, pruning) for index in kept]
            tensor = tensor.index_select(dim, torch.tensor(kept, device=tensor.device))
            if any(scale != 1 for scale in scales):
                shape = [-1 if other == dim else 1 for other in range(tensor.dim())]
                tensor *= torch.tensor(scales, device=tensor.device).view(shape)
        state[name] = tensor
    with torch.device("meta"):
        made = build(pruning.config)
    made.load_state_dict(state, assign=True)
    return made.eval()


def _scale(channel: int, channels: Channels, pruning: Pruning) -> float:
    """Return the factor by which a channel must be multiplied: a mean over fewer channels is greater than it was."""
    over = channels.means.get(channel, ())
    return sum(each not in pruning.removed for each in over) / len(over) if over else 1.0
