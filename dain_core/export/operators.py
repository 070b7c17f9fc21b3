"""The operators of `cuda_ext` in operators that ONNX knows, of any size: what an exported graph has in their place.

`cuda_ext.ops` documents them; tests compare each with `cuda_ext.reference`. They are written for TensorRT, too: sums
by ScatterElements, because its ScatterND does not add, and running sums in float32, because it has none of integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cuda_ext import reference
from cuda_ext.reference import DISPLACEMENT


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Multiply the first map with the second one, shifted by each displacement: a row of displacements at a time."""
    height, width = first.shape[2:]
    ours, theirs = first.float()[:, None], F.pad(second.float(), (DISPLACEMENT,) * 4)
    shifts = range(2 * DISPLACEMENT + 1)
    across = torch.stack([theirs[..., x : x + width] for x in shifts], 1)
    matches = [(ours * across[..., y : y + height, :]).mean(2) for y in shifts]
    return torch.cat(matches, 1).to(first.dtype)


def _ends(flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the flow of each pixel ends, x and y, and whether that is inside the frame: (N, 1, H, W) each."""
    height, width = flow.shape[2:]
    x = torch.arange(width, dtype=flow.dtype) + flow[:, :1]
    y = torch.arange(height, dtype=flow.dtype)[:, None] + flow[:, 1:]
    return x, y, (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)


def flow_projection(flow: Tensor, weight: Tensor, fill_holes: bool) -> Tensor:
    """Add what each pixel gives to its four targets, and fill the holes from what lies around them."""
    n, _, height, width = flow.shape
    x, y, inside = _ends(flow)
    left, top = (torch.where(inside, end, 0).long() for end in (x, y))
    right = torch.where(left + 1 < width, left + 1, left)
    bottom = torch.where(top + 1 < height, top + 1, top)
    given = torch.where(inside, torch.cat((-weight * flow, weight), 1), 0).flatten(2)
    sums = torch.zeros_like(given)
    for row in (top, bottom):
        for column in (left, right):
            target = (row * width + column).flatten(2)
            sums = sums.scatter_add(2, target.expand_as(given), given)
    total, mass = sums.view(n, 3, height, width).split((2, 1), 1)
    known = mass > 0
    mean = torch.where(known, total / mass, 0)
    if not fill_holes:
        return mean
    found = torch.cat((mean, known.to(mean.dtype)), 1)
    around = _nearest(found, known, 2) + _nearest(found, known, 3)
    return torch.where(known, mean, around[:, :2] / around[:, 2:].clamp(min=1))


def _nearest(values: Tensor, known: Tensor, dim: int) -> Tensor:
    """Return the sum of the nearest known values before and after each hole along `dim`; zero stands for none.

    The known values of a line move to the slots 1, 2, ... of a longer line. As many values are known before a hole as
    the number of the slot of the last of them says; the next slot has the first one after the hole. The other slots
    hold zeros, but for the last, which takes what is not known and is not read.
    """
    size = values.shape[dim]
    rank = known.float().cumsum(dim).long()
    slot = torch.where(known, rank, size + 2)
    shape = list(values.shape)
    shape[dim] = size + 3
    slots = values.new_zeros(shape).scatter(dim, slot.expand_as(values), values)
    before = rank.expand_as(values)
    return slots.gather(dim, before) + slots.gather(dim, before + 1)


def adaptive_warp(image: Tensor, flow: Tensor, kernel: Tensor) -> Tensor:
    """Gather the 16 taps of every pixel from the image with its border repeated, and add them up by their weights."""
    n, channels, height, width = image.shape
    x, y, inside = _ends(flow)
    valid = inside & (flow[:, :1].abs() < width / 2) & (flow[:, 1:].abs() < height / 2)
    x = torch.where(valid, x, torch.arange(width, dtype=flow.dtype))
    y = torch.where(valid, y, torch.arange(height, dtype=flow.dtype)[:, None])
    left, top = x.long(), y.long()
    right_share, lower_share = x - left, y - top
    columns, rows = (1 - right_share, right_share), (1 - lower_share, lower_share)

    pixels = (
        F.pad(image.to(flow.dtype), (1, 2, 1, 2), mode="replicate").permute(0, 2, 3, 1).reshape(-1, channels)
    )
    start = torch.arange(n)[:, None, None, None] * (height + 3) + top
    start = (start * (width + 3) + left).flatten()
    result = torch.zeros((), dtype=flow.dtype)
    for tap, taps in enumerate(kernel.to(flow.dtype).split(1, 1)):
        row, column = divmod(tap, 4)
        own = 1.0 if row == column == 1 else 0.0  # the pixel itself, which is copied where there is no warp
        weight = torch.where(valid, rows[row // 2] * columns[column // 2] * taps, own)
        result = result + pixels[start + (row * (width + 3) + column)] * weight.reshape(-1, 1)
    return result.view(n, height, width, channels).permute(0, 3, 1, 2).to(image.dtype)


_STANDARD: Mapping[Any, Callable[..., Tensor]] = {
    torch.ops.dain.correlation: correlation,
    torch.ops.dain.flow_projection: flow_projection,
    torch.ops.dain.adaptive_warp: adaptive_warp,
    torch.ops.dain.sample: reference.sample,  # GridSample does what it does
}


class StandardOperators(TorchFunctionMode):
    """Within this, networks run the operators of this module in place of those of `cuda_ext`."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _STANDARD.get(func, func)(*args, **(kwargs or {}))
