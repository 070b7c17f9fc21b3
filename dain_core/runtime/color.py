"""YUV to RGB and back, on whatever device the planes are.

ITU-R BT.601, BT.709 and BT.2020 (non-constant luminance), and YCgCo of ITU-T H.273, limited and full range.
Subsampled chroma lies where MPEG-2 and H.264 put it by default: on the left luma column of its pair, and between the
two luma rows.

Many codes of YUV stand for no colour between black and full red, green and blue: whiter than white, blacker than black,
or more saturated. They are RGB values below 0 or above 1 here, and come back as the same codes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.runtime.pixels import PixelFormat

#: matrix -> (the weight of red, the weight of blue) in luma.
_LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
YCGCO = "ycgco"
MATRICES = (*_LUMA_WEIGHTS, YCGCO)


@dataclass(frozen=True)
class ColorSpec:
    """What the numbers of a YUV frame mean. `matrix` is one of `MATRICES`."""

    matrix: str
    full_range: bool

    def __post_init__(self) -> None:
        if self.matrix not in MATRICES:
            raise ValueError(f"colour matrix {self.matrix!r} is none of {', '.join(MATRICES)}")

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
        (1, 3, H, W), float32: [0, 1] for the colours of a screen, beyond for other codes.

    Raises:
        ValueError: the planes' shapes do not fit the format.
    """
    height, width = planes[0].shape
    shapes = tuple(tuple(plane.shape) for plane in planes)
    if shapes != fmt.plane_shapes(width, height):
        raise ValueError(f"{fmt.name} planes of {width}x{height} cannot have the shapes {shapes}")
    luma_offset, luma_extent, chroma_offset, _ = spec.scales(fmt.depth)
    luma = torch.add(torch.tensor(-luma_offset / luma_extent), planes[0], alpha=1 / luma_extent)
    chroma = torch.stack(tuple(planes[1:]))[None] - chroma_offset
    u, v = _upsample_chroma(chroma, fmt, height, width)[0]
    of_u, of_v = _to_rgb_weights(spec, fmt.depth, luma.device)
    return torch.addcmul(luma, of_u, u).addcmul_(of_v, v)[None]


def to_yuv(rgb: Tensor, fmt: PixelFormat, spec: ColorSpec) -> list[Tensor]:
    """The planes Y, U and V of one RGB frame (1, 3, H, W): uint8, or int16 for 10-bit formats.

    Colours that no code stands for become the nearest code of each plane. The int16 values are those of the format's
    uint16: ``tensor.numpy().view(fmt.dtype)`` is the plane.
    """
    rgb = rgb.float()
    luma_offset, _, chroma_offset, _ = spec.scales(fmt.depth)
    luma_weights, chroma_weights = _to_yuv_weights(spec, fmt.depth, rgb.device)
    # Integers are made by cutting off the fraction: a half more, and that is rounding.
    luma = torch.tensor(luma_offset + 0.5)  # on the CPU it is a plain number, whatever device the rest is on
    for channel, weight in zip(rgb[0], luma_weights, strict=True):
        luma = torch.add(luma, channel, alpha=weight)
    red, green, blue = _downsample_chroma(rgb, fmt)[0]
    of_red, of_green, of_blue = chroma_weights
    chroma = (of_red * red).addcmul_(of_green, green).addcmul_(of_blue, blue).add_(chroma_offset + 0.5)
    dtype, most = (torch.uint8 if fmt.depth == 8 else torch.int16), 2**fmt.depth - 1
    return [plane.clamp(0, most).to(dtype) for plane in (luma, *chroma)]


def _yuv_of_rgb(matrix: str) -> Tensor:
    """Rows Y in [0, 1], U and V in [-1/2, 1/2]; columns red, green and blue."""
    if matrix == YCGCO:  # green and orange in the places of blue and red
        return torch.tensor(((1, 2, 1), (-1, 2, -1), (2, 0, -2)), dtype=torch.float64) / 4
    red, blue = _LUMA_WEIGHTS[matrix]
    luma = torch.tensor((red, 1 - red - blue, blue), dtype=torch.float64)
    of_red, _, of_blue = torch.eye(3, dtype=torch.float64)
    return torch.stack((luma, (of_blue - luma) / (2 * (1 - blue)), (of_red - luma) / (2 * (1 - red))))


@functools.cache
def _to_rgb_weights(spec: ColorSpec, depth: int, device: torch.device) -> Tensor:
    """What a code of U and a code of V add to red, green and blue: (2, 3, 1, 1)."""
    weights = _yuv_of_rgb(spec.matrix).inverse()[:, 1:].T / spec.scales(depth)[3]
    return weights.float().reshape(2, 3, 1, 1).to(device)


@functools.cache
def _to_yuv_weights(spec: ColorSpec, depth: int, device: torch.device) -> tuple[list[float], Tensor]:
    """How many codes of Y, and of U and V, full red, green and blue are: three numbers, and (3, 2, 1, 1)."""
    luma, *chroma = _yuv_of_rgb(spec.matrix)
    _, luma_extent, _, chroma_extent = spec.scales(depth)
    weights = (torch.stack(chroma, 1) * chroma_extent).float().reshape(3, 2, 1, 1).to(device)
    return (luma * luma_extent).tolist(), weights


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


def _downsample_chroma(image: Tensor, fmt: PixelFormat) -> Tensor:
    """The mean of two rows, and weights 1 2 1 around each second column: (1, C, h, w) of (1, C, height, width)."""
    height, width = image.shape[2:]
    if fmt.chroma_shift_y:
        if height % 2:
            image = F.pad(image, (0, 0, 0, 1), mode="replicate")
        image = torch.lerp(image[..., ::2, :], image[..., 1::2, :], 0.5)
    if fmt.chroma_shift_x:
        image = F.pad(image, (1, width % 2, 0, 0), mode="replicate")
        image = torch.lerp(torch.lerp(image[..., :-1:2], image[..., 2::2], 0.5), image[..., 1::2], 0.5)
    return image
