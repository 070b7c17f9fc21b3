"""Pictures that are transparent in places, shown on a background.

What lies under a transparent pixel is arbitrary, and often of another colour than anything near. So no frame leaves
here without having been put on its background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from dain_core.runtime.color import ColorSpec, to_yuv
from dain_core.runtime.pixels import PixelFormat
from worker.media.decode import Decoder, Frame, Plane


class OnBackground:
    """The frames of a decoder of `pixels`, which have alpha, on `background`, a colour such as "#00ff00".

    An opaque pixel stays what it is, to the bit, and of a transparent one nothing is left. ``was_seen`` tells whether
    any frame so far was transparent.
    """

    def __init__(self, decoder: Decoder, pixels: PixelFormat, colors: ColorSpec, background: str) -> None:
        self.was_seen = False
        self._decoder = decoder
        self._pixels = pixels
        rgb = torch.tensor([int(background[k : k + 2], 16) / 255 for k in (1, 3, 5)])
        full = PixelFormat.named("yuv444p" + pixels.name.partition("p")[2])
        self._codes = [int(plane) for plane in to_yuv(rgb.view(1, 3, 1, 1), full, colors)]
        self.kill = decoder.kill

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._decoder:
            yield replace(frame, planes=self._flattened(frame.planes))

    def _flattened(self, planes: Sequence[Plane]) -> tuple[Plane, ...]:
        *pictures, alpha = planes
        most = 2**self._pixels.depth - 1
        if alpha.min() == most:
            return tuple(pictures)
        self.was_seen = True
        halved = _halved(alpha, self._pixels)
        return tuple(
            _mixed(plane, opacity, code, most)
            for plane, opacity, code in zip(pictures, (alpha, halved, halved), self._codes, strict=True)
        )


def _mixed(plane: Plane, alpha: Plane, code: int, most: int) -> Plane:
    opacity = alpha.astype(np.uint32)
    mixed = (plane * opacity + code * (most - opacity) + most // 2) // most
    return mixed.astype(plane.dtype)


def _halved(alpha: Plane, pixels: PixelFormat) -> Plane:
    """How opaque the pixels around each sample of chroma are, on average."""
    height, width = alpha.shape
    (rows, columns) = pixels.plane_shapes(width, height)[1]
    steps = 1 << pixels.chroma_shift_y, 1 << pixels.chroma_shift_x
    padded = np.pad(alpha, ((0, rows * steps[0] - height), (0, columns * steps[1] - width)), mode="edge")
    blocks = padded.reshape(rows, steps[0], columns, steps[1])
    return (blocks.sum((1, 3), dtype=np.uint32) + steps[0] * steps[1] // 2) // (steps[0] * steps[1])
