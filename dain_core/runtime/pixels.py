"""The layouts of decoded video frames: three planes or, with alpha, four; 8 or 10 bits; three chroma samplings.

NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class PixelFormat:
    """A planar YUV layout, under ffmpeg's name.

    Attributes:
        name: such as "yuv420p" or "yuv422p10le".
        depth: bits of a sample, 8 or 10.
        chroma_shift_x, chroma_shift_y: chroma planes are 2**shift times smaller than luma, rounded up.
        alpha: whether a fourth plane says how opaque each pixel is: from 0 to the highest code.
    """

    name: str
    depth: int
    chroma_shift_x: int
    chroma_shift_y: int
    alpha: bool = False

    @staticmethod
    def named(name: str) -> PixelFormat:
        """The format called `name`; ValueError lists the names if there is none."""
        known = FORMATS | ALPHA_FORMATS
        if name not in known:
            raise ValueError(
                f"pixel format {name!r} is not supported: convert to one of {', '.join(FORMATS)}"
            )
        return known[name]

    def plane_shapes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the Y, U and V planes, and of alpha's where there is one."""
        chroma = -(-height >> self.chroma_shift_y), -(-width >> self.chroma_shift_x)
        return (height, width), chroma, chroma, *(((height, width),) if self.alpha else ())

    @property
    def opaque(self) -> PixelFormat:
        """The layout without alpha."""
        return FORMATS[self.name.replace("yuva", "yuv")] if self.alpha else self

    @property
    def dtype(self) -> np.dtype:
        """The type of a sample: uint8, or little-endian uint16 with the value in the low bits."""
        return np.dtype("u1") if self.depth == 8 else np.dtype("<u2")

    def frame_bytes(self, width: int, height: int) -> int:
        """The size of one frame, its planes one after another."""
        samples = sum(rows * columns for rows, columns in self.plane_shapes(width, height))
        return samples * self.dtype.itemsize


FORMATS = {
    name + suffix: PixelFormat(name + suffix, depth, shift_x, shift_y)
    for name, shift_x, shift_y in (("yuv420p", 1, 1), ("yuv422p", 1, 0), ("yuv444p", 0, 0))
    for suffix, depth in (("", 8), ("10le", 10))
}
#: The same with alpha.
ALPHA_FORMATS = {
    (name := each.name.replace("yuv", "yuva")): replace(each, name=name, alpha=True)
    for each in FORMATS.values()
}
