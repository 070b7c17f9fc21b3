"""The interpolator: sizes, precisions, several times from one pair, what it refuses, and that it interpolates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dain_core.evaluation.metrics import psnr
from dain_core.runtime.color import ColorSpec, to_rgb, to_yuv
from dain_core.runtime.devices import DeviceError
from dain_core.runtime.engine import Interpolator
from dain_core.runtime.pixels import PixelFormat
from dain_core.weights.files import SHIPPED


@pytest.fixture(scope="module")
def engine() -> Interpolator:
    return Interpolator.load("dain", device="cpu", precision="fp32")


def moving_texture(height: int, width: int, shift: int) -> Tensor:
    """A smooth random picture, moved right by `shift` pixels."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand((1, 3, 12, 16), generator=generator)
    large = torch.nn.functional.interpolate(coarse, (height, width + 32), mode="bicubic").clamp(0, 1)
    return large[..., 16 - shift : 16 - shift + width].contiguous()


def test_what_it_says_of_itself(engine: Interpolator) -> None:
    assert engine.model_name == "dain"
    assert engine.device == torch.device("cpu")
    assert (engine.precision, engine.backend, engine.recomputed) == ("fp32", "cpu", 0)


def test_a_cpu_gets_the_small_model_unless_another_is_named() -> None:
    assert Interpolator.load(device="cpu").model_name == "dain-lite"


def test_a_cpu_with_matrix_instructions_computes_in_bf16() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    expected = "bf16" if "amx_bf16" in flags else "fp32"
    assert Interpolator.load(device="cpu").precision == expected


@pytest.mark.parametrize("model", SHIPPED)
def test_it_finds_the_frame_between(model: str) -> None:
    """Clearly better than the mean of the two frames, on a picture that moves by 8 pixels."""
    engine = Interpolator.load(model, device="cpu")
    first, truth, second = (moving_texture(96, 128, shift) for shift in (0, 4, 8))
    between = engine.interpolate(first, second, [0.5])
    assert psnr(between, truth) > psnr((first + second) / 2, truth) + 3


def test_times_share_one_pair(engine: Interpolator) -> None:
    first, second = moving_texture(64, 64, 0), moving_texture(64, 64, 6)
    together = engine.interpolate(first, second, [0.25, 0.75])
    pair = engine.pair(engine.frame(first), engine.frame(second))
    assert torch.equal(together[1:], engine.between(pair, 0.75))
    assert not torch.equal(together[0], together[1])
    assert engine.interpolate(first, second, []).shape == (0, 3, 64, 64)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 65), (33, 47), (64, 64)])
def test_any_size(engine: Interpolator, size: tuple[int, int]) -> None:
    first, second = torch.rand(1, 3, *size), torch.rand(1, 3, *size)
    between = engine.interpolate(first, second, [0.5])
    assert between.shape == (1, 3, *size)
    assert float(between.min()) >= 0 and float(between.max()) <= 1


YUV = PixelFormat.named("yuv420p")


def flat(luma: int, u: int, v: int, height: int = 64, width: int = 96) -> list[Tensor]:
    codes = zip(YUV.plane_shapes(width, height), (luma, u, v), strict=True)
    return [torch.full(shape, code, dtype=torch.uint8) for shape, code in codes]


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize(
    "codes", [(245, 128, 128), (5, 128, 128), (200, 60, 200), (235, 128, 128), (120, 20, 235)]
)
def test_a_frame_between_equal_frames_is_the_same(codes: tuple[int, int, int], matrix: str) -> None:
    """Whatever its colours: what is whiter than white, say, must not flicker from source frame to new frame."""
    engine, spec = Interpolator.load("dain-lite", device="cpu", precision="fp32"), ColorSpec(matrix, False)
    planes = flat(*codes)
    picture = to_rgb(planes, YUV, spec)
    made = to_yuv(engine.interpolate(picture, picture, [0.5]), YUV, spec)
    for ours, theirs in zip(made, planes, strict=True):
        off = (ours.int() - theirs.int()).abs()
        assert int(off.max()) <= 2 and float(off.float().mean()) < 0.05


def test_an_edge_whiter_than_white_moves_as_it_is(engine: Interpolator) -> None:
    """A bar of luma 250 on 60 that moves by eight pixels: as bright, and where it should be."""
    spec = ColorSpec("bt709", False)

    def bar(left: int) -> Tensor:
        planes = flat(60, 128, 128, 96, 128)
        planes[0][:, left : left + 40] = 250
        return to_rgb(planes, YUV, spec)

    luma, u, v = to_yuv(engine.interpolate(bar(40), bar(48), [0.5]), YUV, spec)
    inside, outside = luma[16:80, 50:78].int(), luma[16:80, :34].int()
    assert int((inside - 250).abs().max()) <= 3
    assert int((outside - 60).abs().max()) <= 3
    assert int(luma.min()) >= 16 and int(luma.max()) <= 253
    edges = (luma[48, 32:96] > 155).int().tolist()
    assert edges.index(1) in range(11, 14) and sum(edges) in range(38, 43)


def test_colours_of_a_screen_stay_such(engine: Interpolator) -> None:
    """Where both frames lie in [0, 1], a network that swings over is cut off there, as before."""
    black_and_white = torch.zeros(1, 3, 64, 64)
    black_and_white[..., ::4] = 1
    made = engine.interpolate(black_and_white, black_and_white.roll(2, 3), [0.5])
    assert float(made.min()) >= 0 and float(made.max()) <= 1


