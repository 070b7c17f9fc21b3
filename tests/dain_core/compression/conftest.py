"""A small model of a user's own, and frames to calibrate it on."""

from __future__ import annotations

import shutil
from pathlib import Path

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
