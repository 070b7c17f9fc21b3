"""Measures how close images are to true images. All images are (N, C, H, W), in [0, 1]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr(image: Tensor, truth: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB; infinity for equal images."""
    error = float(F.mse_loss(image.double(), truth.double()))
    return -10 * math.log10(error) if error > 0 else math.inf


def ssim(image: Tensor, truth: Tensor) -> float:
    """Return the structural similarity (Wang et al., 2004) with an 11x11 Gaussian of sigma 1.5, the mean over channels.

    Raises:
        ValueError: an image is smaller than 11x11 pixels.
    """
    if min(image.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM needs at least {_WINDOW}x{_WINDOW} pixels, got {tuple(image.shape[-2:])}")
    first, second = (x.double().flatten(0, 1)[:, None] for x in (image, truth))
    mean_1, mean_2 = _blur(first), _blur(second)
    variance_1 = _blur(first * first) - mean_1 * mean_1
    variance_2 = _blur(second * second) - mean_2 * mean_2
    covariance = _blur(first * second) - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + _C1) / (mean_1 * mean_1 + mean_2 * mean_2 + _C1)
    structure = (2 * covariance + _C2) / (variance_1 + variance_2 + _C2)
    return float((luminance * structure).mean())


def interpolation_error(image: Tensor, truth: Tensor) -> float:
    """Return the root-mean-square difference in 8-bit levels, as the Middlebury benchmark defines it."""
    return 255 * math.sqrt(float(F.mse_loss(image.double(), truth.double())))


def _blur(x: Tensor) -> Tensor:
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
