"""Where one scene ends and another begins: there nothing may be blended."""

from __future__ import annotations

import numpy as np

from worker.frames import Plane

GRID = 32  # thumbnails this small keep what is where, and forget how far it moved
WINDOW = 8

_DARK, _FLAT = 0.01**2, 0.03**2  # the constants C1 and C2 of SSIM, for values in [0, 1]


def difference(first: Plane, second: Plane) -> float:
    """How different two frames are, from their luma planes: 0 (the same) to 1 (nothing in common).

    (1 - SSIM)^2 of thumbnails, SSIM as in Wang et al. 2004 over 8x8 windows, here of uniform weight. Square,
    because fast motion scores up to about 0.5 before it and cuts 0.8 and more: a threshold near 0.3 parts them.
    """
    a, b = _thumbnail(first), _thumbnail(second)
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    variances = _local_mean(a * a) - mean_a**2 + _local_mean(b * b) - mean_b**2
    covariance = _local_mean(a * b) - mean_a * mean_b
    similar = (2 * mean_a * mean_b + _DARK) * (2 * covariance + _FLAT)
    ssim = similar / ((mean_a**2 + mean_b**2 + _DARK) * (variances + _FLAT))
    return float(np.clip(1 - ssim.mean(), 0, 1) ** 2)


def _thumbnail(luma: Plane) -> Plane:
    """Mean brightness over a grid of at most GRID x GRID, in [0, 1]; range and depth are told by the dtype."""
    means: Plane = luma.astype(np.float64)
    for axis, size in enumerate(luma.shape):
        edges = np.arange(min(size, GRID)) * size // min(size, GRID)
        counts = np.diff(np.append(edges, size))
        means = np.add.reduceat(means, edges, axis=axis) / (counts[:, None] if axis == 0 else counts)
    return means / (255 if luma.dtype == np.uint8 else 1023)


def _local_mean(values: Plane) -> Plane:
    window = tuple(min(size, WINDOW) for size in values.shape)
    return np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=(2, 3))
