"""The network against the original, stage by stage, forward and backward.

The original was run once, with weights from a formula, on two frames of 128x192; `tests/data` keeps its numbers.
`pytest -s` prints the largest deviation of every stage.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dain_core.network.model import DAIN, Features, ModelConfig, Motion, Synthesis
from dain_core.network.modules.flow import bilinear_warp
from dain_core.network.modules.layers import upsample
from dain_core.network.padding import Padding

DATA = Path(__file__).parents[2] / "data"
Golden = Callable[[str], dict[str, Tensor]]


def thin(full: Tensor) -> Tensor:
    """The pixels of a 128x192 map that the golden files keep: one in nine."""
    return full[..., 1::3, 2::3]


def deviation(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


def share_off(ours: Tensor, theirs: Tensor) -> float:
    """The share of values that differ by more than a quarter of an 8-bit level."""
    return float(((ours - theirs).abs() > 1e-3).float().mean())


def test_official_keys_and_shapes(official_keys: dict[str, tuple[tuple[int, ...], int]]) -> None:
    with torch.device("meta"):
        model = DAIN()
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert ours == {key: shape for key, (shape, _) in official_keys.items()}
    assert sum(parameter.numel() for parameter in model.parameters()) == 24_031_656


def test_formula_weights_are_those_of_the_golden_run(
    formula_weights: dict[str, Tensor], official_keys: dict[str, tuple[tuple[int, ...], int]]
) -> None:
    """Or no comparison below means anything."""
    ours = {key: zlib.crc32(value.numpy().tobytes()) for key, value in formula_weights.items()}
    assert ours == {key: crc for key, (_, crc) in official_keys.items()}


def test_loading_is_strict(formula_weights: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        model = DAIN()
    incomplete = {key: value for key, value in formula_weights.items() if key != "depthNet.4.bias"}
    with pytest.raises(RuntimeError, match="Missing.*depth.4.bias"):
        model.load_state_dict(incomplete, assign=True)
    with pytest.raises(RuntimeError, match="Unexpected.*other"):
        model.load_state_dict(formula_weights | {"other": torch.zeros(1)}, assign=True)


@pytest.fixture
def padded_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original sees frames that are padded already: where a flow leads out of them, pixels stay where they are."""
    monkeypatch.setattr("dain_core.network.model.within_frame", lambda flow: flow)


@pytest.mark.usefixtures("padded_before")
@torch.inference_mode()
def test_every_stage_is_the_originals(
    golden_model: DAIN, golden: Golden, golden_frames: tuple[Tensor, Tensor]
) -> None:
    theirs = golden("network")
    features = golden_model.features(torch.cat(golden_frames))
    first, second = features.halves()
    pyramids = [
        [torch.cat(level) for level in zip(a, b, strict=True)]
        for a, b in (
            (first.pyramid, second.pyramid),
            (second.pyramid, first.pyramid),
        )
    ]
    levels = golden_model.flow(*pyramids)
    motion = golden_model.motion(first, second)
    table = {"log depth": deviation(thin(features.context[:, -1:]), theirs["log_depth"])}
    for level, flow in zip((6, 5, 4, 3, 2), levels, strict=True):
        for direction, ours in zip(("01", "10"), flow.chunk(2), strict=True):
            table[f"flow {direction}, level {level}"] = deviation(ours, theirs[f"pwc{direction}_flow{level}"])
    kept = theirs["ctx_channels"]
    for index, frame in enumerate((first, second)):
        table[f"flow {index}, full size"] = deviation(
            0.5 * thin(motion.flows[index]), theirs[f"upflow{index}"]
        )
        table[f"kernel {index}"] = deviation(thin(motion.kernels[index]), theirs[f"filter{index}"])
        means = frame.context[:, :195].double().mean((0, 2, 3))
        table[f"context {index}, means"] = deviation(means, theirs[f"ctx{index}_mean"])
        deviations = frame.context[:, :195].double().std((0, 2, 3), correction=0)
        table[f"context {index}, deviations"] = deviation(deviations, theirs[f"ctx{index}_std"])
    table["context 0"] = deviation(thin(first.context[:, kept]), theirs["ctx0_sub"])
    result = golden_model.synthesise(first, second, motion, 0.5)
    table |= synthesis_deviations(result, theirs, kept)

    print(*(f"\n{stage:24}{worst:.1e}" for stage, worst in table.items()))
    assert {stage: worst for stage, worst in table.items() if worst > 5e-5} == {}

    # These were kept in half precision.
    torch.testing.assert_close(
        thin(second.context[:, kept]), theirs["ctx1_sub"].float(), atol=1e-3, rtol=1e-3
    )
    for warped, name in zip(result.contexts, ("wctx0_sub", "wctx2_sub"), strict=True):
        ours = thin(warped[:, [*kept[::2], 195]])
        torch.testing.assert_close(ours, theirs[name].float(), atol=1e-3, rtol=1e-3)


