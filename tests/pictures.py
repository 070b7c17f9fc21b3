"""Pictures to write into files, for what reads them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import torch
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
