from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.evaluation.metrics import psnr
from dain_core.evaluation.pictures import EvaluationError, read_video
from dain_core.evaluation.vmaf import MIN_SIDE, Vmaf, load_vmaf

Scene = Callable[[int], Tensor]


@pytest.fixture(scope="module")
def vmaf() -> Vmaf:
    loaded, reason = load_vmaf()
    assert loaded, reason
    return loaded


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Makes a picture with detail of every size, moved right by so many pixels: (1, 3, 91, 128); the height is odd."""
    seed = torch.Generator().manual_seed(0)
    sizes = ((12, 20), (24, 40), (48, 80), (96, 160))
    layers = [
        F.interpolate(torch.rand(1, 1, *size, generator=seed), (96, 160), mode="bicubic") for size in sizes
    ]
    grey = (sum(layers, torch.zeros(())) / len(layers)).expand(1, 3, -1, -1).clamp(0, 1)
    return lambda shift: grey[..., :91, 16 - shift : 144 - shift]


def blurred(frame: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(frame, (3, 3, 3, 3), mode="replicate"), 7, stride=1)


def test_true_frames_are_the_best(vmaf: Vmaf, scene: Scene) -> None:
    truths = [scene(2), scene(4), scene(6)]
    assert vmaf(scene(0), scene(8), truths, truths) == [100, 100, 100]
    [still] = vmaf(scene(0), scene(0), [scene(0)], [scene(0)]) or []
    assert 97 < still < 98, "the model has no higher figure for a picture that stands still"


def test_a_blurred_frame_is_worse_than_a_sharp_one_that_is_slightly_shifted(vmaf: Vmaf, bikes: Path) -> None:
    first, truth, last = (frame.float() / 255 for frame in islice(read_video(bikes), 3))
    blur, shift = blurred(truth), truth.roll(1, dims=3)
    [blur_vmaf], [shift_vmaf] = (vmaf(first, last, [made], [truth]) or [] for made in (blur, shift))
    assert blur_vmaf + 10 < shift_vmaf < 80
    assert psnr(blur, truth) > psnr(shift, truth), "which PSNR has the other way round"


def test_nothing_is_gained_by_sharpening(vmaf: Vmaf, scene: Scene) -> None:
    truth = scene(0)
    contrast = (0.5 + 0.9 * (truth - 0.5), (0.5 + 1.5 * (truth - 0.5)).clamp(0, 1))
    [soft], [hard] = (vmaf(truth, truth, [made], [truth]) or [] for made in contrast)
    assert soft < 97.5 and hard < 97.5


def test_each_frame_has_its_own_figure(vmaf: Vmaf, scene: Scene) -> None:
    truths = [scene(2), scene(4), scene(6)]
    first, second, third = vmaf(scene(0), scene(8), [truths[0], blurred(truths[1]), truths[2]], truths) or []
    assert first == third == 100 and second < 80


def test_tiny_frames_have_none(vmaf: Vmaf) -> None:
    for height, width in ((MIN_SIDE - 1, 64), (64, MIN_SIDE - 1), (8, 8)):
        frame = torch.zeros(1, 3, height, width)
        assert vmaf(frame, frame, [frame], [frame]) is None
    smallest = torch.zeros(1, 3, MIN_SIDE, MIN_SIDE)
    assert vmaf(smallest, smallest, [smallest], [smallest])


def test_an_ffmpeg_without_it_is_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho \"No such filter: 'libvmaf'\" >&2\nexit 8\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    vmaf, reason = load_vmaf()
    assert vmaf is None
    assert reason.startswith(
        f"VMAF is left out: {program} fails to compute VMAF (No such filter: 'libvmaf')."
    )


def test_a_program_that_is_missing_is_named() -> None:
    frame = torch.zeros(1, 3, 32, 32)
    with pytest.raises(EvaluationError, match="/nowhere/ffmpeg cannot be run"):
        Vmaf("/nowhere/ffmpeg")(frame, frame, [frame], [frame])
