"""Grain: a new frame gets as much of it as the frames around it have.

The network blends two frames, whose grain is not the same, so that new frames have less: about 70 % of the deviation,
and at every second frame the grain pulses. `measure` looks for grain in the flattest parts of a picture, by brightness
and in two bands of detail, fine and coarse, which tell how large its grains are. `add` gives a new frame what it lacks
in each. The noise comes from one tile, the same on every machine, at a place that the frame's own time decides. So a
job has the same frames whatever worker makes them, and wherever segments begin.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 6  # of brightness, from black to white
BLOCK = 16  # samples on a side of a part of the picture
FLATTEST = 0.25  # of the parts of a level: what has more detail is taken for texture
FEWEST = 6  # parts of a level that tell anything
STRONGEST = 0.06  # deviation of what is added, of the range
TILE = 1024  # samples on a side


def measure(planes: Sequence[Tensor], depth: int) -> Tensor:
    """The grain of a picture, of planes of integers with `depth` bits.

    Returns:
        The variance by plane, level of brightness, and band (fine, coarse), as parts of the range, squared:
        (planes, LEVELS, 2), not a number at a level that the picture does not have.
    """
    return torch.stack([_variances(_values(plane, depth)) for plane in planes])


def add(planes: Sequence[Tensor], wanted: Tensor, depth: int, first: int, time: Fraction) -> list[Tensor]:
    """The planes of a new frame with grain as `measure` found it in others.

    Args:
        planes: of integers with `depth` bits.
        wanted: what `measure` gives.
        first, time: the number of the source frame before it, and when it is shown, between that and the next.
    """
    made = []
    for number, (plane, variances) in enumerate(zip(planes, wanted, strict=True)):
        values = _values(plane, depth)
        fine, coarse = _amplitudes(variances - _variances(values))
        noise = _noise(plane.shape, zlib.crc32(f"{first} {time} {number}".encode()), plane.device)
        level = _mean(values, 2)
        grain = _at(fine, level) * noise + _at(coarse, level) * _smooth(noise.flip(0, 1))
        most = 2**depth - 1
        made.append(((values + grain) * most + 0.5).clamp(0, most).to(plane.dtype))
    return made


def _values(plane: Tensor, depth: int) -> Tensor:
    return plane.float() / (2**depth - 1)


def _variances(values: Tensor) -> Tensor:
    """The variance by level and band of a plane, (LEVELS, 2)."""
    if min(values.shape) < BLOCK:
        return torch.full((LEVELS, 2), torch.nan, device=values.device)
    parts = torch.stack([_blocks(values), *(_blocks(band**2) for band in _bands(values))])
    level = (parts[0] * LEVELS).long().clamp(0, LEVELS - 1)
    belongs = level == torch.arange(LEVELS, device=values.device)[:, None]
    seen = torch.where(belongs[..., None], parts[1:].T, torch.nan)
    flat = seen.nanquantile(FLATTEST, dim=1)
    return torch.where(belongs.sum(1, keepdim=True) >= FEWEST, flat, torch.nan)


def _amplitudes(lacking: Tensor) -> tuple[Tensor, Tensor]:
    """How much white noise, and smooth noise, adds the variance that is lacking, by level."""
    overall = lacking.nanmean(0, keepdim=True).nan_to_num()
    lacking = torch.where(lacking.isnan(), overall, lacking)
    (white_fine, white_coarse), (smooth_fine, smooth_coarse) = _of_tile()
    fine, coarse = lacking.unbind(1)
    determinant = white_fine * smooth_coarse - smooth_fine * white_coarse
    white = (fine * smooth_coarse - coarse * smooth_fine) / determinant
    smooth = (coarse * white_fine - fine * white_coarse) / determinant
    # Where one is less than nothing the other alone comes near.
    white, smooth = (
        torch.where(smooth < 0, fine / white_fine, white),
        torch.where(white < 0, coarse / smooth_coarse, smooth),
    )
    return tuple(part.clamp(0, STRONGEST**2).sqrt() for part in (white, smooth))  # type: ignore[return-value]


def _at(amplitudes: Tensor, level: Tensor) -> Tensor:
    """Amplitudes by level where the picture is so bright, (H, W)."""
    place = (level * LEVELS - 0.5).clamp(0, LEVELS - 1)
    below = place.long().clamp(max=LEVELS - 2)
    return amplitudes[below].lerp(amplitudes[below + 1], place - below)


def _bands(values: Tensor) -> tuple[Tensor, Tensor]:
    smooth = _smooth(values)
    return values - smooth, smooth - _mean(smooth, 2)


def _smooth(values: Tensor) -> Tensor:
    return _mean(values, 1)


def _mean(values: Tensor, reach: int) -> Tensor:
    window = 2 * reach + 1
    return F.avg_pool2d(values[None, None], window, 1, reach, count_include_pad=False)[0, 0]


def _blocks(values: Tensor) -> Tensor:
    return F.avg_pool2d(values[None], BLOCK).flatten()


def _noise(shape: Sequence[int], place: int, device: torch.device) -> Tensor:
    """A piece of the tile, which is repeated where the picture is larger."""
    rows = (torch.arange(shape[0], device=device) + place % TILE) % TILE
    columns = (torch.arange(shape[1], device=device) + place // TILE % TILE) % TILE
    return _tile(device)[rows[:, None], columns]


@functools.cache
def _tile(device: torch.device) -> Tensor:
    made = torch.randn(TILE, TILE, generator=torch.Generator().manual_seed(1))
    return made.to(device)


@functools.cache
def _of_tile() -> tuple[tuple[float, float], tuple[float, float]]:
    """The variance of the tile in both bands, and of the tile when it is smooth."""
    tile = _tile(torch.device("cpu"))
    fine, coarse = ([float(band.var()) for band in _bands(values)] for values in (tile, _smooth(tile)))
    return (fine[0], fine[1]), (coarse[0], coarse[1])
