"""The operators against the original's numbers, against loops that read like the definitions, and their gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import cuda_ext
from cuda_ext import SCHEMAS, adaptive_warp, correlation, flow_projection, reference, separable_conv

DATA = Path(__file__).parents[1] / "data"
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """Inputs, outputs and gradients of the original's operators, edge cases included."""
    with np.load(DATA / "golden_operators.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def forward_backward(
    operator: Callable[..., Tensor], grad: Tensor, *inputs: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = operator(*leaves)
    return output.detach(), torch.autograd.grad(output, leaves, grad)


def random_flow(n: int, h: int, w: int, reach: int, seed: int = 0) -> Tensor:
    """Float64 flows that lead to the middle of cells, far from where the operators jump."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-reach, reach + 1, (n, 2, h, w), generator=generator)
    return whole + 0.2 + 0.6 * torch.rand((n, 2, h, w), generator=generator, dtype=torch.float64)


def arguments(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor | bool, ...]:
    """Small arguments for each operator that has a gradient."""
    torch.manual_seed(1)
    n, h, w = 2, 6, 7
    if name == "correlation":
        return torch.randn(n, 3, h, w, dtype=dtype), torch.randn(n, 3, h, w, dtype=dtype)
    if name == "flow_projection":
        return random_flow(n, h, w, 2).to(dtype), torch.rand(n, 1, h, w, dtype=dtype) + 0.5, False
    if name == "adaptive_warp":
        image, kernel = torch.randn(n, 3, h, w, dtype=dtype), torch.randn(n, 16, h, w, dtype=dtype)
        return image, random_flow(n, h, w, 3).to(dtype), kernel
    image = torch.randn(n, 3, h + 4, w + 4, dtype=dtype)
    return image, torch.randn(n, 5, h, w, dtype=dtype), torch.randn(n, 5, h, w, dtype=dtype)


OPERATORS = ["correlation", "flow_projection", "adaptive_warp", "separable_conv"]


# ---------------------------------------------------------------- the original's numbers


def test_correlation_is_the_originals(golden: dict[str, Tensor]) -> None:
    output, (first, second) = forward_backward(
        correlation, golden["corr_gout"], golden["corr_in1"], golden["corr_in2"]
    )
    torch.testing.assert_close(output, golden["corr_out"], **TOLERANCE)
    torch.testing.assert_close(first, golden["corr_gin1"], **TOLERANCE)
    torch.testing.assert_close(second, golden["corr_gin2"], **TOLERANCE)


@pytest.mark.parametrize(("fill_holes", "name"), [(False, "dfp_out_nofill"), (True, "dfp_out_fill")])
def test_flow_projection_is_the_originals(golden: dict[str, Tensor], fill_holes: bool, name: str) -> None:
    output = flow_projection(golden["dfp_flow"], golden["dfp_dinv"], fill_holes)
    torch.testing.assert_close(output, golden[name], **TOLERANCE)


def test_flow_projection_gradients(golden: dict[str, Tensor]) -> None:
    """The original's gradient of the flow, and the true one of the weight.

    For out = sum(-w f) / sum(w) the derivative by w is -(f + out) / sum(w), summed over a pixel's four targets; the
    original has (f - out) there. The part with f alone follows from the flow's gradient -w / sum(w), so that the
    original's numbers are ours reflected in it.
    """
    flow, weight = golden["dfp_flow"], golden["dfp_dinv"]
    _, (grad_flow, grad_weight) = forward_backward(
        lambda f, w: flow_projection(f, w, False), golden["dfp_gout"], flow, weight
    )
    torch.testing.assert_close(grad_flow, golden["dfp_gflow"], **TOLERANCE)
    original = 2 * (flow * grad_flow).sum(1, keepdim=True) / weight - grad_weight
    torch.testing.assert_close(original, golden["dfp_gdinv"], **TOLERANCE)


def test_adaptive_warp_is_the_originals(golden: dict[str, Tensor]) -> None:
    output, (image, flow, kernel) = forward_backward(
        adaptive_warp, golden["fi_gout"], golden["fi_img"], golden["fi_flow"], golden["fi_filt"]
    )
    torch.testing.assert_close(output, golden["fi_out"], **TOLERANCE)
    torch.testing.assert_close(flow, golden["fi_gflow"], **TOLERANCE)
    torch.testing.assert_close(kernel, golden["fi_gfilt"], **TOLERANCE)
    # A pixel that is copied unwarped passes its gradient on; the original drops it.
    copied = (golden["fi_gfilt"] == 0).all(1, keepdim=True)
    assert 0 < copied.float().mean() < 0.5
    torch.testing.assert_close(image - copied * golden["fi_gout"], golden["fi_gimg"], **TOLERANCE)


# ---------------------------------------------------------------- definitions, pixel by pixel


def test_separable_convolution_is_its_definition() -> None:
    image, vertical, horizontal = arguments("separable_conv")
    expected = torch.empty(2, 3, 6, 7, dtype=torch.float64)
    for n, c, y, x in np.ndindex(2, 3, 6, 7):
        kernel = torch.outer(vertical[n, :, y, x], horizontal[n, :, y, x])
        expected[n, c, y, x] = (image[n, c, y : y + 5, x : x + 5] * kernel).sum()
    torch.testing.assert_close(separable_conv(image, vertical, horizontal), expected)


def test_projection_of_one_moving_pixel() -> None:
    flow, weight = torch.full((1, 2, 4, 5), 100.0), torch.ones(1, 1, 4, 5)
    flow[0, :, 1, 1] = torch.tensor((1.5, 0.5))  # to between (2, 1) and (3, 2); all others lead outside
    projected = flow_projection(flow, weight, False)
    assert projected[0, 0].nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    assert projected[0, :, 1, 2].tolist() == [-1.5, -0.5]


def test_projection_prefers_what_is_near() -> None:
    flow, weight = torch.full((1, 2, 1, 6), 100.0), torch.ones(1, 1, 1, 6)
    flow[..., 0], flow[..., 4] = torch.tensor([[2.0], [0.0]]), torch.tensor([[-2.0], [0.0]])
    weight[..., 0] = 3
    # In a single row both lower corners are clamped to the row: each pixel counts twice, and the mean stays.
    assert flow_projection(flow, weight, False)[0, 0, 0, 2].item() == pytest.approx((3 * -2 + 1 * 2) / 4)


def test_projection_counts_the_far_corner_four_times() -> None:
    flow, weight = torch.full((1, 2, 3, 3), 100.0), torch.ones(1, 1, 3, 3)
    flow[..., 2, 2] = 0
    flow[..., 1, 1] = 0.5  # gives the corner pixel one share, the pixel at the corner gives itself four
    assert flow_projection(flow, weight, False)[0, 0, 2, 2].item() == pytest.approx(-0.5 / 5)


def test_holes_take_the_mean_of_the_nearest_on_each_side() -> None:
    flow, weight = torch.full((1, 2, 1, 8), 100.0), torch.ones(1, 1, 1, 8)
    flow[0, :, 0, 0] = torch.tensor((1.0, 0.0))  # fills 1 and 2
    flow[0, :, 0, 7] = torch.tensor((-1.0, 0.0))  # fills 6 and 7
    filled = flow_projection(flow, weight, True)[0, 0, 0]
    assert filled.tolist() == [-1, -1, -1, 0, 0, 0, 1, 1]
    assert flow_projection(torch.full_like(flow, 100.0), weight, True).abs().max() == 0


def test_warp_by_whole_pixels_moves_the_image() -> None:
    image = torch.rand(1, 2, 6, 8)
    kernel = torch.zeros(1, 16, 6, 8)
    kernel[:, 5] = 1  # row 1, column 1 of the window: the pixel that the flow leads to
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0] = 2
    moved = adaptive_warp(image, flow, kernel)
    torch.testing.assert_close(moved[..., :6], image[..., 2:])
    torch.testing.assert_close(moved[..., 6:], image[..., 6:])  # leads outside: unwarped


@pytest.mark.parametrize(("reach", "warped"), [(3.99, True), (4.0, False), (-4.0, False)])
def test_warp_refuses_flows_of_half_the_image(reach: float, warped: bool) -> None:
    image, kernel, flow = torch.rand(1, 1, 4, 8), torch.zeros(1, 16, 4, 8), torch.zeros(1, 2, 4, 8)
    flow[0, 0, 0, 4 if reach < 0 else 0] = reach
    result = adaptive_warp(image, flow, kernel)[0, 0, 0, 4 if reach < 0 else 0]
    assert (result == 0) == warped


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_flows_that_are_no_position_are_harmless(bad: float) -> None:
    flow, weight = torch.zeros(1, 2, 5, 6), torch.ones(1, 1, 5, 6)
    flow[0, 0, 2, 3] = bad
    assert flow_projection(flow, weight, True).isfinite().all()
    image = torch.rand(1, 3, 5, 6)
    kernel = torch.full((1, 16, 5, 6), 0.25)
    torch.testing.assert_close(adaptive_warp(image, flow, kernel)[..., 2, 3], image[..., 2, 3])


def test_minus_zero_is_a_position_inside() -> None:
    flow = torch.full((1, 2, 4, 4), -0.0)
    torch.testing.assert_close(flow_projection(flow, torch.ones(1, 1, 4, 4), False), torch.zeros(1, 2, 4, 4))
    kernel = torch.zeros(1, 16, 4, 4)
    assert adaptive_warp(torch.ones(1, 1, 4, 4), flow, kernel).abs().max() == 0


# ---------------------------------------------------------------- inference into slices


def slices(channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A channels-last tensor full of sevens and a slice of its channels."""
    whole = torch.full((2, channels + 4, height, width), 7.0).contiguous(memory_format=torch.channels_last)
    return whole, whole[:, 2:-2]


def test_a_warp_of_rows_needs_no_others() -> None:
    """What the rows of an image that are there suffice for is written, and nothing else."""
    image, kernel = torch.randn(2, 3, 12, 7), torch.randn(2, 16, 12, 7)
    flow = 3 * torch.randn(2, 2, 12, 7)
    expected = adaptive_warp(image, flow, kernel)[:, :, 2:11]
    whole, out = slices(3, 9, 7)
    cuda_ext.adaptive_warp_into(image[:, :, 3:9], 3, flow, kernel, 2, out)
    written = out != 7
    assert 0.2 < float(written.float().mean()) < 0.9
    torch.testing.assert_close(out[written], expected[written])
    cuda_ext.adaptive_warp_into(image[:, :, :7], 0, flow, kernel, 2, out)
    cuda_ext.adaptive_warp_into(image[:, :, 4:], 4, flow, kernel, 2, out)
    torch.testing.assert_close(out, expected)
    assert bool((whole[:, :2] == 7).all()) and bool((whole[:, -2:] == 7).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_warp_in_bands_is_the_warp_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, order: torch.memory_format
) -> None:
    torch.manual_seed(3)
    image = torch.randn(2, 5, 23, 17).to(dtype).contiguous(memory_format=order)
    flow, kernel = 8 * torch.randn(2, 2, 23, 17), torch.randn(2, 16, 23, 17).to(dtype)
    flow[0, :, 7, 7] = torch.nan
    whole = adaptive_warp(image, flow, kernel)
    for pixels in (1, 100, 300):
        monkeypatch.setattr(reference, "_BAND", pixels)
        bands = adaptive_warp(image, flow, kernel)
        assert torch.equal(bands, whole) and bands.stride() == whole.stride()
        rows = torch.empty_like(whole[:, :, :9])
        cuda_ext.adaptive_warp_into(image, 0, flow, kernel, 8, rows)
        assert torch.equal(rows, whole[:, :, 8:17])


@pytest.mark.parametrize(("mean", "layer"), [(True, torch.nn.AvgPool2d(2)), (False, torch.nn.MaxPool2d(2))])
def test_pooling_into_a_slice(mean: bool, layer: torch.nn.Module) -> None:
    image = torch.randn(2, 3, 6, 7)
    whole, out = slices(3, 3, 3)
    cuda_ext.pool_into(image, mean, out)
    torch.testing.assert_close(out, layer(image))
    assert bool((whole[:, :2] == 7).all()) and bool((whole[:, -2:] == 7).all())


@pytest.mark.parametrize(
    ("bilinear", "layer"),
    [
        (True, torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)),
        (False, torch.nn.UpsamplingNearest2d(scale_factor=2)),
    ],
)
def test_doubling_into_a_slice(bilinear: bool, layer: torch.nn.Module) -> None:
    low, high = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 8, 10)
    whole, out = slices(3, 8, 10)
    cuda_ext.upsample_add_into(low, high, bilinear, out)
    expected = layer(low) + high
    torch.testing.assert_close(out, expected)
    assert bool((whole[:, :2] == 7).all()) and bool((whole[:, -2:] == 7).all())
    cuda_ext.upsample_add_into(low, high, bilinear, high)
    torch.testing.assert_close(high, expected)