def test_other_floating_dtypes_and_layouts_are_welcome(engine: Interpolator) -> None:
    first, second = moving_texture(64, 64, 0), moving_texture(64, 64, 6)
    expected = engine.interpolate(first, second, [0.5])
    strided = first.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(
        engine.interpolate(strided.double(), second, [0.5]), expected, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close(engine: Interpolator, precision: str) -> None:
    half = Interpolator.load("dain", device="cpu", precision=precision)
    first, second = moving_texture(64, 64, 0), moving_texture(64, 64, 6)
    result = half.interpolate(first, second, [0.5])
    assert result.dtype == torch.float32 and half.recomputed == 0
    assert psnr(result, engine.interpolate(first, second, [0.5])) > 35


def test_a_broken_half_precision_result_is_made_again(engine: Interpolator) -> None:
    """Also where the warp would hide the break: it copies pixels whose flow is no number."""
    half = Interpolator.load("dain", device="cpu", precision="bf16")
    half._stages.model.flow.refine[0][0].weight.fill_(float("inf"))
    first, second = moving_texture(64, 64, 0), moving_texture(64, 64, 6)
    result = half.interpolate(first, second, [0.25, 0.5])
    assert half.recomputed == 2
    torch.testing.assert_close(result, engine.interpolate(first, second, [0.25, 0.5]), atol=1e-4, rtol=0)


def test_results_may_be_asked_for_later(engine: Interpolator) -> None:
    """In any order, more than once, and when other frames have been submitted meanwhile."""
    half = Interpolator.load("dain", device="cpu", precision="bf16")
    frames = [half.frame(moving_texture(64, 64, shift)) for shift in (0, 4, 8)]
    pairs = [half.pair(*frames[:2]), half.pair(*frames[1:])]
    expected = [half.between(pair, time) for pair in pairs for time in (0.25, 0.5)]
    pending = [half.submit(pair, time) for pair in pairs for time in (0.25, 0.5)]
    for ours, theirs in zip(reversed(pending), reversed(expected), strict=True):
        assert torch.equal(ours.result(), theirs) and torch.equal(ours.result(), theirs)
    half._stages.model.rectify.stem.weight.fill_(float("inf"))
    pending = [half.submit(pair, 0.5) for pair in pairs]
    assert half.recomputed == 0
    for ours, theirs in zip(reversed(pending), (expected[3], expected[1]), strict=True):
        assert psnr(ours.result(), theirs) > 35 and ours.result() is ours.result()
    assert half.recomputed == 2


def test_a_broken_float32_result_is_an_error(engine: Interpolator) -> None:
    first = moving_texture(64, 64, 0)
    with pytest.raises(FloatingPointError, match="check the input"):
        engine.interpolate(first * float("nan"), first, [0.5])


@pytest.mark.parametrize("time", [0, 1, -0.5, 1.5, float("nan")])
def test_times_outside_the_pair_are_refused(engine: Interpolator, time: float) -> None:
    frame = engine.frame(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="0 < t < 1"):
        engine.between(engine.pair(frame, frame), time)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.zeros(3, 8, 8), r"\(1, 3, height, width\)"),
        (torch.zeros(2, 3, 8, 8), r"\(1, 3, height, width\)"),
        (torch.zeros(1, 4, 8, 8), r"\(1, 3, height, width\)"),
        (torch.zeros(1, 3, 0, 8), r"\(1, 3, height, width\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "divide 8-bit values by 255"),
        (torch.zeros(1, 3, 8, 8, device="meta"), "on meta, the model on cpu"),
    ],
)
def test_bad_frames_are_refused(engine: Interpolator, frame: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine.frame(frame)


def test_frames_of_two_sizes_are_refused(engine: Interpolator) -> None:
    """Even where padding would make them alike."""
    with pytest.raises(ValueError, match="8x10 and 10x8"):
        engine.pair(engine.frame(torch.rand(1, 3, 10, 8)), engine.frame(torch.rand(1, 3, 8, 10)))


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="no model is called 'x'"):
        Interpolator.load("x", device="cpu")
    with pytest.raises(ValueError, match="'int4' is none of auto, fp32"):
        Interpolator.load(device="cpu", precision="int4")
    with pytest.raises(ValueError, match="fp8 needs a GPU of compute capability 9.0"):
        Interpolator.load(device="cpu", precision="fp8")
    with pytest.raises(ValueError, match="no block 'head' to compute in eight bits: it has flow, depth"):
        Interpolator.load("dain-lite", device="cpu", precision="int8", eight_bits={"head"})
    with pytest.raises(DeviceError, match="no device is called 'gpu'"):
        Interpolator.load(device="gpu")


def test_all_work_is_done_with_the_engines_device_as_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is captured on the current device, whatever device its tensors are on."""
    entered: list[torch.device] = []

    @contextmanager
    def note(device: torch.device) -> Iterator[None]:
        entered.append(device)
        yield
        entered.pop()

    monkeypatch.setattr("dain_core.runtime.engine.current", note)
    engine = Interpolator.load("dain-lite", device="cpu", precision="bf16")
    for name in ("features", "motion", "synthesis"):
        stage = getattr(engine._stages, name)

        def run(*inputs: Any, stage: Callable[..., Any] = stage) -> Any:
            assert entered and set(entered) == {engine.device}
            return stage(*inputs)

        monkeypatch.setattr(engine._stages, name, run)
    engine.warm_up()
    assert entered == []


def test_warming_up_leaves_no_trace(engine: Interpolator) -> None:
    engine.warm_up()
    assert engine.recomputed == 0


def test_work_on_a_cpu_can_be_stopped_within_a_frame(engine: Interpolator) -> None:
    frames = torch.rand(2, 1, 3, 64, 64)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), engine.interruptible(check):
        engine.frame(frames[0])
    assert calls == 50
    engine.frame(frames[0])
    assert calls == 50
