"""Training of the refinement at the intermediate time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dain_core.network.model import CONFIGS
from dain_core.network.modules.refinement import Refined
from dain_core.network.networks import NETWORKS
from dain_core.network.refined import RefinedConfig, RefinedDAIN
from dain_core.training import refined
from dain_core.training.batch import TrainingDataError
from dain_core.training.lessons import make
from dain_core.training.refined import Objective, Settings, begin, command, taught, trainable
from dain_core.training.resident import ResidentFootage, Triplets
from dain_core.training.steps import Step
from dain_core.weights.files import WeightsError, load_weights, shipped_path

CPU = torch.device("cpu")


def write_clip(path: Path, frames: int, speed: int, cut: int | None = None) -> Path:
    """A texture of 320x256 that moves right by `speed` pixels a frame; another one from the frame `cut` on."""
    random = np.random.default_rng(0)
    textures = [
        cv2.resize(random.integers(*levels, (20, 60, 3), np.uint8), (960, 320))
        for levels in ((120, 256), (0, 40))
    ]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 256))
    for index in range(frames):
        texture = textures[cut is not None and index >= cut]
        left = 300 - index * speed
        writer.write(np.ascontiguousarray(texture[:256, left : left + 320]))
    writer.release()
    return path


def test_triplets_are_of_one_scene_and_the_middle_lies_at_its_time(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.avi", 24, 2, cut=12)
    footage = ResidentFootage([clip], (64, 128), CPU, 0)
    batch = footage.sample(40)
    assert batch.first.shape == (40, 3, 64, 128) and batch.time.shape == (40, 1, 1, 1)
    assert batch.time.min() > 0 and batch.time.max() < 1 and len(batch.time.unique()) > 2
    # The middle is nearer to the end that is nearer in time, unless it moved by more than what the texture has.
    to_first = (batch.middle - batch.first).abs().mean((1, 2, 3))
    to_last = (batch.middle - batch.last).abs().mean((1, 2, 3))
    early = batch.time.flatten() < 0.4
    assert (to_first[early] < to_last[early]).float().mean() > 0.75 and early.sum() > 3
    # Of the two scenes one is bright, one dark.
    assert (batch.first.mean((1, 2, 3)) - batch.last.mean((1, 2, 3))).abs().max() < 0.1


def test_videos_that_nothing_can_be_learned_from_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(TrainingDataError, match="none of the videos"):
        ResidentFootage([tmp_path / "text.mp4"], (64, 64), CPU, 0)


def test_a_teacher_counts_where_it_is_nearer_to_the_truth() -> None:
    batch, right = shifted()
    still = torch.zeros_like(right)

    def distance(ours: torch.Tensor, target: torch.Tensor, floor: float) -> float:
        steps = [Refined(ours, torch.zeros(1, 1, 64, 128))]
        return float(taught(batch, steps, target, floor)[0])

    assert distance(still, right, 0.0) > 0.5  # the teacher knows better
    assert distance(right, still, 0.0) < 0.2  # it does not
    assert distance(right, still, 1.0) > 0.5


def small(seed: int, width: int = 16) -> RefinedDAIN:
    base = replace(CONFIGS["dain-lite"], flow_pyramid=(16,) * 6, flow_dense=(16,) * 5, depth_stem=16)
    torch.manual_seed(seed)
    return RefinedDAIN(RefinedConfig(base, (16, 16, 16), (width, 16, 16), (1, 1, 1), 2, (16, 16)))


def shifted() -> tuple[Triplets, torch.Tensor]:
    """A texture that moves up by four pixels a frame, and its flow."""
    torch.manual_seed(0)
    texture = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 20), (96, 160), mode="bicubic").clamp(0, 1)
    frames = (texture[..., 8 + shift : 72 + shift, 16:144] for shift in (0, 4, 8))
    flow = torch.zeros(1, 4, 64, 128)
    flow[:, 1], flow[:, 3] = 4, -4
    return Triplets(*frames, torch.full((1, 1, 1, 1), 0.5)), flow


def test_a_network_learns_the_frame_and_the_mask_of_another() -> None:
    """The other one makes frames too bright, and takes them from the first end."""
    batch, _ = shifted()
    network, model = small(0), small(0, width=32)
    with torch.no_grad():
        network.get_parameter("rectify.head.bias").add_(0.1)
        network.get_parameter("refine.blocks.0.head.bias")[16:].add_(2)
    weights = trainable(model)
    objective = Objective(model, Settings(1, share=1.0, frame=5.0), None, network.prepare(torch.float32))
    objective.enter(0.4)
    learn = Step(objective, list(weights.values()), 2e-3, CPU)
    for _ in range(12):
        figures = learn(batch)
    with torch.no_grad():
        made = make(model, batch, rectified=True)[1]
    assert made and (made.output - made.blend).mean() > 0.01 and made.share.mean() > 0.55
    assert {"psnr_teacher", "epe"} <= figures.keys()


def test_some_steps_make_the_loss_smaller_and_move_every_layer(tmp_path: Path) -> None:
    model = small(0)
    footage = ResidentFootage([write_clip(tmp_path / "a.avi", 24, 3)], (64, 64), CPU, 0)
    batch = footage.sample(2)
    weights = trainable(model)
    objective = Objective(model, Settings(1, flow_first=0.0), None)
    objective.enter(0.1)
    learn = Step(objective, list(weights.values()), 3e-3, CPU)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    losses = [float(learn(batch)["loss"]) for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
    still = [name for name, weight in weights.items() if torch.equal(weight, before[name])]
    assert not still


def test_a_run_learns_from_psnr_and_from_the_teacher_by_its_progress() -> None:
    objective = Objective(RefinedDAIN(), Settings(1, flow_first=0.3, psnr=0.02), None)
    seen = []
    for progress, changes in ((0.0, False), (0.3, True), (0.7, False)):
        assert objective.enter(progress) == changes
        seen.append((objective.rectifies, float(objective.floor), float(objective.log_weight)))
    assert [rectifies for rectifies, _, _ in seen] == [False, True, True]
    assert seen[0][1] > seen[1][1] > seen[2][1] == 0
    assert [round(weight, 6) for _, _, weight in seen] == [0, 0, 0.02]


def test_the_command_trains_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refined, "_LOOK_EVERY", 1)
    clips = tmp_path / "clips"
    clips.mkdir()
    write_clip(clips / "a.avi", 12, 2)
    options = [
        "--data",
        str(clips),
        "--batch",
        "1",
        "--crop",
        "64",
        "64",
        "--minutes",
        "0.02",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(command, [*options, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    first = tmp_path / "run" / "weights.safetensors"
    assert (tmp_path / "run" / "log.jsonl").read_text().count("\n") >= 1
    shipped = load_weights("dain-refined")
    for name, value in load_weights(first, NETWORKS["dain-refined"]).items():  # it is whole
        if name.partition(".")[0] not in refined.PARTS:
            assert torch.equal(value, shipped[name].half().float() if value.is_floating_point() else value), (
                name
            )
    again = CliRunner().invoke(command, [*options, "--init", str(first), "--out", str(tmp_path / "next")])
    assert again.exit_code == 0, again.output


def test_a_seed_makes_the_same_beginning_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of parts that nobody gave, and errors of first guesses, are drawn by PyTorch."""
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.avi", 4, 2)
    found: list[torch.Tensor] = []
    monkeypatch.setattr(
        refined, "train", lambda model, *_: found.append(model.context.levels[0][0][0].weight)
    )
    options = ["--data", str(tmp_path / "clips"), "--out", str(tmp_path), "--minutes", "1", "--device", "cpu"]
    for seed in ("1", "1", "2"):
        assert CliRunner().invoke(command, [*options, "--seed", seed]).exit_code == 0
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_wrong_settings_are_sentences(tmp_path: Path) -> None:
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--minutes", "1", "--device", "cpu"]
    odd = CliRunner().invoke(command, [*options, "--crop", "100", "128"])
    assert odd.exit_code == 2 and "must be multiples of 64" in odd.output
    endless = CliRunner().invoke(command, [*options, "--minutes", "nan"])
    assert endless.exit_code == 2 and "is no number" in endless.output
    with pytest.raises(WeightsError, match="is none of its weights"):
        begin(shipped_path("dain-lite"))
    none = CliRunner().invoke(command, options)
    assert none.exit_code == 1 and "none of the videos can be used" in none.output
