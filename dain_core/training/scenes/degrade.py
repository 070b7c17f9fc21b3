"""Degrades batches of frames as cameras and codecs do. Frames are (N, 3 colours, T frames, H, W) in [0, 1]."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.training.scenes.motion import Array


def soften(frames: Tensor, amount: Tensor) -> Tensor:
    """Blend `frames` with a copy that is blurred by a little over one pixel.

    Args:
        frames: (N, 3, T, H, W).
        amount: the share of the blurred copy, (N,), 0 to 1.
    """
    planes = frames.flatten(1, 2)
    blurred = F.avg_pool2d(
        F.avg_pool2d(planes, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False
    )
    return torch.lerp(planes, blurred, amount.view(-1, 1, 1, 1)).view_as(frames)


def compress(frames: Tensor, step: Tensor) -> Tensor:
    """Degrade `frames` as a codec does: halve the resolution of colour, and quantise blocks of 8x8 pixels.

    Args:
        frames: (N, 3, T, H, W); H and W are multiples of 16.
        step: the quantisation step of the mean of a block, (N,), as a share of the range. Steps grow with the
            frequency.
    """
    n, _, times, height, width = frames.shape
    red, green, blue = frames.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([(blue - luma) * 0.564, (red - luma) * 0.713], 1).flatten(1, 2)
    chroma = F.interpolate(F.avg_pool2d(chroma, 2), scale_factor=2, mode="bilinear", align_corners=False)
    planes = torch.stack([luma, *chroma.view(n, 2, times, height, width).unbind(1)], 1)
    waves = _cosines(frames.device)
    # The blocks are (..., 8, 8), so that one batched product transforms all of them.
    blocks = planes.view(n, 3, times, height // 8, 8, width // 8, 8).transpose(-2, -3)
    spectrum = waves @ blocks @ waves.T
    frequency = torch.arange(8, device=frames.device)
    coarser = 1 + 0.35 * (frequency[:, None] + frequency)
    plane = torch.tensor([1, 1.6, 1.6], device=frames.device).view(3, 1, 1, 1, 1, 1)
    quantum = step.view(-1, 1, 1, 1, 1, 1, 1) * plane * coarser
    blocks = waves.T @ ((spectrum / quantum).round() * quantum) @ waves
    luma, bluish, reddish = blocks.transpose(-2, -3).reshape(n, 3, times, height, width).unbind(1)
    red, blue = luma + reddish / 0.713, luma + bluish / 0.564
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return torch.stack([red, green, blue], 1)


def _cosines(device: torch.device) -> Tensor:
    """Return the waves of the discrete cosine transform, (8, 8), orthonormal."""
    k = torch.arange(8, device=device, dtype=torch.float32)
    waves = torch.cos((2 * k + 1) * k[:, None] * (math.pi / 16)) * 0.5
    waves[0] *= 0.5**0.5
    return waves


def degrade(
    frames: Tensor, times: Array, calm: Array, rng: np.random.Generator, generator: torch.Generator
) -> Tensor:
    """Give clean frames the look of a video. The frames of a scene change alike, but the middle frame gets no noise.

    Args:
        frames: (N, 3, 3, H, W), in the order first, last, middle; changed in place.
        times: the times of the frames, (N, 3).
        calm: (N,), bool: whether nearly nothing moves in the scene. Such a scene gets noise more often.
        rng: the source of the random numbers of scenes.
        generator: the source of the noise, on the device of the frames.

    Returns:
        The degraded frames.
    """
    n = len(frames)

    def column(values: Array) -> Tensor:
        return torch.from_numpy(values).float().view(-1, 1, 1, 1, 1).to(frames.device, non_blocking=True)

    def sometimes(share: float | Array, low: float, high: float) -> Array:
        return np.where(rng.random(n) < share, rng.uniform(low, high, n), 0)

    grey = frames.mean(1, keepdim=True)
    frames = torch.lerp(grey, frames, column(rng.uniform(0.6, 1.4, n))).clamp_(0, 1)
    frames = frames.add_(1e-4).pow_(column(np.exp(rng.uniform(-0.4, 0.4, n))))
    contrast = rng.uniform(0.8, 1.15, n)
    lighter = 1 + sometimes(0.12, -0.12, 0.12)[:, None] * (times - 0.5)
    shade = torch.from_numpy(lighter).float().view(n, 1, -1, 1, 1).to(frames.device, non_blocking=True)
    frames = frames.sub_(0.5).mul_(column(contrast)).add_(column(0.5 + rng.uniform(-0.08, 0.08, n)))
    frames = soften(frames.mul_(shade).clamp_(0, 1), column(sometimes(0.45, 0.1, 1)))

    lossy = np.flatnonzero(rng.random(n) < 0.35)
    if len(lossy):
        chosen = torch.from_numpy(lossy).to(frames.device)
        step = torch.from_numpy(0.008 * np.exp(rng.uniform(0, 2.2, len(lossy)))).float().to(frames.device)
        frames[chosen] = compress(frames[chosen], step)

    sigma = column((rng.random(n) < np.where(calm, 0.8, 0.35)) * np.exp(rng.uniform(-6, -3.7, n)))
    noise = torch.randn(frames[:, :, :2].shape, generator=generator, device=frames.device)
    grain = F.avg_pool2d(noise.flatten(1, 2), 3, 1, 1).mul_(3).view_as(noise)  # same strength, but coarser
    coarse = column((rng.random(n) < 0.4).astype(np.float64))
    frames[:, :, :2].addcmul_(torch.lerp(noise, grain, coarse), sigma)
    frames.clamp_(0, 1)
    frames[:, :, :2].mul_(255).round_().mul_(1 / 255)  # the precision of bytes
    return frames
