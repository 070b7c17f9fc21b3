"""Depth from a single image: the hourglass of inception blocks of Chen et al. (NIPS 2016), as MegaDepth uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from dain_core.network.modules.layers import FullPrecisionConv2d, downsample, upsample
from dain_core.network.padding import Padding

#: The sides of an image are multiples of this number, because the network halves them four times.
DEPTH_MULTIPLE = 16

_SMALL = (3, 5, 7)
_LARGE = (3, 7, 11)


def _conv(in_channels: int, out_channels: int, kernel: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2),
        nn.BatchNorm2d(out_channels, affine=False),
        nn.ReLU(inplace=True),
    )


class Inception(nn.ModuleList):
    """Four branches of `width` channels. One is a 1x1 convolution.

    Each of the others is a 1x1 convolution to `middle` channels, and then a k x k convolution with one of `kernels`.
    """

    def __init__(self, in_channels: int, width: int, middle: int, kernels: Sequence[int]) -> None:
        super().__init__([nn.Sequential(*_conv(in_channels, width, 1))])
        for kernel in kernels:
            self.append(nn.Sequential(*_conv(in_channels, middle, 1), *_conv(middle, width, kernel)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


class Both(nn.Module):
    """The sum of two paths."""

    def __init__(self, first: Sequence[nn.Module], second: Sequence[nn.Module]) -> None:
        super().__init__()
        self.paths = nn.ModuleList((nn.Sequential(*first), nn.Sequential(*second)))

    def forward(self, x: Tensor) -> Tensor:
        return self.paths[0](x) + self.paths[1](x)


def _hourglass(stem: int, widths: Sequence[int], narrow: int, wide: int) -> Both:
    """Make four nested levels. A level adds the results of a path at half its size and of a path at its own size."""
    full, half, deep = (4 * width for width in widths)
    to_full, to_half, to_deep = widths
    up = nn.UpsamplingNearest2d(scale_factor=2)

    def plain() -> Inception:
        return Inception(deep, to_deep, narrow, _SMALL)

    def broad() -> Inception:
        return Inception(deep, to_deep, wide, _LARGE)

    eighth = Both([plain(), plain()], [nn.AvgPool2d(2), plain(), plain(), plain(), up])
    quarter = Both(
        [plain(), broad()],
        [nn.AvgPool2d(2), plain(), plain(), eighth, plain(), broad(), up],
    )
    second = Both(
        [
            nn.MaxPool2d(2),
            Inception(half, to_half, narrow, _SMALL),
            Inception(half, to_deep, narrow, _SMALL),
            quarter,
            plain(),
            Inception(deep, to_half, narrow, _SMALL),
            up,
        ],
        [Inception(half, to_half, narrow, _SMALL), Inception(half, to_half, wide, _LARGE)],
    )
    return Both(
        [
            nn.MaxPool2d(2),
            Inception(stem, to_half, narrow, _SMALL),
            Inception(half, to_half, narrow, _SMALL),
            second,
            Inception(half, to_half, wide, _SMALL),
            Inception(half, to_full, narrow, _LARGE),
            up,
        ],
        [Inception(stem, to_full, wide, _LARGE)],
    )


def depth_of(network: Callable[[Tensor], Tensor], images: Tensor, scale: int) -> Tensor:
    """Return the log depth, (N, 1, H, W), of images of any size.

    Args:
        network: a depth network, which takes images whose sides are multiples of `DEPTH_MULTIPLE`.
        images: (N, 3, H, W), in [0, 1].
        scale: the whole factor by which the images are shrunk for the network.
    """
    padding = Padding.of(images, DEPTH_MULTIPLE * scale)
    return padding.remove(upsample(network(downsample(padding.add(images), scale)), scale))


class DepthNetwork(nn.Sequential):
    """Estimates the log depth, (N, 1, H, W), float32, of images (N, 3, H, W) in [0, 1].

    Args:
        stem: the width of the first convolution.
        widths: the widths of an inception branch at full size, at half size and at any smaller size. A block has four
            branches.
        narrow, wide: the two possible numbers of channels between the 1x1 and the k x k convolution of a branch.
    """

    def __init__(self, stem: int, widths: Sequence[int], narrow: int, wide: int) -> None:
        super().__init__(
            nn.Conv2d(3, stem, 7, padding=3),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
            _hourglass(stem, widths, narrow, wide),
            FullPrecisionConv2d(4 * widths[0], 1, 3, padding=1),
        )


def fold_batch_norm(network: nn.Module) -> None:
    """Fold every BatchNorm of `network`, which is in evaluation mode, into the convolution before it, in place."""
    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for index, layer in enumerate(sequence):
            if isinstance(layer, nn.BatchNorm2d):
                convolution = sequence[index - 1]
                assert isinstance(convolution, nn.Conv2d)
                sequence[index - 1] = fuse_conv_bn_eval(convolution, layer)
                sequence[index] = nn.Identity()