def test_a_row_of_neighbours_makes_a_convolution_one_column_wide() -> None:
    image, weight = torch.randn(2, 3, 5, 6), torch.randn(4, 3, 7, 7)
    whole, out = slices(32, 5, 6)
    cuda_ext.unfold_row_into(image, 7, out)
    assert bool((whole[:, :2] == 7).all()) and bool((whole[:, -2:] == 7).all())
    assert bool((out[:, 21:] == 0).all())
    column = weight.permute(0, 3, 1, 2).reshape(4, 21, 7, 1)
    found = torch.nn.functional.conv2d(out[:, :21], column, padding=(3, 0))
    torch.testing.assert_close(found, torch.nn.functional.conv2d(image, weight, padding=3), atol=1e-4, rtol=0)


# ---------------------------------------------------------------- gradients and registration


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_are_the_derivatives(name: str) -> None:
    inputs = [x.requires_grad_() if isinstance(x, Tensor) else x for x in arguments(name)]
    assert torch.autograd.gradcheck(getattr(cuda_ext, name), inputs, fast_mode=True)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_registration_is_sound(name: str, channels_last: bool) -> None:
    """Schemas, fakes, autograd and compiled tracing, as PyTorch's own checker sees them."""
    inputs = [x for x in arguments(name, torch.float32)]
    if channels_last:
        inputs = [
            x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) else x for x in inputs
        ]
    opcheck(getattr(torch.ops.dain, name).default, inputs)
    trainable = [x.clone().requires_grad_() if isinstance(x, Tensor) else x for x in inputs]
    opcheck(getattr(torch.ops.dain, name).default, trainable)
    output = getattr(cuda_ext, name)(*inputs)
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    opcheck(getattr(torch.ops.dain, f"{name}_backward").default, (torch.ones_like(output), *tensors))


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_a_warp_computes_the_gradients_that_are_needed(needed: tuple[bool, ...]) -> None:
    inputs = arguments("adaptive_warp")
    every = torch.autograd.grad(adaptive_warp(*(x.requires_grad_() for x in inputs)).sum(), inputs)
    inputs = [x.detach().requires_grad_(flag) for x, flag in zip(inputs, needed, strict=True)]
    adaptive_warp(*inputs).sum().backward()
    for x, gradient, flag in zip(inputs, every, needed, strict=True):
        if flag:
            torch.testing.assert_close(x.grad, gradient, atol=0, rtol=0)
    of_image, of_motion = needed[0], any(needed[1:])
    arrays = [x.detach() for x in inputs]
    found = torch.ops.dain.adaptive_warp_backward(torch.ones_like(arrays[0]), *arrays, of_image, of_motion)
    assert [x.numel() > 0 for x in found] == [of_image, of_motion, of_motion]


