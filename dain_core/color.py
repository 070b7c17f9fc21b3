"""YUV to RGB and back, on whatever device the planes are.

ITU-R BT.601, BT.709 and BT.2020 (non-constant luminance), limited and full range. Subsampled chroma lies
where MPEG-2 and H.264 put it by default: on the left luma column of its pair, and between the two luma rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.pixels import PixelFormat

#: matrix -> (the weight of red, the weight of blue) in luma.
_LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


@dataclass(frozen=True)
class ColorSpec:
    """What the numbers of a YUV frame mean. `matrix` is "bt601", "bt709" or "bt2020"."""

    matrix: str
    full_range: bool

    def __post_init__(self) -> None:
        if self.matrix not in _LUMA_WEIGHTS:
            raise ValueError(f"colour matrix {self.matrix!r} is none of {', '.join(_LUMA_WEIGHTS)}")

    def scales(self, depth: int) -> tuple[float, float, float, float]:
        """Offset and extent of luma, offset and extent of chroma, in codes of `depth` bits."""
        if self.full_range:
            top = float(2**depth - 1)
            return 0.0, top, float(2 ** (depth - 1)), top
        unit = 2.0 ** (depth - 8)
        return 16 * unit, 219 * unit, 128 * unit, 224 * unit


def to_rgb(planes: Sequence[Tensor], fmt: PixelFormat, spec: ColorSpec) -> Tensor:
    """RGB of one frame.

    Args:
        planes: Y, U and V as 2-D tensors of the shapes that `fmt` gives, integers of any type: 10-bit samples
            may come as an int16 view of their uint16.
        fmt, spec: how to read them.

    Returns:
        (1, 3, H, W), float32, clipped to [0, 1].

    Raises:
        ValueError: the planes' shapes do not fit the format.
    """
    height, width = planes[0].shape
    shapes = tuple(tuple(plane.shape) for plane in planes)
    if shapes != fmt.plane_shapes(width, height):
        raise ValueError(f"{fmt.name} planes of {width}x{height} cannot have the shapes {shapes}")
    luma_offset, luma_extent, chroma_offset, chroma_extent = spec.scales(fmt.depth)
    luma = (planes[0].float() - luma_offset) / luma_extent
    chroma = (torch.stack(tuple(planes[1:])).float() - chroma_offset) / chroma_extent
    blue_difference, red_difference = _upsample_chroma(chroma[None], fmt, height, width)[0]

    red_weight, blue_weight = _LUMA_WEIGHTS[spec.matrix]
    red = luma + 2 * (1 - red_weight) * red_difference
    blue = luma + 2 * (1 - blue_weight) * blue_difference
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    return torch.stack((red, green, blue))[None].clamp(0, 1)


def to_yuv(rgb: Tensor, fmt: PixelFormat, spec: ColorSpec) -> list[Tensor]:
    """The planes Y, U and V of one RGB frame (1, 3, H, W) in [0, 1]: uint8, or int16 for 10-bit formats.

    The int16 values are those of the format's uint16: ``tensor.numpy().view(fmt.dtype)`` is the plane.
    """
    red, green, blue = rgb[0].float()
    height, width = red.shape
    red_weight, blue_weight = _LUMA_WEIGHTS[spec.matrix]
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    differences = torch.stack(
        ((blue - luma) / (2 * (1 - blue_weight)), (red - luma) / (2 * (1 - red_weight)))
    )
    chroma = _downsample_chroma(differences[None], fmt, height, width)[0]
    luma_offset, luma_extent, chroma_offset, chroma_extent = spec.scales(fmt.depth)
    codes = [luma * luma_extent + luma_offset, *(chroma * chroma_extent + chroma_offset)]
    dtype = torch.uint8 if fmt.depth == 8 else torch.int16
    return [code.round().clamp(0, 2**fmt.depth - 1).to(dtype) for code in codes]


def _upsample_chroma(chroma: Tensor, fmt: PixelFormat, height: int, width: int) -> Tensor:
    """Bilinear, from (1, 2, h, w) to (1, 2, height, width)."""
    if fmt.chroma_shift_y:
        rows = 2 * chroma.shape[2]
        chroma = F.interpolate(chroma, (rows, chroma.shape[3]), mode="bilinear", align_corners=False)
    if fmt.chroma_shift_x:
        # One column is repeated at the right: sample i then lies on pixel 2 i, the last on the last.
        padded = F.pad(chroma, (0, 1, 0, 0), mode="replicate")
        columns = 2 * chroma.shape[3] + 1
        chroma = F.interpolate(padded, (chroma.shape[2], columns), mode="bilinear", align_corners=True)
    return chroma[..., :height, :width]


def _downsample_chroma(chroma: Tensor, fmt: PixelFormat, height: int, width: int) -> Tensor:
    """Weights 1 2 1 around each second column, and the mean of two rows: (1, 2, h, w)."""
    if fmt.chroma_shift_x:
        chroma = F.pad(chroma, (1, 1, 0, 0), mode="replicate")
        left, middle, right = chroma[..., :-2:2], chroma[..., 1:-1:2], chroma[..., 2::2]
        chroma = (left + 2 * middle + right) / 4
    if fmt.chroma_shift_y:
        chroma = F.pad(chroma, (0, 0, 0, height % 2), mode="replicate")
        chroma = (chroma[..., ::2, :] + chroma[..., 1::2, :]) / 2
    return chroma
