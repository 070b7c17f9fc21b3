"""What a frame, a flow and a depth are compared by. Every loss is computed in float32, whatever it is given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.network.modules.layers import upsample

#: Of the flow's levels, from 1/64 of the frame's size to the full one.
LEVEL_WEIGHTS = (0.2, 0.2, 0.25, 0.4, 1.0)

_PYRAMID_LEVELS = 4
_GRADIENT_SCALES = (1, 2, 4, 8)


def charbonnier(difference: Tensor, epsilon: float = 1e-3) -> Tensor:
    """The mean of sqrt(x² + epsilon²): the L1 norm, smooth at zero (Charbonnier et al., ICIP 1994)."""
    return (difference.float().square() + epsilon**2).sqrt().mean()


def log_error(difference: Tensor) -> Tensor:
    """The mean over images (N, C, H, W) of the logarithm of their squared error: PSNR, but for its sign and a factor.

    Beside the other losses it makes what is nearly right worth as much to better as what is far off. From 57 dB on
    there is little more to win.
    """
    return (difference.float().square().mean((1, 2, 3)) + 2e-6).log().mean()


def laplacian(difference: Tensor) -> Tensor:
    """`charbonnier` of each band of the Laplacian pyramid of a difference of images (N, C, H, W).

    A band counts twice as much as the finer one, since errors of low frequency are fewer; the sum is divided by the
    weight of the coarsest.
    """
    rest, total = difference.float(), torch.zeros((), device=difference.device)
    for level in range(_PYRAMID_LEVELS):
        low = F.avg_pool2d(rest, 2)
        band = rest - upsample(low, 2)
        total = total + 2**level * charbonnier(band)
        rest = low
    return (total + 2**_PYRAMID_LEVELS * charbonnier(rest)) / 2**_PYRAMID_LEVELS


def census(image: Tensor, truth: Tensor) -> Tensor:
    """How differently pixels rank among their 7 x 7 neighbours (soft census; Meister et al., AAAI 2018).

    It sees structure where a change of brightness hides it. Images (N, 3, H, W) in [0, 1].
    """
    difference = _ternary(image) - _ternary(truth)
    distance = difference.square()
    return (distance / (0.1 + distance)).mean()


def _ternary(image: Tensor) -> Tensor:
    grey = 255 * image.float().mean(1, keepdim=True)
    n, _, h, w = grey.shape
    neighbours = F.unfold(grey, 7, padding=3).view(n, 49, h, w)
    difference = neighbours - grey
    return difference / (0.81 + difference.square()).sqrt()


def flow_error(
    levels: Sequence[Tensor], truth: Tensor, slack: Tensor, power: float = 0.75
) -> tuple[Tensor, Tensor]:
    """The robust multi-level loss of PWC-Net (section 4), and the end-point error of its full size.

    Args:
        levels: flow in pixels from coarse to fine, (N, 2, h, w), as `DAIN.flow_levels` gives it. The last counts at
            full size.
        truth: (N, 2, H, W), in pixels. Where it is NaN it is not known, and nothing is added. The loss is a mean over
            all pixels and samples all the same, so that parts of a batch average to the whole.
        slack: (N,), in pixels: errors up to it are none. How exactly the truth is known.
        power: of the end-point error: the smaller, the more small errors count beside large ones.

    Returns:
        The loss, a scalar; and the mean end-point error of each sample in pixels, (N,), without gradient; NaN where
        nothing of it is known.
    """
    *coarse, finest = (flow.float() for flow in levels)
    scale = truth.shape[-1] // finest.shape[-1]
    sides = [truth.shape[-1] // flow.shape[-1] for flow in coarse]
    known = truth.isfinite().all(1, keepdim=True).float()
    truth = torch.where(known > 0, truth, 0)
    total = torch.zeros((), device=truth.device)
    for weight, flow, side in zip(LEVEL_WEIGHTS, coarse, sides, strict=False):
        share = F.avg_pool2d(known, side)
        mean = F.avg_pool2d(truth, side) / share.clamp(min=0.5)
        total = total + weight * _robust(_end_point(flow, mean), share >= 0.5, slack, power)
    error = _end_point(upsample(finest, scale), truth)
    total = total + LEVEL_WEIGHTS[-1] * _robust(error, known > 0, slack, power)
    return total, (error.detach() * known[:, 0]).sum((1, 2)) / known.sum((1, 2, 3))


def _end_point(flow: Tensor, truth: Tensor) -> Tensor:
    # A root has no gradient at zero, hence the constant.
    return ((flow - truth).square().sum(1) + 1e-4).sqrt()


def _robust(error: Tensor, known: Tensor, slack: Tensor, power: float) -> Tensor:
    beyond = F.relu(error - slack.view(-1, 1, 1))
    return ((beyond + 0.05).pow(power) * known[:, 0]).mean()


def depth_error(log_depth: Tensor, truth: Tensor, supervised: Tensor) -> Tensor:
    """How far depth is off, mostly up to a factor: that, a bit of the factor, and gradients at several scales.

    Args:
        log_depth: (N, 1, H, W), predicted.
        truth: (N, 1, H, W), the depth, positive.
        supervised: (N,), as in `flow_error`.
    """
    difference = log_depth.float() - truth.float().clamp(min=1e-3).log()
    factor = difference.flatten(1).median(1).values.view(-1, 1, 1, 1)
    error = (difference - factor).abs().mean((1, 2, 3)) + 0.25 * difference.abs().mean((1, 2, 3))
    for scale in _GRADIENT_SCALES:
        smooth = F.avg_pool2d(difference, scale)
        across = smooth.diff(dim=3).abs().mean((1, 2, 3))
        down = smooth.diff(dim=2).abs().mean((1, 2, 3))
        error = error + 0.5 * (across + down)
    return (error * supervised.float()).mean()
