"""Triplets and septuplets in folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dain_core.training.batch import TrainingDataError
from dain_core.training.data import open_source
from dain_core.training.footage.triplets import Triplets
from tests.pictures import picture, save


def triplets(folder: Path, listed: str, lines: list[str], frames: int, height: int = 40) -> None:
    folder.mkdir(exist_ok=True)
    (folder / listed).write_text("\n".join(lines) + "\n\n")
    for number, line in enumerate(lines):
        for frame in range(1, frames + 1):
            # Frame k is grey of value 10k: triplets tell what they were made of.
            colour = torch.full((3, height, 72), 10 * frame + number, dtype=torch.uint8)
            save(folder / "sequences" / line / f"im{frame}.png", colour)


def test_triplets_come_as_listed(tmp_path: Path) -> None:
    triplets(tmp_path, "tri_trainlist.txt", ["0/1", "0/2", "1/1"], 3)
    source = open_source([str(tmp_path)], (32, 64), seed=3)
    assert isinstance(source, Triplets)
    source.sample(2)
    state = source.state_dict()
    batch = source.sample(7)
    assert batch.first.shape == (7, 3, 32, 64)
    assert (batch.time == 0.5).all() and not batch.supervised.any()

    again = Triplets(tmp_path, (32, 64), seed=8)
    again.load_state_dict(state)
    assert torch.equal(batch.middle, again.sample(7).middle)


def test_septuplets_give_any_time_between(tmp_path: Path) -> None:
    triplets(tmp_path, "sep_trainlist.txt", ["0/1"], 7)
    batch = open_source([str(tmp_path)], (32, 64)).sample(40)
    values = torch.stack([frame.mean((1, 2, 3)) for frame in (batch.first, batch.middle, batch.last)], 1)
    # Contrast and brightness change, but keep what is even between two values.
    even = (values[:, 1] - values[:, 0]) / (values[:, 2] - values[:, 0])
    torch.testing.assert_close(even, batch.time, atol=0.02, rtol=0)
    assert len(batch.time.unique()) > 5


def test_what_is_wrong_with_triplets_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="tri_trainlist"):
        Triplets(tmp_path, (32, 32))
    (tmp_path / "tri_trainlist.txt").write_text("\n")
    with pytest.raises(TrainingDataError, match="empty"):
        Triplets(tmp_path, (32, 32))
    triplets(tmp_path, "tri_trainlist.txt", ["0/1"], 3)
    with pytest.raises(TrainingDataError, match="40x72, smaller than the crop"):
        Triplets(tmp_path, (64, 64)).sample(1)
    save(tmp_path / "sequences/0/1/im2.png", picture(48, 72))
    with pytest.raises(TrainingDataError, match="not of one size"):
        Triplets(tmp_path, (32, 32)).sample(1)
    (tmp_path / "sequences/0/1/im2.png").unlink()
    with pytest.raises(TrainingDataError, match=r"im2\.png"):
        Triplets(tmp_path, (32, 32)).sample(1)
