"""A small model of a user's own, and frames to calibrate it on."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from dain_core.weights.files import shipped_path

BIKES = Path(__file__).parents[2] / "data" / "bikes.mp4"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with one, `own`, that is not calibrated."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(shipped_path("dain-lite"), folder / "own.safetensors")
    return folder


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three small frames of a film."""
    import torch
    from PIL import Image

    from dain_core.evaluation.pictures import read_video

    folder = tmp_path_factory.mktemp("frames")
    for index, frame in zip(range(3), read_video(BIKES), strict=False):
        small = torch.nn.functional.interpolate(frame.float(), size=(64, 96), mode="area")
        Image.fromarray(small[0].permute(1, 2, 0).round().byte().numpy()).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a texture of 160x128 that moves right by 2 pixels a frame."""
    folder = tmp_path_factory.mktemp("clips")
    texture = cv2.resize(np.random.default_rng(0).integers(60, 256, (12, 30, 3), np.uint8), (480, 160))
    writer = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 128))
    for index in range(12):
        left = 200 - index * 2
        writer.write(np.ascontiguousarray(texture[:128, left : left + 160]))
    writer.release()
    return folder
