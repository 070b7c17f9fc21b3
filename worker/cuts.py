"""Cuts: where one scene ends and the next begins. No frame may be blended of two scenes."""

from __future__ import annotations

import itertools

import numpy as np

from worker.media.decode import Plane

GRID = 32  # cells on a side: a thumbnail this small shows what is where, but not how far it has moved
WINDOW = 8  # cells on a side

_DARK, _FLAT = 0.01**2, 0.03**2  # the constants C1 and C2 of SSIM, for values in [0, 1]


def thumbnail(luma: Plane) -> Plane:
    """The mean brightness of each cell of a grid over ``luma``: at most GRID x GRID numbers in [0, 1].

    ``luma`` is a plane of height x width samples: 8 bits in uint8, or 10 bits in uint16.
    """
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
    """How different two frames with these thumbnails are: from 0 (the same) to 1 (nothing in common).

    The measure is (1 - SSIM)^2. SSIM is that of Wang et al. 2004, over windows of 8x8 cells of equal weight. Before it
    is squared, fast motion measures up to about 0.5 and a cut 0.8 or more. So a threshold near 0.3 separates them.

        >>> difference(thumbnail(frame), thumbnail(frame))
        0.0
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
