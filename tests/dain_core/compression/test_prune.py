"""`dain compress prune`: from a model and a folder of videos to a file that is served, and what is refused."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from dain_core.compression.cli import compress
from dain_core.compression.distil import Settings, distil, make, open_footage
from dain_core.compression.prune import kernels
from dain_core.network.networks import config_to_json, is_narrowed, with_widths
from dain_core.runtime.engine import Interpolator
from dain_core.training.refined import begin
from dain_core.weights.files import config_in, load_weights, save
from dain_core.weights.registry import registry
from tests.dain_core.compression.small import CONFIGS, SMALL, random_network

CPU = torch.device("cpu")
FAST = ("--samples", "1", "--batch", "1", "--crop", "64", "64", "--device", "cpu")


def run(*args: object) -> Result:
    return CliRunner().invoke(compress, ["prune", *map(str, args)])


def test_widths_can_be_given(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made is where `dain_core.training.refined` begins."""
    monkeypatch.setattr("dain_core.compression.prune._COMPARED", 1)
    models, file, out = tmp_path / "models", tmp_path / "widths.json", tmp_path / "start.safetensors"
    models.mkdir()
    whole = CONFIGS["dain-refined"]
    save(random_network(whole).state_dict(), models / "given.safetensors", "fp32", whole)
    target = replace(whole, base=replace(SMALL, flow_finest=3), kernels=2, refine=(16, 16, 32, 32, 32))
    file.write_text(config_to_json(target))
    options = (out, "--models", models, "--widths", file, "--data", clips, "--steps", 0, *FAST)
    answer = run("given", *options)
    assert answer.exit_code == 0, answer.output
    assert config_in(out) == target == begin(out).config
    shown = " ".join(answer.output.replace("│", "").split())  # all that changes
    assert "refine.0 32 16" in shown and "kernels 4 2" in shown and "base.flow_finest 2 3" in shown
    file.write_text('{"network": "dain-refined", "refine": [16]}')
    answer = run("given", *options)
    assert answer.exit_code == 1 and "holds no widths of a network: refine cannot be [16]" in answer.output


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_pruned_model_is_served(
    tmp_path: Path, clips: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dain_core.compression.prune._COMPARED", 1)
    models = tmp_path / "models"
    models.mkdir()
    save(random_network(CONFIGS[kind]).state_dict(), models / "given.safetensors", "fp32", CONFIGS[kind])
    out = models / "thin.safetensors"
    answer = run("given", out, "--models", models, "--keep", 0.85, "--data", clips, "--steps", 1, *FAST)
    assert answer.exit_code == 0, answer.output
    assert "% of the multiplications are left" in answer.output and "32     │ 16" in answer.output
    assert (
        "before" in answer.output and "trained" in answer.output and "by the fused kernels" in answer.output
    )
    entry = registry(models)["thin"]
    assert is_narrowed(entry.config, CONFIGS[kind]) and entry.config != CONFIGS[kind]
    frame = torch.rand(1, 3, 20, 30)
    assert (
        Interpolator.load("thin", device="cpu", models=registry(models))
        .interpolate(frame, frame, [0.5])
        .shape
    )


def test_a_network_learns_from_its_teacher(clips: Path) -> None:
    """It is a copy whose frames are too bright, and less so after some steps. Flow does not learn."""
    teacher, student = (random_network(CONFIGS["dain-refined"]) for _ in range(2))
    with torch.no_grad():
        student.get_parameter("rectify.head.bias").add_(0.05)
    frozen = deepcopy(student.flow.state_dict())
    batch = open_footage([clips], (64, 64), CPU, 0)(1)
    batch = replace(batch, middle=make(teacher, batch).output)

    def distance() -> float:
        with torch.no_grad():
            return float((make(student, batch).output - make(teacher, batch).output).abs().mean())

    before = distance()
    distil(student, teacher, lambda count: batch, Settings(None, 8, 1, 1e-3), lambda progress, psnr: None)
    assert distance() < 0.9 * before
    assert all(torch.equal(weight, frozen[name]) for name, weight in student.flow.state_dict().items())


def test_scenes_are_made_where_there_are_no_videos() -> None:
    batch = open_footage([], (64, 64), CPU, 0)(2)
    assert batch.first.shape == (2, 3, 64, 64) and batch.time.shape == (2, 1, 1, 1)


def test_a_run_ends_by_what_is_over_first() -> None:
    assert Settings(2, None, 1, 1e-4).progress(60, 7) == 0.5
    assert Settings(2, 10, 1, 1e-4).progress(60, 7) == 0.7
    assert Settings(2, 10, 1, 1e-4).progress(600, 7) == 1


def test_what_the_kernels_do_not_run_is_said() -> None:
    assert "run it by the fused kernels" in kernels(SMALL, CPU)
    for odd in (
        with_widths(SMALL, {"rectify_width": 24}),
        with_widths(CONFIGS["dain-refined"], {"base.depth_stem": 8}),
        with_widths(CONFIGS["dain-refined"], {"rectify.1": 24}),
    ):
        assert "No GPU runs it by the fused kernels, because a width is no multiple of 16" in kernels(
            odd, CPU
        )


def test_what_cannot_be_pruned_is_refused_in_a_sentence(tmp_path: Path, clips: Path) -> None:
    """Before the work, and the file that is there stays as it is."""
    out, text = tmp_path / "thin.safetensors", tmp_path / "text"
    out.write_bytes(b"a good file")
    text.mkdir()
    (text / "a.mp4").write_text("no video")
    cases = [
        (("rife", out), "no model is called 'rife': choose one of dain"),
        (("dain", out, "--models", tmp_path / "absent"), "there is no folder"),
        (("dain", out, "--keep", "nan"), "'nan' is no number"),
        (("dain", out, "--keep", 0.5, "--widths", __file__), "exclude each other"),
        (("dain", out, "--rate", "nan"), "'nan' is no number"),
        (("dain-lite", tmp_path / "thin.pth"), "must end in .safetensors"),
        (("dain-lite", tmp_path / "none" / "thin.safetensors"), "there is no folder"),
        (("dain-lite", "/proc/thin.safetensors"), "cannot write /proc/thin.safetensors"),
        (("dain-lite", out, "--crop", 64, 100), "both sides must be multiples of 64"),
        (("dain-lite", out, "--data", text), "none of the videos can be used"),
        (("dain-lite", out, "--data", tmp_path / "none"), "does not exist"),
        (("dain-lite", out, "--device", "tpu"), "tpu"),
        (("dain-lite", out, "--importance", "beauty"), "'beauty' is not one of"),
    ]
    for args, message in cases:
        answer = run(*args)
        assert answer.exit_code != 0 and message in " ".join(answer.output.split()), (args, answer.output)
        assert isinstance(answer.exception, SystemExit), (args, answer.exception)
    assert out.read_bytes() == b"a good file"


def test_a_goal_that_cannot_be_reached_is_refused(
    tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dain_core.compression.prune._COMPARED", 1)
    given, out = tmp_path / "given.safetensors", tmp_path / "thin.safetensors"
    save(random_network(SMALL).state_dict(), given, "fp32", SMALL)
    answer = run(
        "given", out, "--models", tmp_path, "--keep", 0.01, "--importance", "weight", "--data", clips, *FAST
    )
    assert answer.exit_code == 1 and "choose a larger --keep" in " ".join(answer.output.split())
    assert not out.exists() and load_weights(given)
