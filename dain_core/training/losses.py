"""The losses of frames, flow and depth. All of them compute in float32, whatever the dtype of their arguments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.network.modules.layers import upsample

#: The weights of the levels of the flow, from 1/64 of the frame's size to the full size.
LEVEL_WEIGHTS = (0.2, 0.2, 0.25, 0.4, 1.0)

_PYRAMID_LEVELS = 4
_GRADIENT_SCALES = (1, 2, 4, 8)


def charbonnier(difference: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Return the mean of sqrt(x² + epsilon²): an L1 norm that is smooth at zero (Charbonnier et al., ICIP 1994)."""
    return (difference.float().square() + epsilon**2).sqrt().mean()


def log_error(difference: Tensor) -> Tensor:
    """Return the mean over images (N, C, H, W) of the logarithm of their squared error.

    This loss is PSNR except for its sign and a factor. An image that is nearly right therefore has as large a gradient
    as an image that is far off. A constant limits the gain from about 57 dB on.
    """
    return (difference.float().square().mean((1, 2, 3)) + 2e-6).log().mean()


def laplacian(difference: Tensor) -> Tensor:
    """Return the weighted sum of `charbonnier` over the Laplacian pyramid of a difference of images (N, C, H, W).

    A band weighs twice as much as the next finer band, because errors of low frequency are rarer. The sum is divided
    by the weight of the coarsest band.
    """
    rest, total = difference.float(), torch.zeros((), device=difference.device)
    for level in range(_PYRAMID_LEVELS):
        low = F.avg_pool2d(rest, 2)
        band = rest - upsample(low, 2)
        total = total + 2**level * charbonnier(band)
        rest = low
    return (total + 2**_PYRAMID_LEVELS * charbonnier(rest)) / 2**_PYRAMID_LEVELS


def photometric(made: Tensor, truth: Tensor) -> Tensor:
    """Return the error of frames (N, 3, H, W): that of their pixels, and that of their Laplacian pyramids."""
    difference = made.float() - truth
    return charbonnier(difference) + 0.5 * laplacian(difference)


def census(image: Tensor, truth: Tensor) -> Tensor:
    """Return how much the ranks of pixels among their 7 x 7 neighbours differ (soft census; Meister et al., AAAI 2018).

    This loss compares structure and ignores changes of brightness.

    Args:
        image, truth: (N, 3, H, W), RGB in [0, 1].
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
    """Return the robust multi-level loss of PWC-Net (section 4), and the end-point error at full size.

    Args:
        levels: the flow from coarse to fine, (N, 2, h, w) each, in pixels, as `DAIN.flow_levels` returns it. The last
            level is enlarged to full size before it is compared.
        truth: the true flow, (N, 2, H, W), in pixels. It is NaN where it is unknown; such a pixel adds nothing. The
            loss is still a mean over all pixels and triplets, so that the losses of parts of a batch have the loss of
            the whole batch as their mean.
        slack: the accuracy of the truth, (N,), in pixels. Errors up to it count as zero.
        power: the exponent of the end-point error. Small errors count more beside large ones if it is small.

    Returns:
        The loss, a scalar; and the mean end-point error of each triplet, (N,), in pixels, without gradient. The error
        is NaN for a triplet whose flow is unknown everywhere.
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
    # The constant keeps the gradient of the root finite at zero.
    return ((flow - truth).square().sum(1) + 1e-4).sqrt()


def _robust(error: Tensor, known: Tensor, slack: Tensor, power: float) -> Tensor:
    beyond = F.relu(error - slack.view(-1, 1, 1))
    return ((beyond + 0.05).pow(power) * known[:, 0]).mean()


def depth_error(log_depth: Tensor, truth: Tensor, supervised: Tensor) -> Tensor:
    """Return the error of log depth, a scalar.

    The loss adds the mean error up to a factor of the depth, a quarter of the mean error with that factor, and the
    error of the gradients at several scales.

    Args:
        log_depth: the estimate, (N, 1, H, W).
        truth: the true depth, (N, 1, H, W), positive, not its logarithm.
        supervised: (N,), bool. Where it is False the truth is unknown, and the triplet adds nothing.
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


@torch.no_grad()
def psnr(made: Tensor, truth: Tensor) -> Tensor:
    """Return the mean PSNR in dB over images (N, 3, H, W)."""
    error = (made.detach().float().clamp(0, 1) - truth).square().mean((1, 2, 3))
    return (-10 * (error + 1e-8).log10()).mean()
