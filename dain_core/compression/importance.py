"""Measures how much the result of a network depends on each of its channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dain_core.compression.channels import Channels, Group
from dain_core.network.networks import Network
from dain_core.network.refined import RefinedDAIN
from dain_core.training.losses import photometric
from dain_core.training.refined import PARTS
from dain_core.training.resident import Triplets

#: The measures of importance: the first-order and the second-order term of the Taylor series of the loss in a factor of
#: the channel (Molchanov et al., ICLR 2017; Theis et al., 2018), and the size of the weights that make the channel (Li
#: et al., ICLR 2017).
MEASURES = ("first", "second", "weight")


def learned(network: Network) -> list[str]:
    """Return the names of the weights that learn from a frame.

    In a `RefinedDAIN` flow and depth do not, because its projection has no gradient. The last layer that enlarges flow
    is part of the official checkpoint, but nothing uses it.
    """
    parts = PARTS if isinstance(network, RefinedDAIN) else ("flow", "depth", "context", "kernels", "rectify")
    names = [name for name, _ in network.named_parameters() if name.partition(".")[0] in parts]
    return [name for name in names if not name.startswith("flow.up_flow.4.")]


def importance(
    network: Network, channels: Channels, measure: str, triplets: Iterable[Triplets]
) -> dict[int, float]:
    """Return the importance of the channels that can be removed and made up for by learning.

    For each triplet the derivative of the loss by a factor on the channel, where it is made, is the sum of the weights
    that make it, each multiplied by its gradient. "first" is the mean of its size. "second" is half the mean of its
    square, which is the rise of the loss without the channel, if the network is at a minimum and the Hessian is the
    Fisher information.

    Args:
        network: the network, in float32. Its gradients are changed.
        channels: the channels of the network.
        measure: one of `MEASURES`.
        triplets: batches of one triplet each. "weight" takes none.
    """
    names = set(learned(network))
    groups = [group for group in channels.groups if names.issuperset(group.makers)]
    weights = dict(network.named_parameters())
    if measure == "weight":
        return _sizes(groups, channels, weights)
    network.eval().requires_grad_(False)
    for name in names:
        weights[name].requires_grad_(True)
    sums: dict[int, float] = {channel: 0.0 for group in groups for channel in group.channels}
    count = 0
    for batch in triplets:
        network.zero_grad(set_to_none=True)
        loss = photometric(network(batch.first, batch.last, batch.time).output, batch.middle)
        loss.backward()
        for group in groups:
            for channel, value in _derivatives(group, channels, weights).items():
                sums[channel] += abs(value) if measure == "first" else value * value / 2
        count += 1
    network.zero_grad(set_to_none=True)
    return {channel: total / count for channel, total in sums.items()}


def _derivatives(group: Group, channels: Channels, weights: Mapping[str, Tensor]) -> dict[int, float]:
    """Return for each channel of a group the derivative of the loss by a factor on it."""
    found = dict.fromkeys(group.channels, 0.0)
    for maker in group.makers:
        for name in (maker, maker.removesuffix("weight") + "bias"):
            weight = weights.get(name)
            if weight is None or weight.grad is None:
                continue
            dim, made = _outputs(group, channels.dims[name])
            others = [other for other in range(weight.dim()) if other != dim]
            products = (weight * weight.grad).detach()
            each = products.sum(others) if others else products
            for channel, value in zip(made, each.tolist(), strict=True):
                found[channel] += value
    return found


def _sizes(groups: Iterable[Group], channels: Channels, weights: Mapping[str, Tensor]) -> dict[int, float]:
    """Return the sum of the sizes of the weights that make each channel, relative to the mean of its group."""
    found: dict[int, float] = {}
    for group in groups:
        sizes = dict.fromkeys(group.channels, 0.0)
        for maker in group.makers:
            dim, made = _outputs(group, channels.dims[maker])
            others = [other for other in range(4) if other != dim]
            for channel, value in zip(made, weights[maker].detach().abs().sum(others).tolist(), strict=True):
                sizes[channel] += value
        mean = max(sum(sizes.values()) / len(sizes), torch.finfo(torch.float32).tiny)
        found |= {channel: size / mean for channel, size in sizes.items()}
    return found


def _outputs(group: Group, dims: Mapping[int, Sequence[int]]) -> tuple[int, Sequence[int]]:
    """Return the dimension of a weight along which the channels of a group lie, and the channels in its order."""
    return next((dim, made) for dim, made in dims.items() if group.channels == set(made))