def synthesis_deviations(result: Synthesis, theirs: dict[str, Tensor], kept: Tensor) -> dict[str, float]:
    table = {}
    for index, suffix in enumerate(("0", "2")):
        table[f"projected flow {index}"] = deviation(thin(result.flows[index]), theirs[f"off{index}"])
        table[f"warped image {index}"] = deviation(thin(result.images[index]), theirs[f"ref{suffix}"])
        means = result.contexts[index].double().mean((0, 2, 3))
        table[f"warped context {index}, means"] = deviation(means, theirs[f"wctx{suffix}_mean"])
    table["blend"] = deviation(thin(result.blend), theirs["out"])
    table["output"] = deviation(thin(result.output), theirs["rect"])
    return table


@pytest.mark.usefixtures("padded_before")
@torch.inference_mode()
def test_several_times_from_one_pair(
    golden_model: DAIN, golden: Golden, golden_frames: tuple[Tensor, Tensor]
) -> None:
    """With BatchNorm folded, as the engine runs it.

    That rounds differently, and the warp jumps where a position crosses an integer: a few pixels may differ.
    """
    theirs = golden("slow_motion")
    golden_model.prepare(torch.float32)
    first, second = (golden_model.features(frame) for frame in golden_frames)
    motion = golden_model.motion(first, second)
    for percent in (25, 75):
        result = golden_model.synthesise(first, second, motion, percent / 100)
        assert share_off(thin(result.blend), theirs[f"out_{percent}"]) < 1e-3
        assert share_off(thin(result.output), theirs[f"rect_{percent}"]) < 1e-3
        assert deviation(thin(result.flows[0]), theirs[f"off0_{percent}"]) < 5e-5
        assert deviation(thin(result.flows[1]), theirs[f"off1_{percent}"]) < 5e-5


def test_a_training_step_is_the_originals(
    golden_model: DAIN, golden: Golden, golden_frames: tuple[Tensor, Tensor]
) -> None:
    theirs = golden("training_step")
    golden_model.train()
    first, second = golden_model.features(torch.cat(golden_frames)).halves()
    motion = golden_model.motion(first, second)
    result = golden_model.synthesise(first, second, motion, 0.5)
    truth = (golden_frames[0] + golden_frames[1]) / 2
    losses = [((made - truth) ** 2 + 1e-12).sqrt().mean() for made in (result.blend, result.output)]
    assert [float(loss.detach()) for loss in losses] == pytest.approx(theirs["loss"].tolist(), rel=1e-5)
    assert deviation(thin(result.output.detach()), theirs["rect"]) < 5e-5

    gradients = official_gradients(golden_model, losses[1], (first, second), motion, result)
    trained = [name for name, _ in golden_model.named_parameters() if not name.startswith("flow.up_flow.4")]
    assert len(gradients) == len(trained) == len(theirs["grad_l2"]) - 2
    vanishing, relative = {}, {}
    for name, norm in zip(gradient_names(), theirs["grad_l2"].tolist(), strict=True):
        if name in gradients:
            ours = float(gradients[name].double().norm())
            if before_batch_norm(name):
                vanishing[name] = max(ours, norm)
            else:
                relative[name] = abs(ours / norm - 1)
    print(f"\n{'gradient norms, relative':30}{max(relative.values()):.1e}")
    assert {name: error for name, error in relative.items() if error > 1e-2} == {}
    assert max(vanishing.values()) < 1e-5

    for key, expected in theirs.items():
        if key.startswith("grad:"):
            error = (gradients[key.removeprefix("grad:")] - expected).norm() / expected.norm()
            print(f"\n{key.removeprefix('grad:'):40}{float(error):.1e}", end="")
            # In training mode, float32 puts the depth network's first layers 1 % off their float64 gradients.
            assert error < (5e-2 if key.startswith("grad:depthNet.1.") else 2e-4), key


def gradient_names() -> list[str]:
    with np.load(DATA / "golden_training_step.npz") as arrays:
        return [str(name) for name in arrays["names"]]


def before_batch_norm(name: str) -> bool:
    """A bias that the BatchNorm after it subtracts again: its gradient is rounding alone."""
    return name.startswith("depthNet.") and name.endswith(".bias") and name[9:-5] not in ("1", "4")


