"""Mixing sources, and telling what a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dain_core.training.batch import Batch
from dain_core.training.data import MadeScenes, Mix, TrainingDataError, open_source
from tests.pictures import picture, save


class Constant:
    """A source of grey frames."""

    def __init__(self, value: float) -> None:
        self.value, self.given = value, 0

    def sample(self, n: int) -> Batch:
        self.given += n
        return Batch.of_frames(torch.full((n, 3, 3, 4, 4), self.value), torch.full((n,), 0.5))

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


def test_a_mix_keeps_shares_and_goes_on_where_it_was() -> None:
    def mix() -> Mix:
        return Mix([(Constant(0.0), 1), (Constant(1.0), 3)])

    source = mix()
    counts = [float(source.sample(3).first.mean(dim=(1, 2, 3)).sum()) for _ in range(8)]
    assert sum(counts) == 18 and all(2 <= count <= 3 for count in counts)

    state = source.state_dict()
    resumed = mix()
    resumed.load_state_dict(state)
    for _ in range(4):
        assert torch.equal(source.sample(5).first, resumed.sample(5).first)
    with pytest.raises(TrainingDataError, match="2 sources"):
        Mix([(Constant(0.0), 1)]).load_state_dict(state)


def test_a_mix_needs_weights() -> None:
    with pytest.raises(ValueError, match="weights"):
        Mix([(Constant(0.0), 0)])


def test_a_folder_of_pictures_makes_scenes(tmp_path: Path) -> None:
    save(tmp_path / "photographs" / "one.png", picture(200, 300))
    save(tmp_path / "cutouts" / "two.png", picture(channels=4))
    source = open_source([str(tmp_path)], (32, 48))
    assert isinstance(source, MadeScenes)
    assert source.sample(2).first.shape == (2, 3, 32, 48)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="is not a folder"):
        open_source([str(tmp_path / "nothing")], (32, 32))
    with pytest.raises(TrainingDataError, match="no videos, no pictures"):
        open_source([str(tmp_path)], (32, 32))
    with pytest.raises(TrainingDataError, match="must be a share"):
        open_source(["scenes=much"], (32, 32))
    with pytest.raises(TrainingDataError, match="must be more than 0"):
        open_source(["scenes=0"], (32, 32))
    with pytest.raises(TrainingDataError, match="nothing to train on"):
        open_source([], (32, 32))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(TrainingDataError, match=r"broken\.png"):
        open_source([str(tmp_path)], (32, 32))
    (tmp_path / "film.mp4").touch()
    with pytest.raises(TrainingDataError, match="both videos"):
        open_source([str(tmp_path)], (32, 32))
