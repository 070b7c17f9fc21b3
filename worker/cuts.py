"""Where one scene ends and another begins: there nothing may be blended."""

from __future__ import annotations

import itertools

import numpy as np

from worker.media.decode import Plane

GRID = 32  # thumbnails this small keep what is where, and forget how far it moved
WINDOW = 8

_DARK, _FLAT = 0.01**2, 0.03**2  # the constants C1 and C2 of SSIM, for values in [0, 1]


def thumbnail(luma: Plane) -> Plane:
    """Mean brightness over a grid of at most GRID x GRID, in [0, 1]; range and depth are told by the dtype."""
    row_edges, column_edges = (
        [k * size // min(size, GRID) for k in range(min(size, GRID) + 1)] for size in luma.shape
    )
    # Whole rows first: that is a dozen times as fast as reading the plane in small blocks.
    rows = np.stack([luma[a:b].sum(axis=0, dtype=np.uint32) for a, b in itertools.pairwise(row_edges)])
    sums = np.add.reduceat(rows, column_edges[:-1], axis=1)
    counts = np.outer(np.diff(row_edges), np.diff(column_edges))
    means: Plane = sums / counts / (255 if luma.dtype == np.uint8 else 1023)
    return means


def difference(first: Plane, second: Plane) -> float:
    """How different two frames are, from their thumbnails: 0 (the same) to 1 (nothing in common).

    (1 - SSIM)^2, SSIM as in Wang et al. 2004 over 8x8 windows, here of uniform weight. Square, because fast motion
    scores up to about 0.5 before it and cuts 0.8 and more: a threshold near 0.3 parts them.
    """
    mean_a, mean_b = _local_mean(first), _local_mean(second)
    variances = _local_mean(first**2) - mean_a**2 + _local_mean(second**2) - mean_b**2
    covariance = _local_mean(first * second) - mean_a * mean_b
    similar = (2 * mean_a * mean_b + _DARK) * (2 * covariance + _FLAT)
    ssim = similar / ((mean_a**2 + mean_b**2 + _DARK) * (variances + _FLAT))
    return float(np.clip(1 - ssim.mean(), 0, 1) ** 2)


def _local_mean(values: Plane) -> Plane:
    window = tuple(min(size, WINDOW) for size in values.shape)
    return np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=(2, 3))
