from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.evaluation.pictures import png


@pytest.fixture
def texture() -> Callable[[int], Tensor]:
    """Makes something smooth, moved right by so many pixels: (1, 3, 48, 64), uint8."""
    noise = torch.rand(1, 3, 6, 16, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(noise, scale_factor=8, mode="bicubic").clamp(0, 1)
    return lambda shift: (large[..., 32 - shift : 96 - shift] * 255).round().byte()


@pytest.fixture
def write() -> Callable[..., None]:
    """Writes a picture, a tensor (1, 3, H, W) or of one grey `level`; makes its folder."""

    def save(path: Path, picture: Tensor | int = 0, size: tuple[int, int] = (16, 24)) -> None:
        if isinstance(picture, int):
            picture = torch.full((1, 3, *size), picture, dtype=torch.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.ascontiguousarray(picture[0].permute(1, 2, 0).numpy())))

    return save
