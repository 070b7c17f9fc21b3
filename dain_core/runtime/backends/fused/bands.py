"""Maps made in bands of rows, so that never all of a large one is there: exactly, each row from all that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Band:
    """The rows from `top` up to, not including, `bottom`.

    A convolution takes what lies beyond its input for zeros. Beyond the frame that is right; within, it spoils rows at
    a band's ends. So the input is a band `widened` by what the convolutions reach, `of` whose result the band is taken.
    """

    top: int
    bottom: int

    @staticmethod
    def split(height: int, rows: int) -> Iterator[Band]:
        """All rows of `height`, `rows` at a time."""
        return (Band(top, min(top + rows, height)) for top in range(0, height, rows))

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    def widened(self, margin: int, height: int) -> Band:
        """With `margin` more rows above and below, as far as there are such rows."""
        return Band(max(self.top - margin, 0), min(self.bottom + margin, height))

    def of(self, x: Tensor, held: Band | None = None) -> Tensor:
        """These rows of (N, C, H, W), as a view, where `x` holds the rows `held`, or all."""
        start = held.top if held else 0
        return x[:, :, self.top - start : self.bottom - start]


def rows_seen(flow: Tensor) -> tuple[list[int], list[int]]:
    """The first and the last row of the frame that `adaptive_warp` by `flow` (N, 2, H, W) reads, for every row.

    This waits for the GPU.
    """
    height = flow.shape[2]
    here = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    there = here + flow[:, 1]
    # Pixels that lead out of the frame are copied, as are those that lead nowhere (NaN).
    there = torch.where((there >= 0) & (there <= height - 1), there.floor(), here)
    first, last = (there - 1).amin((0, 2)), (there + 2).amax((0, 2))
    ends = torch.stack((first.minimum(here[:, 0]), last.maximum(here[:, 0]))).clamp(0, height - 1)
    lowest, highest = ends.int().tolist()
    return lowest, highest