def official_gradients(
    model: DAIN, loss: Tensor, frames: tuple[Features, Features], motion: Motion, result: Synthesis
) -> dict[str, Tensor]:
    """The loss's gradient by official key, with the two formulas of the original that are no derivatives.

    Depth learns through the weight of the projection alone, the context network through the warp of the contexts
    alone. What the original computes for those two is, as the operators' tests show, our gradient reflected in the
    part that the flow's gradient gives, and our gradient without the pixels that are copied unwarped. So these two
    networks get the original's from here on down; nothing else depends on them.
    """
    weights = [frame.inverse_depth for frame in frames]
    contexts = [frame.context for frame in frames]
    inputs = [*motion.flows, *weights, *contexts, *result.contexts]
    by_input = iter(torch.autograd.grad(loss, inputs, retain_graph=True))
    by_flow, by_weight, by_context, by_warped = ((next(by_input), next(by_input)) for _ in range(4))
    weight_originals = [
        2 * (flow * grad_flow).sum(1, keepdim=True) / weight - grad
        for flow, grad_flow, weight, grad in zip(motion.flows, by_flow, weights, by_weight, strict=True)
    ]
    context_originals = [
        grad - unwarped(flow) * grad_warped
        for flow, grad, grad_warped in zip(result.flows, by_context, by_warped, strict=True)
    ]
    loss.backward(retain_graph=True)
    for network in (model.depth, model.context):
        network.zero_grad()
    torch.autograd.backward([*weights, *contexts], [*weight_originals, *context_originals])
    state = model.state_dict(keep_vars=True)
    return {key: value.grad for key, value in state.items() if value.grad is not None}


def unwarped(flow: Tensor) -> Tensor:
    """Where the warp copies the pixel, (N, 1, H, W)."""
    _, _, h, w = flow.shape
    x, y = torch.arange(w) + flow[:, :1], torch.arange(h)[:, None] + flow[:, 1:]
    too_far = (flow[:, :1].abs() >= w / 2) | (flow[:, 1:].abs() >= h / 2)
    return (x < 0) | (y < 0) | (x > w - 1) | (y > h - 1) | too_far


def test_pwc_warp_is_the_originals(golden: Golden) -> None:
    theirs = golden("operators")
    x, flow = theirs["pwcwarp_x"].requires_grad_(), theirs["pwcwarp_flow"].requires_grad_()
    warped = bilinear_warp(x, flow)
    by_x, by_flow = torch.autograd.grad(warped, (x, flow), theirs["pwcwarp_gout"])
    assert deviation(warped.detach(), theirs["pwcwarp_out"]) < 2e-5
    assert deviation(by_x, theirs["pwcwarp_gx"]) < 2e-5
    # On a whole pixel the slope is that of the left or of the right neighbour, as rounding has it.
    position = flow.detach() + torch.stack(torch.meshgrid(torch.arange(24), torch.arange(16), indexing="xy"))
    smooth = ((position - position.round()).abs() > 1e-4).all(1, keepdim=True)
    assert smooth.float().mean() > 0.95
    assert deviation(by_flow * smooth, theirs["pwcwarp_gflow"] * smooth) < 1e-4


PRUNED = ModelConfig(
    flow_pyramid=(4, 6, 8, 10, 12, 14),
    flow_dense=(8, 8, 6, 6, 4),
    flow_dense_fine=(6, 6, 6, 4, 4),
    flow_refine=(8, 8, 8, 6, 6, 4),
    flow_scale=2,
    depth_stem=8,
    depth_widths=(2, 4, 6),
    depth_narrow=4,
    depth_wide=6,
    depth_scale=4,
    context_width=5,
    kernel_widths=(4, 6, 8, 10, 12, 14),
    rectify_kernel=5,
    rectify_width=6,
    rectify_blocks=2,
)


def test_a_pruned_network_is_another_configuration() -> None:
    model = DAIN(PRUNED).eval()
    assert (PRUNED.flow_multiple, PRUNED.depth_multiple, PRUNED.kernel_multiple) == (128, 64, 32)
    first, second = torch.rand(2, 3, 128, 256), torch.rand(2, 3, 128, 256)
    result = model(first, second, 0.3)
    assert result.output.shape == first.shape
    assert sum(parameter.numel() for parameter in model.parameters()) < 400_000
    assert DAIN(PRUNED).load_state_dict(model.state_dict())


