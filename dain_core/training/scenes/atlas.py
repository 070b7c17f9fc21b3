"""Stores all pictures at several sizes in one tensor, so that one operation samples thousands of pieces of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

#: The number of sizes of each picture. Each size is half of the size before.
LEVELS = 5


class Atlas:
    """Pictures as premultiplied RGBA bytes, each at its own size, 1/2, 1/4 and so on.

    Procedural pictures (noise, stripes, gradients) are added: 32 without photographs, else one for eight photographs,
    but 6 at least.

    Args:
        pictures: RGB (3, H, W) or RGB and coverage (4, H, W), uint8. A picture with coverage is a cut-out.
        generator: the source of random numbers of the procedural pictures.
        device: the device that stores the pictures.

    Attributes:
        textures, cutouts: the indices of the opaque pictures, and of the cut-outs.
        sizes: the width and height of each picture at each level, (pictures, LEVELS, 2), in pixels.
    """

    def __init__(self, pictures: Sequence[Tensor], generator: torch.Generator, device: torch.device) -> None:
        photographs = sum(len(picture) == 3 for picture in pictures)
        made = procedural_pictures(max(6, photographs // 8) if photographs else 32, generator)
        every = [*pictures, *made]
        self.cutouts = [i for i, picture in enumerate(every) if len(picture) == 4]
        self.textures = [i for i, picture in enumerate(every) if len(picture) == 3]
        levels = [level for picture in every for level in _levels(picture.to(device))]
        sizes = np.array([level.shape[1::-1] for level in levels], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes.prod(1))[:-1]])
        self.sizes = sizes.reshape(len(every), LEVELS, 2)
        self._starts = starts.reshape(len(every), LEVELS)
        #: A pixel is one int32, so that one look-up gives all four bytes.
        self._pixels = torch.cat([level.reshape(-1, 4) for level in levels]).view(torch.int32).flatten()

    def sample(self, pictures: NDArray[np.int64], levels: NDArray[np.int64], x: Tensor, y: Tensor) -> Tensor:
        """Sample M pictures bilinearly. A picture is mirrored beyond its borders.

        Args:
            pictures, levels: the index and the level of each picture, (M,).
            x, y: the coordinates, (M, ...), in pixels of the level. The centre of the first pixel is at 0.5.

        Returns:
            Premultiplied RGBA, (M, ..., 4), float32 in [0, 1].
        """
        sizes, starts = self.sizes[pictures, levels], self._starts[pictures, levels]
        shape = (-1,) + (1,) * (x.dim() - 1)
        packed = torch.from_numpy(np.concatenate([sizes, starts[:, None]], 1)).to(x.device, non_blocking=True)
        width, height, start = (column.view(shape) for column in packed.unbind(1))
        x0, y0 = (x - 0.5).floor(), (y - 0.5).floor()
        right, down = (x - 0.5 - x0)[..., None], (y - 0.5 - y0)[..., None]
        columns = [_mirror(x0.long() + i, width) for i in (0, 1)]
        rows = [start + _mirror(y0.long() + i, height) * width for i in (0, 1)]
        lines = []
        for row in rows:
            left, other = (self._unpacked(row + column) for column in columns)
            lines.append(torch.lerp(left, other, right))
        return torch.lerp(lines[0], lines[1], down).mul_(1 / 255)

    def _unpacked(self, index: Tensor) -> Tensor:
        return self._pixels[index].view(torch.uint8).view(*index.shape, 4).float()


def _mirror(index: Tensor, size: Tensor) -> Tensor:
    """Fold indices into [0, `size`): with a size of 3, 0 1 2 3 4 5 6 become 0 1 2 2 1 0 0."""
    index = index.remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def _levels(picture: Tensor) -> list[Tensor]:
    """Return `picture`, (3 or 4, H, W) uint8, as premultiplied RGBA (h, w, 4) uint8 at all levels."""
    colour = picture[:3].float()
    alpha = picture[3:].float() if len(picture) == 4 else torch.full_like(colour[:1], 255)
    level = torch.cat([colour * (alpha / 255), alpha])[None]
    levels = []
    for _ in range(LEVELS):
        levels.append(level[0].round().byte().permute(1, 2, 0).contiguous())
        if min(level.shape[2:]) > 1:
            level = F.avg_pool2d(level, 2)
    return levels


def procedural_pictures(count: int, generator: torch.Generator, size: int = 256) -> list[Tensor]:
    """Make `count` pictures of noise, stripes, checks and gradients: RGB (3, `size`, `size`), uint8."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def noise(finest: int, roughness: float) -> Tensor:
        total, cells, strength = torch.zeros(1, 3, size, size), 3, 1.0
        while cells < finest:
            octave = torch.randn(1, 3, cells, cells, generator=generator)
            total += strength * F.interpolate(octave, size=(size, size), mode="bicubic", align_corners=False)
            cells, strength = 2 * cells, strength * roughness
        return total[0]

    line = torch.arange(size) / size
    pictures = []
    for index in range(count):
        angle, period = uniform(0, math.pi), size / math.exp(uniform(math.log(4), math.log(60)))
        along = math.cos(angle) * line[None, :] + math.sin(angle) * line[:, None]
        across = -math.sin(angle) * line[None, :] + math.cos(angle) * line[:, None]
        wave = (torch.sin(2 * math.pi * size / period * along) * 3).tanh()
        kind = index % 6
        if kind < 3:
            pattern = noise(*((256, 0.75), (256, 0.5), (24, 0.5))[kind])
        else:
            checks = wave * (torch.sin(2 * math.pi * size / period * across) * 3).tanh()
            pattern = (wave, checks, along)[kind - 3] + 0.15 * noise(256, 0.7)
        colour, contrast = torch.rand(3, 1, 1, generator=generator), torch.randn(3, 1, 1, generator=generator)
        picture = 0.2 + 0.6 * colour + 0.2 * contrast * pattern
        pictures.append(picture.clamp(0, 1).mul(255).byte())
    return pictures
