from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dain_core.evaluation.cases import Worst
from dain_core.evaluation.depth import (
    DepthModel,
    find_depth,
    ordinal_disagreement,
    read_depth,
    read_pictures,
    scale_invariant_error,
)
from dain_core.evaluation.pictures import EvaluationError, png
from dain_core.evaluation.run import Results, evaluate_depth

Write = Callable[..., None]


def ramp() -> torch.Tensor:
    return 2.0 ** torch.arange(1, 9).float().expand(6, 8)


def test_scale_does_not_matter() -> None:
    assert ordinal_disagreement(3 * ramp(), ramp()) == 0
    assert scale_invariant_error(3 * ramp(), ramp()) == pytest.approx(0, abs=1e-6)


def test_depth_turned_round_is_wrong_in_every_pair_of_different_depths() -> None:
    equal = ordinal_disagreement(torch.ones(6, 8), ramp())
    assert equal == pytest.approx(7 / 8, abs=0.01), "eight depths: one pair in eight is of equal ones"
    assert ordinal_disagreement(1 / ramp(), ramp()) == pytest.approx(equal)


def test_within_a_tenth_is_equal() -> None:
    depth = torch.tensor([[1.0, 1.05]])
    assert ordinal_disagreement(depth, torch.ones(1, 2)) == 0
    assert ordinal_disagreement(torch.tensor([[1.0, 1.2]]), torch.ones(1, 2)) == pytest.approx(0.5, abs=0.02)


def test_the_error_of_a_known_mistake() -> None:
    truth = torch.ones(2, 4)
    depth = torch.tensor([[np.e**0.5] * 4, [np.e**-0.5] * 4])
    assert scale_invariant_error(depth, truth) == pytest.approx(0.5, rel=1e-5)


def test_what_is_not_known_does_not_count() -> None:
    truth = ramp().clone()
    depth = truth.clone()
    truth[:3], depth[:3] = 0, 1000.0
    assert ordinal_disagreement(depth, truth) == 0 and scale_invariant_error(depth, truth) == 0


def test_maps_come_as_pictures_and_as_arrays(tmp_path: Path) -> None:
    levels = np.array([[1, 0], [300, 65535]], np.uint16)
    (tmp_path / "a.png").write_bytes(png(levels))
    np.save(tmp_path / "b.npy", np.array([[0.5, np.nan], [np.inf, -1]]))
    assert torch.equal(read_depth(tmp_path / "a.png"), torch.from_numpy(levels.astype(np.float32)))
    assert torch.equal(read_depth(tmp_path / "b.npy"), torch.tensor([[0.5, 0], [0, 0]]))


def test_a_folder_of_pictures_and_depth(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "rgb" / "a.png", torch.randint(0, 256, (1, 3, 20, 30), dtype=torch.uint8))
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "a.npy", np.linspace(1, 2, 600).reshape(20, 30))
    results = Results(Worst(1))
    evaluate_depth(read_pictures(tmp_path), [DepthModel("dain", "cpu")], results, lambda _: None)
    [found] = results.depths
    assert (found.clip, found.sample, found.method) == (tmp_path.name, "a", "dain")
    assert len(results.worst.cases("depth")) == 1
    assert 0 < found.values["sdr"] <= 1 and 0 < found.values["si"] < 10


def test_a_picture_without_depth(write: Write, tmp_path: Path) -> None:
    assert find_depth(tmp_path) == []
    write(tmp_path / "rgb" / "a.png")
    (tmp_path / "depth").mkdir()
    with pytest.raises(EvaluationError, match=r"a\.png: has no .*depth/a\.png or \.npy"):
        find_depth(tmp_path)


@pytest.mark.parametrize(
    ("depth", "complaint"),
    [
        (np.ones((4, 4)), "is 4x4 and its picture 24x16"),
        (np.zeros((16, 24)), "knows no depth"),
        (np.ones((2, 16, 24)), "a depth map is"),
        (None, "cannot be read"),
    ],
)
def test_depth_that_is_of_no_use(
    write: Write, tmp_path: Path, depth: np.ndarray | None, complaint: str
) -> None:
    write(tmp_path / "rgb" / "a.png")
    path = tmp_path / "depth" / "a.npy"
    path.parent.mkdir()
    path.write_bytes(b"no array") if depth is None else np.save(path, depth)
    with pytest.raises(EvaluationError, match=rf"a\.npy: .*{complaint}"):
        list(read_pictures(tmp_path))