def test_flow_and_depth_at_reduced_size_mean_the_same() -> None:
    """Flow stays in pixels of the full frame: at half size the network sees half the motion and says so."""
    torch.manual_seed(0)
    full = DAIN(replace(PRUNED, flow_scale=1, depth_scale=1)).eval()
    reduced = DAIN(replace(PRUNED, flow_scale=2, depth_scale=2)).eval()
    reduced.load_state_dict(full.state_dict())
    small = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    large = [image.repeat_interleave(2, 2).repeat_interleave(2, 3) for image in small]
    with torch.inference_mode():
        expected = full.motion(*(full.features(image) for image in small)).flows[0]
        flow = reduced.motion(*(reduced.features(image) for image in large)).flows[0]
        depth = full.features(small[0]).inverse_depth, reduced.features(large[0]).inverse_depth
    inner = slice(8, -8)
    torch.testing.assert_close(
        avg_pool2d(flow, 2)[..., inner, inner], 2 * expected[..., inner, inner], atol=0.05, rtol=0.05
    )
    torch.testing.assert_close(avg_pool2d(depth[1], 2), depth[0], atol=0.05, rtol=0.05)


@torch.inference_mode()
def test_only_what_halves_a_frame_sees_it_padded() -> None:
    """Each network as little as it needs. What warps and rectifies sees the frame alone."""
    torch.manual_seed(0)
    model = DAIN(PRUNED).eval()
    first, second = torch.rand(2, 1, 3, 70, 100)
    one, two = model.features(first), model.features(second)
    motion = model.motion(one, two)

    def padded(multiple: int) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        padding = Padding.of(first, multiple)
        return padding.add(first), padding.add(second), padding.remove

    *frames, frame_of = padded(128)
    levels = model.flow_levels(*(model.flow_features(frame) for frame in frames))
    assert levels[-1].shape == (2, 2, 16, 16)  # a quarter, of a half
    assert torch.equal(torch.cat(motion.flows), frame_of(upsample(levels[-1], 8)))
    *frames, frame_of = padded(32)
    for ours, theirs in zip(motion.kernels, model.kernels(*frames), strict=True):
        assert torch.equal(ours, frame_of(theirs))
    frame, _, frame_of = padded(64)
    depth = model.log_depth(first)
    assert torch.equal(depth, frame_of(model.log_depth(frame)))

    assert one.image is first and torch.equal(one.context, model.context(first, depth))
    made = model.synthesise(one, two, motion, 0.5)
    assert made.output.shape == made.blend.shape == first.shape
    torch.testing.assert_close(model(first, second).output, made.output, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_where_a_flow_leads_out_of_a_frame_its_border_is_found() -> None:
    torch.manual_seed(0)
    model = DAIN(PRUNED).eval()
    frame = torch.rand(1, 3, 40, 50)
    known = model.features(frame)
    flow = torch.tensor([18.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 40, 50)
    sampling = torch.zeros(1, 16, 40, 50)
    sampling[:, [5, 6, 9, 10]] = 1  # the four pixels around the position, each in its quadrant
    blend = model.blend(known, known, Motion((flow, -flow), (sampling, sampling)), 0.5)
    column = torch.arange(50)
    for image, there in zip(blend.images, (column - 9, column + 9), strict=True):
        torch.testing.assert_close(image, frame[..., there.clamp(0, 49)])


def test_holes_are_filled_where_gradients_flow() -> None:
    torch.manual_seed(0)
    model = DAIN(PRUNED).eval()
    first, second = torch.rand(2, 1, 3, 128, 128)
    one, two = model.features(torch.cat((first, second))).halves()
    # To the right: the left border is left with holes.
    flow = torch.tensor([5.3, 0.0]).view(1, 2, 1, 1).repeat(1, 1, 128, 128).requires_grad_()
    motion = Motion((flow, -flow), model.motion(one, two).kernels)
    blend = model.blend(one, two, motion, 0.5)
    with torch.no_grad():
        assert torch.equal(blend.blend, model.blend(one, two, motion, 0.5).blend)
    assert bool((blend.flows[0][:, 0, :, 1:] != 0).all())  # at the border it leads no further
    (gradient,) = torch.autograd.grad(blend.blend.sum(), flow)
    assert float(gradient.abs().max()) > 0
    assert bool((model.train().blend(one, two, motion, 0.5).flows[0][:, 0] == 0).any())


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="'dian'.*dain"):
        ModelConfig.named("dian")


def test_reduced_precision_keeps_coordinates_in_float32(golden_model: DAIN) -> None:
    golden_model.prepare(torch.bfloat16)
    kept = {type(module).__name__ for module in golden_model.modules() if float32_weight(module)}
    assert kept == {"FullPrecisionConv2d", "FullPrecisionConvTranspose2d"}
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in golden_model.modules())


def float32_weight(module: torch.nn.Module) -> bool:
    return getattr(getattr(module, "weight", None), "dtype", None) == torch.float32
