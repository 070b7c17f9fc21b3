"""The interpolator on a GPU: half precision against float32, any size, graphs against none, and nothing that leaks.

pytest --noconftest tests/gpu needs torch, pytest and what `dain_core` imports.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cuda_ext
from dain_core.engine import Interpolator
from dain_core.metrics import psnr

if not torch.cuda.is_available():
    pytest.skip("no GPU that PyTorch can use", allow_module_level=True)
if cuda_ext.backend() != "cuda":
    pytest.skip("the CUDA kernels are not built: python -m cuda_ext.build", allow_module_level=True)

#: How far from float32 a half-precision result may be, dB.
CLOSE = {"fp16": 50.0, "bf16": 35.0}


@pytest.fixture(scope="module")
def exact() -> Interpolator:
    return Interpolator.load(device="cuda", precision="fp32")


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def half(request: pytest.FixtureRequest) -> Interpolator:
    return Interpolator.load(device="cuda", precision=request.param)


def moving_texture(height: int, width: int, shift: int) -> Tensor:
    """A smooth random picture, moved right by `shift` pixels."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand((1, 3, 12, 16), generator=generator)
    large = torch.nn.functional.interpolate(coarse, (height, width + 32), mode="bicubic").clamp(0, 1)
    return large[..., 16 - shift : 16 - shift + width].contiguous().cuda()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (65, 33), (128, 192), (270, 481), (1080, 1920)])
def test_half_precision_is_close(half: Interpolator, exact: Interpolator, size: tuple[int, int]) -> None:
    first, second = moving_texture(*size, 0), moving_texture(*size, 6)
    times = [0.25, 0.5, 0.8]
    result, expected = half.interpolate(first, second, times), exact.interpolate(first, second, times)
    assert result.shape == (3, 3, *size) and result.dtype == torch.float32
    for ours, theirs in zip(result, expected, strict=True):
        assert psnr(ours[None], theirs[None]) > CLOSE[half.precision]
    assert half.recomputed == 0


def test_graphs_change_nothing() -> None:
    """The first frames of a size run without, the next are captured, the last are replays."""
    engine = Interpolator.load(device="cuda", precision="fp16")
    frames = [moving_texture(120, 200, shift) for shift in (0, 3, 6, 9, 12)]
    expected = [
        Interpolator.load(device="cuda", precision="fp16").interpolate(first, second, [0.4])
        for first, second in zip(frames, frames[1:], strict=False)
    ]
    known = [engine.frame(frame) for frame in frames]
    pairs = [engine.pair(first, second) for first, second in zip(known, known[1:], strict=False)]
    results = [
        engine.between(pair, 0.4) for pair in pairs
    ]  # nothing of an earlier frame may have been overwritten
    for ours, theirs in zip(results, expected, strict=True):
        assert psnr(ours, theirs) > 55


def test_sizes_may_change_at_any_frame(exact: Interpolator) -> None:
    engine = Interpolator.load(device="cuda", precision="fp16")
    sizes = [(64, 64), (64, 64), (100, 60), (64, 64), (100, 60), (100, 60), (100, 60), (64, 64)]
    kept = []
    for size in sizes:
        first, second = moving_texture(*size, 0), moving_texture(*size, 4)
        pair = engine.pair(engine.frame(first), engine.frame(second))
        kept.append((pair, exact.interpolate(first, second, [0.5])))
    for pair, expected in kept:
        assert psnr(engine.between(pair, 0.5), expected) > 50


def test_a_broken_half_precision_result_is_made_again(exact: Interpolator) -> None:
    engine = Interpolator.load(device="cuda", precision="fp16")
    engine._model.rectify.stem.weight.fill_(float("inf"))
    first, second = moving_texture(64, 64, 0), moving_texture(64, 64, 6)
    result = engine.interpolate(first, second, [0.25, 0.5, 0.75])
    assert engine.recomputed == 3
    torch.testing.assert_close(result, exact.interpolate(first, second, [0.25, 0.5, 0.75]), atol=1e-3, rtol=0)


def test_frames_that_are_not_finite_are_an_error(half: Interpolator) -> None:
    first = moving_texture(64, 64, 0)
    with pytest.raises(FloatingPointError, match="check the input"):
        half.interpolate(first * float("nan"), first, [0.5])


@pytest.mark.parametrize("keep_contexts", [True, False])
@torch.inference_mode()
def test_bands_change_nothing(half: Interpolator, keep_contexts: bool) -> None:
    model, time = half._model, torch.tensor(0.4, device="cuda")
    frames = [channels_last(moving_texture(192, 256, shift)) for shift in (0, 6)]
    first, second = (model.features(frame) for frame in frames)
    motion = model.motion(first, second)
    whole = model.synthesise(first, second, motion, time)
    first, second = (model.features(frame, keep_contexts) for frame in frames)
    for rows in (50, 100):
        assert psnr(model.synthesise(first, second, motion, time, rows), whole) > 70


@pytest.mark.parametrize("size", [(96, 160), (1080, 1920)])
def test_a_stream_does_not_leak(size: tuple[int, int]) -> None:
    engine = Interpolator.load(device="cuda", precision="fp16")
    frames = [moving_texture(*size, shift) for shift in (0, 4)]
    before, used = engine.frame(frames[0]), []
    for index in range(50):
        after = engine.frame(frames[index % 2])
        engine.between(engine.pair(before, after), 0.5)
        before = after
        used.append(torch.cuda.memory_stats()["requested_bytes.all.current"])
    assert used[-1] <= used[4]
