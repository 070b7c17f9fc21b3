"""The interpolator on a GPU: half precision against float32, any size, graphs against none, and nothing that leaks.

pytest --noconftest tests/gpu needs torch, pytest and what `dain_core` imports.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import cuda_ext
from dain_core.evaluation.metrics import psnr
from dain_core.network.model import DAIN
from dain_core.runtime.backends.fused.stages import FusedStages
from dain_core.runtime.backends.plain import PlainStages
from dain_core.runtime.budget import Budget
from dain_core.runtime.engine import WARM_UP_SIZES, Interpolator, Pending
from dain_core.runtime.memory import GIB, FrameTooLargeError
from dain_core.weights.files import SHIPPED, load_weights

if not torch.cuda.is_available():
    pytest.skip("no GPU that PyTorch can use", allow_module_level=True)
if cuda_ext.backend() != "cuda":
    pytest.skip("the CUDA kernels are not built: python -m cuda_ext.build", allow_module_level=True)

#: How far from float32 a half-precision result may be, dB.
CLOSE = {"fp16": 50.0, "bf16": 35.0}


@pytest.fixture(scope="module")
def exact() -> Interpolator:
    return Interpolator.load("dain", device="cuda", precision="fp32")


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def half(request: pytest.FixtureRequest) -> Interpolator:
    return Interpolator.load("dain", device="cuda", precision=request.param)


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


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
)
@pytest.mark.parametrize("model", ["dain", "dain-lite"])
def test_eight_bits_are_close(model: str) -> None:
    for size in ((65, 33), (270, 481), (1080, 1920)):
        first, second = moving_texture(*size, 0), moving_texture(*size, 6)
        engines = (Interpolator.load(model, device="cuda", precision=name) for name in ("fp8", "fp32"))
        ours, theirs = (engine.interpolate(first, second, [0.25, 0.5]) for engine in engines)
        assert psnr(ours, theirs) > 45


def test_graphs_change_nothing() -> None:
    """The first frames of a size run without, the next are captured, the last are replays."""
    engine = Interpolator.load("dain", device="cuda", precision="fp16")
    frames = [moving_texture(120, 200, shift) for shift in (0, 3, 6, 9, 12)]
    expected = [
        Interpolator.load("dain", device="cuda", precision="fp16").interpolate(first, second, [0.4])
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
    engine = Interpolator.load("dain", device="cuda", precision="fp16")
    sizes = [(64, 64), (64, 64), (100, 60), (64, 64), (100, 60), (100, 60), (100, 60), (64, 64)]
    kept = []
    for size in sizes:
        first, second = moving_texture(*size, 0), moving_texture(*size, 4)
        pair = engine.pair(engine.frame(first), engine.frame(second))
        kept.append((pair, exact.interpolate(first, second, [0.5])))
    for pair, expected in kept:
        assert psnr(engine.between(pair, 0.5), expected) > 50


def test_a_broken_half_precision_result_is_made_again(exact: Interpolator) -> None:
    engine = Interpolator.load("dain", device="cuda", precision="fp16")
    engine._stages.model.rectify.stem.weight.fill_(float("inf"))
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
    model, time = half._stages.model, torch.tensor(0.4, device="cuda")
    frames = [channels_last(moving_texture(191, 253, shift)) for shift in (0, 6)]
    first, second = (model.features(frame) for frame in frames)
    motion = model.motion(first, second)
    whole = model.synthesise(first, second, motion, time)
    first, second = (model.features(frame, keep_contexts) for frame in frames)
    for rows in (50, 100):
        assert psnr(model.synthesise(first, second, motion, time, rows), whole) > 70


@pytest.mark.parametrize("size", [(96, 160), (1080, 1920)])
def test_a_stream_does_not_leak(size: tuple[int, int]) -> None:
    engine = Interpolator.load("dain", device="cuda", precision="fp16")
    frames = [moving_texture(*size, shift) for shift in (0, 4)]
    before, used = engine.frame(frames[0]), []
    for index in range(50):
        after = engine.frame(frames[index % 2])
        engine.between(engine.pair(before, after), 0.5)
        before = after
        used.append(torch.cuda.memory_stats()["requested_bytes.all.current"])
    assert used[-1] <= used[4]


# ---------------------------------------------------------------- memory


def free_garbage() -> None:
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def allowed(extra: int) -> Iterator[None]:
    """Within this, the process may have `extra` bytes more of the GPU's memory than it has."""
    free_garbage()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + extra) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def stages(engine: Interpolator) -> FusedStages:
    assert isinstance(engine._stages, FusedStages)
    return engine._stages


