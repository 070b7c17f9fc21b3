"""Pictures read from files."""

from __future__ import annotations

from pathlib import Path

import torch

from dain_core.training.footage.pictures import read_picture
from tests.pictures import picture, save


def test_pictures_are_read_as_they_are(tmp_path: Path) -> None:
    opaque, cutout = picture(), picture(channels=4)
    save(tmp_path / "opaque.png", opaque)
    save(tmp_path / "cutout.png", cutout)
    save(tmp_path / "solid.png", torch.cat([opaque, torch.full_like(opaque[:1], 255)]))
    assert torch.equal(read_picture(tmp_path / "opaque.png"), opaque)
    assert torch.equal(read_picture(tmp_path / "cutout.png"), cutout)
    assert torch.equal(read_picture(tmp_path / "solid.png"), opaque)
    assert read_picture(tmp_path / "opaque.png", most=36).shape == (3, 20, 36)
