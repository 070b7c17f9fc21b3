"""Pictures, and what moves, to write into files for what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def save(path: Path, colour: Tensor) -> None:
    """(3 or 4, H, W) uint8 as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.ascontiguousarray(colour.permute(1, 2, 0).numpy())
    frame = av.VideoFrame.from_ndarray(array, format="rgba" if len(colour) == 4 else "rgb24")
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream("png", rate=1)
        stream.pix_fmt, stream.width, stream.height = frame.format.name, frame.width, frame.height
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


def picture(height: int = 40, width: int = 72, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def moving(places: Sequence[float], height: int = 120, width: int = 160) -> list[NDArray[np.uint8]]:
    """Smooth noise that has come so many pixels far, down and to the left, over a part that rests."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 40, 60, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=(480, 720), mode="bicubic", align_corners=False)
    frames = []
    for place in places:
        at = torch.meshgrid(
            torch.arange(height) + 100.0 - 0.5 * place, torch.arange(width) + 100.0 + place, indexing="ij"
        )
        grid = torch.stack([(at[1] + 0.5) / 360 - 1, (at[0] + 0.5) / 240 - 1], -1)
        frame = torch.nn.functional.grid_sample(picture, grid[None].float(), align_corners=False)[0]
        frame[:, :, :40] = picture[0, :, :height, :40]
        frames.append((frame.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy())
    return frames