def texture_psnr(engine: Interpolator, height: int, width: int, frames: int = 4) -> float:
    """Of the frame between the last two of a stream, against the texture half-way."""
    known = engine.frame(moving_texture(height, width, 0))
    for index in range(1, frames):
        before, known = known, engine.frame(moving_texture(height, width, 4 * index))
        between = engine.between(engine.pair(before, known), 0.5)
        del before
    truth = moving_texture(height, width, 4 * frames - 6)
    # The worst of the parts: a band or a tile that is wrong must show.
    parts = zip(between.split(256, 2), truth.split(256, 2), strict=True)
    return min(float(psnr(*part)) for part in parts)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize(
    ("height", "width", "gib"),
    [
        (480, 640, 8.0),
        (720, 1280, 1.6),
        (1080, 1920, 60),
        (1080, 1920, 3.2),
        (2160, 3840, 60),
        (2160, 3840, 6.4),
    ],
)
def test_a_plan_keeps_its_promise(height: int, width: int, gib: float, precision: str) -> None:
    free_garbage()
    before = torch.cuda.memory_allocated()
    memory = int(gib * GIB * (1 if precision == "fp16" else 4))
    engine = Interpolator.load("dain", device="cuda", precision=precision, memory=memory)
    torch.cuda.reset_peak_memory_stats()
    assert texture_psnr(engine, height, width) > 33
    peak, plan = torch.cuda.max_memory_allocated() - before, stages(engine)._plan
    assert plan and engine.replanned == 0
    promise = stages(engine)._planner.peak(plan)
    print(f"{height}x{width} {precision} {gib}: {peak / GIB:.2f} of {promise / GIB:.2f} GiB, {plan}")
    assert (0.6 if precision == "fp16" else 0.4) * promise < peak <= promise <= memory


def test_large_frames_of_a_narrow_network_are_graphs() -> None:
    free_garbage()
    before = torch.cuda.memory_allocated()
    engine = Interpolator.load("dain-lite", device="cuda", precision="fp16")
    torch.cuda.reset_peak_memory_stats()
    known, shifts = engine.frame(moving_texture(1080, 1920, 0)), (4, 8, 12)
    for shift in shifts:  # as it comes, captured, replayed
        last, known = known, engine.frame(moving_texture(1080, 1920, shift))
        result = engine.between(engine.pair(last, known), 0.4)
    peak, plan = torch.cuda.max_memory_allocated() - before, stages(engine)._plan
    assert plan and plan.graphs and not plan.small and engine.recomputed == 0
    promise = stages(engine)._planner.peak(plan)
    print(f"{peak / GIB:.2f} of {promise / GIB:.2f} GiB")
    assert peak <= promise
    exact = Interpolator.load("dain-lite", device="cuda", precision="fp32")
    one, two = (moving_texture(1080, 1920, shift) for shift in shifts[1:])
    assert psnr(result, exact.interpolate(one, two, [0.4])) > CLOSE["fp16"]


def test_plans_change_nothing(half: Interpolator) -> None:
    frames = moving_texture(1080, 1920, 0), moving_texture(1080, 1920, 6)
    expected = half.interpolate(*frames, [0.4])
    for gib in (3.0, 2.0, 1.7):
        engine = Interpolator.load("dain", device="cuda", precision=half.precision, memory=int(gib * GIB))
        assert psnr(engine.interpolate(*frames, [0.4]), expected) > (80 if half.precision == "fp16" else 60)


@pytest.mark.parametrize(("height", "width", "gib"), [(1080, 1920, 4), (2160, 3840, 8)])
def test_a_cap_of_the_allocator_is_respected(height: int, width: int, gib: int) -> None:
    with allowed(gib * GIB):
        engine = Interpolator.load("dain", device="cuda", precision="fp16")
        assert texture_psnr(engine, height, width) > 33
        # What earlier tests left lies in pieces.
        assert engine.replanned <= 1