@pytest.mark.parametrize("name", OPERATORS)
def test_autocast_changes_nothing(name: str) -> None:
    inputs = arguments(name, torch.float32)
    tensors = [x.requires_grad_() for x in inputs if isinstance(x, Tensor)]
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = getattr(cuda_ext, name)(*inputs)
            found.append((output, *torch.autograd.grad(output.sum(), tensors)))
    for expected, other in zip(*found, strict=True):
        torch.testing.assert_close(other, expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(name: str, dtype: torch.dtype) -> None:
    exact = arguments(name, torch.float32)
    if name == "flow_projection":
        with pytest.raises(ValueError, match="float32 flow"):
            flow_projection(exact[0].to(dtype), exact[1].to(dtype), False)
        return
    half = [x.to(dtype) for x in exact]
    if name == "adaptive_warp":
        half[1] = exact[1]
    result = getattr(cuda_ext, name)(*half)
    assert result.dtype == dtype
    expected = getattr(cuda_ext, name)(*(x.float() for x in half)).to(dtype)
    torch.testing.assert_close(result, expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_empty_batch_gives_an_empty_batch(name: str) -> None:
    inputs = [x[:0] if isinstance(x, Tensor) else x for x in arguments(name)]
    whole = getattr(cuda_ext, name)(*arguments(name))
    assert getattr(cuda_ext, name)(*inputs).shape == (0, *whole.shape[1:])


def test_the_result_of_filled_holes_has_no_gradient() -> None:
    flow, weight, _ = arguments("flow_projection")
    projected = flow_projection(flow.requires_grad_(), weight, True)
    with pytest.raises(RuntimeError, match="fill_holes=True"):
        projected.sum().backward()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correlation(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5)), "one shape"),
        (
            lambda: correlation(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4).double()),
            "one floating dtype",
        ),
        (lambda: correlation(torch.zeros(1, 3, 4, 4).int(), torch.zeros(1, 3, 4, 4).int()), "floating dtype"),
        (lambda: flow_projection(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), True), "N, 2, H, W"),
        (lambda: flow_projection(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), True), "weight of shape"),
        (
            lambda: adaptive_warp(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 9, 4, 4)),
            "kernel",
        ),
        (
            lambda: adaptive_warp(
                torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4).double(), torch.zeros(1, 16, 4, 4)
            ),
            "flow",
        ),
        (
            lambda: separable_conv(torch.zeros(1, 3, 4, 4), torch.zeros(1, 5, 4, 4), torch.zeros(1, 5, 4, 4)),
            "K - 1",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_every_operator_has_a_cpu_and_a_gpu_answer() -> None:
    """Without compiled kernels a GPU tensor reaches a refusal, never the slow reference."""
    for name in SCHEMAS:
        for key in ("CPU", "CUDA"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dain::{name}", key)
    if cuda_ext.backend() == "cpu":
        with pytest.raises(RuntimeError, match="not built.*cuda_ext.build"):
            cuda_ext._not_built()


# ---------------------------------------------------------------- flow between two frames


def test_frames_are_matched_both_ways() -> None:
    torch.manual_seed(1)
    first, second, out = torch.randn(2, 5, 6, 7), torch.randn(2, 5, 6, 7), torch.full((4, 88, 6, 7), 7.0)
    cuda_ext.match_into(first, second, out)
    expected = torch.cat((correlation(first, second), correlation(second, first)))
    torch.testing.assert_close(out[:, :81], torch.where(expected > 0, expected, 0.1 * expected))
    assert bool((out[:, 81:] == 0).all())


def test_frames_are_warped_before_they_are_matched() -> None:
    """By a whole number of pixels: what comes from outside is zero. Features are four channels for 2 x 2 pixels."""
    torch.manual_seed(1)
    first, second, coarse = torch.randn(1, 5, 6, 8), torch.randn(1, 5, 6, 8), torch.randn(2, 10, 3, 4)
    out = torch.full((2, 96, 6, 8), 7.0)
    cuda_ext.match_warped_into(
        first, second, coarse, torch.zeros(4, 4, 2, 2), torch.tensor([1.0, -0.5]), 2.0, out
    )
    for index, (ours, theirs) in enumerate(((first, second), (second, first))):
        warped = torch.zeros_like(theirs)
        warped[:, :, 1:, :-2] = theirs[:, :, :-1, 2:]
        expected = correlation(ours, warped)[0]
        found = out[index]
        torch.testing.assert_close(found[:81], torch.where(expected > 0, expected, 0.1 * expected))
        assert torch.equal(found[81:86], ours[0])
        assert bool((found[86] == 1).all()) and bool((found[87] == -0.5).all())
        for y in range(6):
            for x in range(8):
                phase = 2 * (y % 2) + x % 2
                assert torch.equal(found[88:90, y, x], coarse[index, [2 + phase, 6 + phase], y // 2, x // 2])
        assert bool((found[90:] == 0).all())


def test_an_enlarged_flow_is_scaled() -> None:
    """A ramp stays a ramp but for the half pixel beyond its ends."""
    ramp = torch.arange(5.0).expand(1, 2, 3, 5)
    enlarged = cuda_ext.enlarge_flow(ramp, 20.0)
    expected = 20 * ((torch.arange(20.0) + 0.5) / 4 - 0.5).clamp(0, 4)
    torch.testing.assert_close(enlarged, expected.expand(1, 2, 12, 20))
    opcheck(torch.ops.dain.enlarge_flow.default, (ramp, 20.0))


def test_a_sample_is_what_lies_where_the_flow_leads() -> None:
    """A whole step is the pixel there, half a step the mean of two, and beyond the border it is the border's."""
    ramp = (torch.arange(5.0) ** 2).expand(1, 3, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 0] = torch.tensor([2.0, 0.5, -9.0, 9.0, 0.0])
    sampled = cuda_ext.sample(ramp, flow)
    torch.testing.assert_close(sampled, torch.tensor([4.0, 2.5, 0.0, 16.0, 16.0]).expand(1, 3, 4, 5))
    torch.testing.assert_close(cuda_ext.sample(ramp, 4 * flow, 0.25), sampled)


def test_a_samples_gradient_is_the_derivative() -> None:
    map, flow = torch.randn(2, 4, 6, 7, dtype=torch.float64, requires_grad=True), random_flow(2, 6, 7, 5)
    assert torch.autograd.gradcheck(lambda x: cuda_ext.sample(x, flow, 0.5), [map], fast_mode=True)
    with pytest.raises(RuntimeError, match="no gradient for its flow"):
        cuda_ext.sample(map, flow.requires_grad_()).sum().backward()
    with pytest.raises(ValueError, match="needs a map"):
        cuda_ext.sample(map, flow[:, :, :3])


def test_sampling_is_registered_soundly() -> None:
    map, flow = torch.randn(2, 4, 6, 7).contiguous(memory_format=torch.channels_last), torch.randn(2, 2, 6, 7)
    for leaf in (map, map.clone().requires_grad_()):
        opcheck(torch.ops.dain.sample.default, (leaf, flow, 0.5))
    opcheck(torch.ops.dain.sample_backward.default, (map, flow, 0.5))


def test_images_are_stacked() -> None:
    first, second, out = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5), torch.full((2, 16, 4, 5), 7.0)
    cuda_ext.stack_into(first, second, out)
    assert torch.equal(out[:, :6], torch.cat((first, second), 1)) and bool((out[:, 6:] == 0).all())


def test_pixels_become_channels() -> None:
    image, out = torch.rand(2, 3, 4, 6), torch.full((2, 16, 2, 3), 7.0)
    cuda_ext.unshuffle_into(image, out)
    assert torch.equal(out[:, 9], image[:, 2, ::2, 1::2]) and torch.equal(out[:, 2], image[:, 0, 1::2, ::2])
    assert bool((out[:, 12:] == 0).all())


# ---------------------------------------------------------------- what stands still


def test_what_stands_still_is_registered_soundly() -> None:
    frames, flows = (
        (torch.rand(1, 3, 19, 30) for _ in range(2)),
        (torch.randn(1, 2, 19, 30) for _ in range(2)),
    )
    opcheck(torch.ops.dain.stillness.default, (*frames, *flows))


def test_the_kernels_of_what_stands_still_have_the_numbers_of_the_reference() -> None:
    source = Path(reference.__file__).with_name("csrc") / "stillness.cu"
    pattern = r"^constexpr (?:float|int) k([A-Z][a-z]+) = ([\d.]+)(?: / ([\d.]+))?;"
    found = re.findall(pattern, source.read_text(), re.MULTILINE)
    numbers = {name.upper(): float(value) / float(divisor or 1) for name, value, divisor in found}
    expected = {name: value for name, value in vars(reference).items() if name in numbers}
    assert len(expected) == 10 and expected.items() <= numbers.items()
