from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dain_core.evaluation.clips import Sample
from dain_core.evaluation.pictures import EvaluationError
from dain_core.evaluation.scores import PSNR_OF_EQUALS, Flicker, Score, Summary, load_lpips, score, summarise


def sample(place: int, clip: str = "clip") -> Sample:
    frame = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    return Sample(clip, str(place), place, True, frame, frame, (0.5,), (frame,))


def error(level: float) -> torch.Tensor:
    return torch.full((1, 3, 2, 2), level / 255)


def test_scores_of_a_known_error() -> None:
    truth = torch.rand(1, 3, 16, 16) * 0.5
    assert score(truth, truth, None, "x") == {"psnr": PSNR_OF_EQUALS, "ssim": pytest.approx(1), "ie": 0}
    assert score(truth + 5 / 255, truth, None, "x")["ie"] == pytest.approx(5, rel=1e-4)


def test_a_frame_too_small_to_compare_is_named() -> None:
    with pytest.raises(EvaluationError, match="clip 3: SSIM needs at least 11x11"):
        score(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), None, "clip 3")


def test_flicker_is_the_change_of_the_error() -> None:
    flicker = Flicker()
    assert flicker.add(sample(0), "a", [error(4)]) == [None]
    assert flicker.add(sample(0), "b", [error(9)]) == [None]
    assert flicker.add(sample(1), "a", [error(1)]) == [pytest.approx(3, rel=1e-4)]
    assert flicker.add(sample(2), "a", [error(1)]) == [pytest.approx(0, abs=1e-6)]
    assert flicker.add(sample(4), "a", [error(1)]) == [None]
    assert flicker.add(sample(5, "other"), "a", [error(1)]) == [None]


def test_flicker_within_a_sample() -> None:
    errors = [error(1), error(3), error(-1)]
    expected = [None, pytest.approx(2, rel=1e-4), pytest.approx(4, rel=1e-4)]
    assert Flicker().add(sample(0), "a", errors) == expected


def test_summaries() -> None:
    scores = [
        Score("c", "0", 0.5, "m", {"psnr": 30, "ie": 4}),
        Score("c", "1", 0.5, "m", {"flicker": 3}),
        Score("c", "2", 0.5, "m", {"psnr": 20, "ie": 8}),
    ]
    assert summarise(scores) == {
        "psnr": Summary(25, 20, 20),
        "ie": Summary(6, 8, 8),
        "flicker": Summary(3, 3, 3),
    }


@pytest.mark.parametrize(
    ("count", "psnr", "ie"),
    [(10, 1, 10), (11, 1.5, 10.5), (20, 1.5, 19.5), (30, 2, 29)],
)
def test_the_worst_tenth_is_rounded_up_to_whole_frames(count: int, psnr: float, ie: float) -> None:
    values = [(7 * index) % count + 1 for index in range(count)]  # 1 to `count`, in no order
    assert sorted(values) == list(range(1, count + 1))
    found = summarise(Score("c", str(x), 0.5, "m", {"psnr": x, "ie": x}) for x in values)
    mean = (count + 1) / 2
    assert found == {"psnr": Summary(mean, psnr, 1), "ie": Summary(mean, ie, count)}


def test_lpips_is_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    distance, reason = load_lpips(torch.device("cpu"))
    assert distance is None and reason.startswith("LPIPS is left out: ")