def test_what_others_take_is_not_planned_with() -> None:
    free_garbage()
    hog = torch.empty(torch.cuda.mem_get_info()[0] - 4 * GIB, dtype=torch.uint8, device="cuda")
    engine = Interpolator.load("dain", device="cuda", precision="fp16")
    assert texture_psnr(engine, 1080, 1920) > 33 and engine.replanned <= 1
    del hog


@pytest.mark.parametrize(("height", "width", "gib"), [(1080, 1920, 2.6), (720, 1280, 2.6)])
def test_running_out_of_memory_is_survived(height: int, width: int, gib: float) -> None:
    """With a budget that is not there: a stage, or the capture of a graph, fails and is run again in smaller parts."""
    engine = Interpolator.load("dain", device="cuda", precision="fp16", memory=60 * GIB)
    with allowed(int(gib * GIB)):
        assert texture_psnr(engine, height, width) > 33
        assert engine.replanned > 0
        replanned = engine.replanned
        assert texture_psnr(engine, height, width) > 33
        assert engine.replanned == replanned


def test_memory_that_vanishes_in_mid_stream() -> None:
    """Frames and pairs that were made before are of use still."""
    engine = Interpolator.load("dain", device="cuda", precision="fp16")
    first, second = moving_texture(1080, 1920, 0), moving_texture(1080, 1920, 6)
    known = engine.frame(first), engine.frame(second)
    pair = engine.pair(*known)
    expected = engine.between(pair, 0.5)
    with allowed(GIB // 2):
        found = engine.between(pair, 0.5)
        assert engine.replanned > 0
        assert psnr(found, expected) > 80
        assert psnr(engine.between(engine.pair(*known), 0.5), expected) > 80


def test_a_frame_for_which_there_is_no_room_is_refused_and_the_next_is_not() -> None:
    engine = Interpolator.load("dain", device="cuda", precision="fp16")
    with allowed(GIB), pytest.raises(FrameTooLargeError, match="needs at least"):
        engine.frame(moving_texture(2160, 3840, 0))
    with allowed(GIB // 4), pytest.raises(FrameTooLargeError):
        Interpolator.load("dain", device="cuda", precision="fp16", memory=60 * GIB).frame(
            moving_texture(1080, 1920, 0)
        )
    assert texture_psnr(engine, 128, 192) > 33


def test_the_largest_frames() -> None:
    engine = Interpolator.load("dain", device="cuda", precision="fp16")
    assert texture_psnr(engine, 4320, 8192, 2) > 33


def test_results_that_are_asked_for_later(half: Interpolator) -> None:
    frames = [half.frame(moving_texture(200, 300, shift)) for shift in (0, 4, 8)]
    pairs = [half.pair(*frames[:2]), half.pair(*frames[1:])]
    expected = [half.between(pair, time) for pair in pairs for time in (0.25, 0.5)]
    pending = [half.submit(pair, time) for pair in pairs for time in (0.25, 0.5)]
    for ours, theirs in zip(reversed(pending), reversed(expected), strict=True):
        assert psnr(ours.result(), theirs) > 60


def test_float32_is_the_plain_network(exact: Interpolator) -> None:
    plain = DAIN(exact._source.config)
    plain.load_state_dict(load_weights("dain", exact._source.config))
    stages = PlainStages(plain.prepare(torch.float32).cuda())
    first, second = (channels_last(moving_texture(190, 311, shift)) for shift in (0, 6))
    with torch.inference_mode():
        known = stages.features(first), stages.features(second)
        expected, _ = stages.synthesis(*known, stages.motion(*known), torch.tensor(0.5, device="cuda"))
    assert psnr(exact.interpolate(first, second, [0.5]), expected.clamp(0, 1)) > 60


def kernels_of(call: Callable[[], object]) -> set[str]:
    """The names of our own kernels that a call runs, with their template arguments."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return {event.key for event in profile.key_averages() if "dain::" in event.key}


@pytest.mark.parametrize("model", SHIPPED)
def test_warming_up_runs_every_kernel_of_real_frames(model: str) -> None:
    """So what fails on this GPU fails before a worker says that it is ready."""
    engine = Interpolator.load(model, device="cuda", precision="fp16")
    warm = kernels_of(engine.warm_up)
    if not warm:
        pytest.skip("the profiler sees no kernels here")
    for size in ((270, 480), (720, 1280), (1080, 1920), (2160, 3840)):
        frames = moving_texture(*size, 0), moving_texture(*size, 6)
        assert kernels_of(lambda frames=frames: engine.interpolate(*frames, [0.5])) <= warm, size


def test_warming_up_fits_into_little_memory() -> None:
    """A budget that is too small for the large frame is enough for small videos."""
    engine = Interpolator.load("dain", device="cuda", precision="fp16", memory=GIB // 2)
    with pytest.raises(FrameTooLargeError):
        engine.frame(moving_texture(*WARM_UP_SIZES["cuda"][-1], 0))
    engine.warm_up()
    with pytest.raises(FrameTooLargeError):
        Interpolator.load("dain", device="cuda", precision="fp16", memory=1).warm_up()


def test_models_share_one_budget() -> None:
    """Two models and the float32 twin of one work by turns within it."""
    free_garbage()
    before, limit = torch.cuda.memory_allocated(), 5 * GIB
    budget = Budget(limit)
    engines = [Interpolator.load(model, device="cuda", precision="fp16", memory=budget) for model in SHIPPED]
    torch.cuda.reset_peak_memory_stats()
    for engine in (*engines, *engines):
        assert texture_psnr(engine, 1080, 1920) > 33
    engine = next(engine for engine in engines if engine.model_name == "dain")
    frames = moving_texture(480, 640, 0), moving_texture(480, 640, 6)
    expected = engine.interpolate(*frames, [0.5])
    engine._stages.model.rectify.head.bias.fill_(float("nan"))
    assert psnr(engine.interpolate(*frames, [0.5]), expected) > 45 and engine.recomputed == 1
    assert torch.cuda.max_memory_allocated() - before <= limit
    assert all(engine.replanned == 0 for engine in engines)


def test_threads_may_ask_for_results_that_are_made_again(exact: Interpolator) -> None:
    """Each thread on a stream of its own: they must not overwrite each other's frames in the graphs of the twin."""
    engine = Interpolator.load("dain", device="cuda", precision="fp16")
    engine._stages.model.rectify.head.bias.fill_(float("nan"))
    pairs = [(moving_texture(96, 160, 0), moving_texture(96, 160, shift)) for shift in range(16)]
    expected = [exact.interpolate(*pair, [0.5]) for pair in pairs]
    pending = [engine.submit(engine.pair(*map(engine.frame, pair)), 0.5) for pair in pairs]
    torch.cuda.synchronize()

    def fetch(frame: Pending) -> Tensor:
        with torch.cuda.stream(torch.cuda.Stream()):
            return frame.result()

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(fetch, pending))
    torch.cuda.synchronize()
    for ours, theirs in zip(found, expected, strict=True):
        assert psnr(ours, theirs) > 60
    assert engine.recomputed == len(pairs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_an_engine_runs_on_the_gpu_that_it_was_given(exact: Interpolator) -> None:
    """Whatever the current one is. Every frame after the second is a replayed graph."""
    engine = Interpolator.load("dain", device="cuda:1", precision="fp16")
    for shift in (2, 4, 6, 8):
        first, second = moving_texture(96, 160, 0), moving_texture(96, 160, shift)
        found = engine.interpolate(first.to("cuda:1"), second.to("cuda:1"), [0.5])
        assert found.device == torch.device("cuda:1") and torch.cuda.current_device() == 0
        assert psnr(found.to("cuda:0"), exact.interpolate(first, second, [0.5])) > CLOSE["fp16"]


def test_a_frame_elsewhere_is_refused(half: Interpolator) -> None:
    with pytest.raises(ValueError, match="on cpu, the model on cuda:0"):
        half.frame(torch.zeros(1, 3, 8, 8))
