"""The depth network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import pool_into, upsample_add_into
from dain_core.network.modules.depth import Both, Inception, fold_batch_norm
from dain_core.runtime.backends.fused.bands import Band
from dain_core.runtime.backends.fused.layers import EIGHT_BITS, SliceConv2d, empty, unit_of
from dain_core.runtime.backends.fused.stem import Stem


class FusedInception(nn.Module):
    """All 1x1 convolutions as one, in a single tensor with what the others make of their results:

    | reduced 1 | reduced 2 | reduced 3 | branch 0 | branch 1 | branch 2 | branch 3 |
    |<--------- written by the 1x1 convolution ---------->|
                                        |<------------ the block's result --------->|

    Args:
        unit, result: what 1 stands for in the input and in the result, if they have eight bits.
    """

    def __init__(
        self, block: Inception, dtype: torch.dtype, unit: float | None = None, result: float | None = None
    ) -> None:
        super().__init__()
        branches = [
            [layer for layer in branch.children() if isinstance(layer, nn.Conv2d)] for branch in block
        ]
        direct, *reduced = (branch[0] for branch in branches)
        firsts = [*reduced, direct]
        merged = nn.Conv2d(direct.in_channels, sum(conv.out_channels for conv in firsts), 1)
        merged.weight.data = torch.cat([conv.weight for conv in firsts])
        merged.bias = nn.Parameter(torch.cat([cast(Tensor, conv.bias) for conv in firsts]))
        units: list[float | None] = [None] * len(reduced)
        between = None
        if result is not None:
            units = [unit_of(branch[1]) for branch in branches[1:]]
            given = zip((*units, result), firsts, strict=True)
            between = torch.tensor([one for one, conv in given for _ in range(conv.out_channels)])
        self.reduce = SliceConv2d(merged, 0.0, dtype, unit=unit, result=between)
        self.convs = nn.ModuleList(
            SliceConv2d(branch[1], 0.0, dtype, unit=own, result=result)
            for branch, own in zip(branches[1:], units, strict=True)
        )
        self.widths = [conv.out_channels for conv in reduced] + [direct.out_channels] * len(branches)
        self.reach = max(branch[1].kernel_size[0] // 2 for branch in branches[1:])

    def forward(self, x: Tensor) -> Tensor:
        whole = empty(x, sum(self.widths))
        count = len(self.convs)
        self.reduce(x, whole[:, : sum(self.widths[: count + 1])])
        slices = whole.split(self.widths, 1)
        for conv, source, target in zip(self.convs, slices[:count], slices[count + 1 :], strict=True):
            conv(source, target)
        return whole[:, sum(self.widths[:count]) :]


class FusedBoth(nn.Module):
    """The sum of a path at the size of its input, and one that runs at half that size and is doubled.

    Args:
        unit, result: what 1 stands for in the input and in the result, if they have eight bits.
    """

    def __init__(
        self, both: Both, dtype: torch.dtype, unit: float | None = None, result: float | None = None
    ) -> None:
        super().__init__()
        fine, coarse = _paths(both)
        self.mean = isinstance(coarse[0], nn.AvgPool2d)
        self.fine = _fuse(fine, dtype, unit, result)
        self.coarse = _fuse(coarse[1:-1], dtype, unit, result)

    def forward(self, x: Tensor) -> Tensor:
        low = self.coarse(self.pooled(x))
        high = self.fine(x)
        upsample_add_into(low, high, False, high)
        return high

    def pooled(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        low = empty(x[:, :, ::2, ::2], x.shape[1]) if out is None else out
        pool_into(x, self.mean, low)
        return low


def _paths(both: Both) -> tuple[list[nn.Module], list[nn.Module]]:
    """The path at the size of the input, and the one that begins with pooling and ends with doubling."""
    first, second = (list(cast(nn.Sequential, path)) for path in both.paths)
    return (first, second) if isinstance(second[-1], nn.Upsample) else (second, first)


def _unit(part: nn.Module) -> float:
    """What 1 stands for in the input of a part, in eight bits."""
    if isinstance(part, Both):
        fine, coarse = _paths(part)
        return max(_unit(fine[0]), _unit(coarse[1]))
    return unit_of(cast(nn.Conv2d, cast(nn.Sequential, cast(Inception, part)[0])[0]))


def _fuse(
    path: Sequence[nn.Module], dtype: torch.dtype, unit: float | None, result: float | None
) -> nn.Sequential:
    """The parts of a path. Each gives what the next one takes."""
    inner = [None if unit is None else _unit(part) for part in path[1:]]
    fused: list[nn.Module] = []
    for part, before, after in zip(path, (unit, *inner), (*inner, result), strict=True):
        kind = FusedBoth if isinstance(part, Both) else FusedInception
        fused.append(kind(part, dtype, before, after))  # type: ignore[arg-type]
    return nn.Sequential(*fused)


class FusedDepth(nn.Module):
    """Log depth (N, 1, H, W), float32, of images (N, 3, H, W).

    The last convolution is linear: it runs on both paths of the outermost sum before they are added, and on the coarse
    one before that is doubled, as four convolutions that give one pixel of each 2x2.

    Args:
        dtype: of the network.
        eight_bits: whether all but the first convolution multiplies eight bits. The network must be calibrated.
    """

    def __init__(self, network: nn.Sequential, dtype: torch.dtype, eight_bits: bool = False) -> None:
        super().__init__()
        fold_batch_norm(network)
        stem, hourglass, head = network[0], cast(Both, network[3]), cast(nn.Conv2d, network[4])
        unit, result = (_unit(hourglass), unit_of(head)) if eight_bits else (None, None)
        self.stem = Stem(cast(nn.Conv2d, stem), dtype, unit)
        dtype = EIGHT_BITS if eight_bits else dtype
        self.hourglass = FusedBoth(hourglass, dtype, unit, result)
        self.fine_head = SliceConv2d(head, 1.0, dtype, wide_output=True, unit=result)
        self.coarse_head = SliceConv2d(_before_doubling(head), 1.0, dtype, wide_output=True, unit=result)
        fine = cast(Iterable[FusedInception], self.hourglass.fine)
        self.reach = head.kernel_size[0] // 2 + sum(block.reach for block in fine)

    def forward(self, image: Tensor, rows: int | None = None) -> Tensor:
        """The log depth; given `rows`, it holds what has many channels at full size for so many rows at a time.

        Args:
            rows: even; then N must be 1 on a GPU, and the first convolution runs twice.
        """
        height = image.shape[2]
        if rows is None or rows >= height:
            x = self.stem(image)
            return self._coarse(self.hourglass.pooled(x)).add_(self._fine(x))
        bands = list(Band.split(height, rows))
        pooled = empty(image[:, :, ::2, ::2], self.stem.out_channels, self.stem.conv.out_dtype)
        for band in bands:
            self.hourglass.pooled(self._stem(image, band), Band(band.top // 2, band.bottom // 2).of(pooled))
        depth = self._coarse(pooled)
        for band in bands:
            seen = band.widened(self.reach, height)
            band.of(depth).add_(band.of(self._fine(self._stem(image, seen)), seen))
        return depth

    def _stem(self, image: Tensor, band: Band) -> Tensor:
        seen = band.widened(self.stem.reach, image.shape[2])
        return band.of(self.stem(seen.of(image)), seen)

    def _coarse(self, pooled: Tensor) -> Tensor:
        return F.pixel_shuffle(self.coarse_head(self.hourglass.coarse(pooled)), 2)

    def _fine(self, x: Tensor) -> Tensor:
        return self.fine_head(self.hourglass.fine(x))


def _before_doubling(conv: nn.Conv2d) -> nn.Conv2d:
    """The 3x3 convolution without its bias, to run before nearest doubling: it gives the pixels of each 2x2."""
    # On which of three neighbours, before doubling, each tap of an even and of an odd pixel falls.
    falls = conv.weight.new_tensor([[[1.0, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
    weight = torch.einsum("aiy,bjx,ocyx->oabcij", falls, falls, conv.weight).flatten(0, 2)
    result = nn.Conv2d(conv.in_channels, len(weight), 3, padding=1, bias=False)
    result.weight.data = weight
    return result
