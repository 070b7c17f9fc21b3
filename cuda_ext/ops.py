"""The operators of DAIN that PyTorch does not have, as ``torch.library`` operators in the namespace ``dain``.

``SCHEMAS`` is the only definition of every operator. A CPU runs `cuda_ext.reference`; the compiled extension
adds CUDA kernels under the same schemas (``TORCH_LIBRARY_IMPL(dain, CUDA, m)``), so nothing here asks for the
device.

Conventions, for every implementation:

* Tensors are (N, C, H, W). Flow channel 0 is x, channel 1 is y, in pixels.
* Coordinates and weights of the projection are float32 whatever the network's precision; float16 and bfloat16
  inputs are accumulated in float32. With float64 inputs everything is float64.
* An output has the memory format (contiguous or channels-last) of the first argument that is not a gradient;
  a gradient has that of the tensor it belongs to. Flows are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import reference

#: operator -> schema. `*_backward` takes the gradient of the output, then the operator's own arguments. `shared_memory`
#: is how many bytes a block of a GPU may have at most; 0 means all that the GPU has. Results do not depend on it.
SCHEMAS = {
    "correlation": "(Tensor first, Tensor second) -> Tensor",
    "correlation_backward": "(Tensor grad, Tensor first, Tensor second) -> (Tensor, Tensor)",
    "flow_projection": "(Tensor flow, Tensor weight, bool fill_holes) -> Tensor",
    "flow_projection_backward": "(Tensor grad, Tensor flow, Tensor weight) -> (Tensor, Tensor)",
    "adaptive_warp": "(Tensor image, Tensor flow, Tensor kernel) -> Tensor",
    "adaptive_warp_backward": (
        "(Tensor grad, Tensor image, Tensor flow, Tensor kernel, bool of_image=True, bool of_motion=True) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "separable_conv": "(Tensor image, Tensor vertical, Tensor horizontal) -> Tensor",
    "separable_conv_backward": (
        "(Tensor grad, Tensor image, Tensor vertical, Tensor horizontal) -> (Tensor, Tensor, Tensor)"
    ),
    "convolve_into": (
        "(Tensor input, Tensor weight, Tensor? scale, Tensor bias, Tensor? plus, int dilation, float slope, "
        "Tensor(a!) out, int shared_memory=0) -> ()"
    ),
    "adaptive_warp_into": (
        "(Tensor image, int first_row, Tensor flow, Tensor kernel, int top, Tensor(a!) out) -> ()"
    ),
    "blend_into": (
        "(Tensor first, Tensor second, Tensor flow_1, Tensor flow_2, Tensor kernel_1, Tensor kernel_2, Tensor time, "
        "int top, Tensor(a!) blend, Tensor(b!) out) -> ()"
    ),
    "pool_into": "(Tensor input, bool mean, Tensor(a!) out) -> ()",
    "upsample_add_into": "(Tensor low, Tensor high, bool bilinear, Tensor(a!) out) -> ()",
    "unfold_row_into": "(Tensor image, int taps, Tensor(a!) out) -> ()",
    "match_into": "(Tensor first, Tensor second, Tensor(a!) out, int shared_memory=0) -> ()",
    "match_warped_into": (
        "(Tensor first, Tensor second, Tensor coarse, Tensor weight, Tensor bias, float scale, Tensor(a!) out, "
        "int shared_memory=0) -> ()"
    ),
    "enlarge_flow": "(Tensor flow, float scale) -> Tensor",
    "stack_into": "(Tensor first, Tensor second, Tensor(a!) out) -> ()",
    "unshuffle_into": "(Tensor image, Tensor(a!) out) -> ()",
    "sample_into": "(Tensor map, Tensor flow, float scale, Tensor(a!) out) -> ()",
}


def _as_it_is(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast would change the precision of what the reference is made of, as no kernel's."""

    @wraps(operator)
    def run(*arguments: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return operator(*arguments)

    return run


for _name, _schema in SCHEMAS.items():
    torch.library.define(f"dain::{_name}", _schema)
    torch.library.impl(f"dain::{_name}", "cpu", _as_it_is(getattr(reference, _name)))


# ---------------------------------------------------------------- correlation


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """The cost volume of two feature maps (PWC-Net, section 3) for displacements of up to 4 pixels each way.

    Channel ``(dy + 4) * 9 + (dx + 4)`` holds the mean over the C channels of
    ``first[y, x] * second[y + dy, x + dx]``, `second` being zero outside. No activation.

    Args:
        first, second: (N, C, H, W), of one floating dtype.

    Returns:
        (N, 81, H, W) in the dtype of `first`.

    Raises:
        ValueError: shapes or dtypes differ.
    """
    if first.dim() != 4 or first.shape != second.shape:
        raise ValueError(f"correlation needs two maps (N, C, H, W) alike, got {_shapes(first, second)}")
    _check_alike(first, second)
    return torch.ops.dain.correlation(first, second)


@torch.library.register_fake("dain::correlation")
def _(first: Tensor, second: Tensor) -> Tensor:
    n, _, h, w = first.shape
    return torch.empty(
        (n, 81, h, w), dtype=first.dtype, device=first.device, memory_format=reference.memory_format(first)
    )


@torch.library.register_fake("dain::correlation_backward")
def _(grad: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(first), torch.empty_like(second)


# ---------------------------------------------------------------- flow projection


def flow_projection(flow: Tensor, weight: Tensor, fill_holes: bool) -> Tensor:
    """Depth-aware flow projection (DAIN, section 3.2): the flow of a frame, seen from where it leads.

    Every source pixel p with flow f and weight w hands ``-f`` with weight w to each of the four pixels around
    ``p + f``; each target takes the weighted mean of what it got. A pixel that leads outside hands over
    nothing.

    Args:
        flow: (N, 2, H, W), already scaled to the projected time; float32 or float64.
        weight: (N, 1, H, W), positive: inverse depth, so that what is near wins.
        fill_holes: a target that got nothing takes the mean of the nearest targets left, right, above and
            below that got something (0 where there is none), instead of 0. Has no gradient: training leaves
            the holes.

    Returns:
        (N, 2, H, W): the flow from the projected time back to the frame.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    n, _, h, w = _check_flow(flow)
    if weight.shape != (n, 1, h, w):
        raise ValueError(f"flow_projection needs a weight of shape {(n, 1, h, w)}, got {tuple(weight.shape)}")
    _check_alike(flow, weight)
    return torch.ops.dain.flow_projection(flow, weight, fill_holes)


@torch.library.register_fake("dain::flow_projection")
def _(flow: Tensor, weight: Tensor, fill_holes: bool) -> Tensor:
    return torch.empty(flow.shape, dtype=flow.dtype, device=flow.device)


@torch.library.register_fake("dain::flow_projection_backward")
def _(grad: Tensor, flow: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(flow), torch.empty_like(weight)


# ---------------------------------------------------------------- adaptive warp


def adaptive_warp(image: Tensor, flow: Tensor, kernel: Tensor) -> Tensor:
    """Adaptive warping (MEMC-Net): a 4x4 kernel a pixel, placed by the flow, weighted bilinearly.

    For ``q = p + flow`` inside the image, and ``|fx| < W/2``, ``|fy| < H/2``: the 4x4 window that starts one
    pixel left of and above ``floor(q)`` (clamped to the border), times the kernel (tap (j, i) is channel
    ``4j + i``); the four 2x2 quadrants' sums are blended by the fraction of q. Else the pixel at p, unwarped.

    Args:
        image: (N, C, H, W), of any floating dtype.
        flow: (N, 2, H, W); float32, or float64 for a float64 image.
        kernel: (N, 16, H, W) in the dtype of `image`; not normalised.

    Returns:
        (N, C, H, W) in the dtype and memory format of `image`.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    n, _, h, w = _check_flow(flow)
    if image.dim() != 4 or (image.shape[0], *image.shape[2:]) != (n, h, w) or kernel.shape != (n, 16, h, w):
        raise ValueError(
            "adaptive_warp needs an image (N, C, H, W), a flow (N, 2, H, W) and a kernel (N, 16, H, W), "
            f"got {_shapes(image, flow, kernel)}"
        )
    _check_alike(image, kernel)
    needed = reference.coordinate_dtype(image)
    if flow.dtype != needed:
        raise ValueError(f"a {image.dtype} image needs a {needed} flow, got {flow.dtype}")
    return torch.ops.dain.adaptive_warp(image, flow, kernel)


@torch.library.register_fake("dain::adaptive_warp")
def _(image: Tensor, flow: Tensor, kernel: Tensor) -> Tensor:
    return torch.empty_like(image, memory_format=reference.memory_format(image))


@torch.library.register_fake("dain::adaptive_warp_backward")
def _(
    grad: Tensor, image: Tensor, flow: Tensor, kernel: Tensor, of_image: bool = True, of_motion: bool = True
) -> tuple[Tensor, ...]:
    gradients = [torch.empty_like(x) for x in (image, flow, kernel)]
    return reference.wanted(gradients, (of_image, of_motion, of_motion))


# ---------------------------------------------------------------- separable convolution


def separable_conv(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Separable adaptive convolution (Niklaus et al., ICCV 2017): a K x K kernel a pixel as an outer product.

    ``out[y, x] = sum over i, j of image[y + i, x + j] * vertical[i, y, x] * horizontal[j, y, x]``. DAIN's
    predecessors use it; DAIN itself does not.

    Args:
        image: (N, C, H + K - 1, W + K - 1), already padded; of any floating dtype.
        vertical, horizontal: (N, K, H, W) in the dtype of `image`.

    Returns:
        (N, C, H, W) in the dtype of `image`.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    n, k, h, w = vertical.shape
    if horizontal.shape != vertical.shape or image.shape != (n, image.shape[1], h + k - 1, w + k - 1):
        raise ValueError(
            "separable_conv needs an image (N, C, H + K - 1, W + K - 1) and two kernels (N, K, H, W), "
            f"got {_shapes(image, vertical, horizontal)}"
        )
    _check_alike(image, vertical, horizontal)
    return torch.ops.dain.separable_conv(image, vertical, horizontal)


@torch.library.register_fake("dain::separable_conv")
def _(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    n, _, h, w = vertical.shape
    return torch.empty(
        (n, image.shape[1], h, w),
        dtype=image.dtype,
        device=image.device,
        memory_format=reference.memory_format(image),
    )


@torch.library.register_fake("dain::separable_conv_backward")
def _(grad: Tensor, image: Tensor, vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(image), torch.empty_like(vertical), torch.empty_like(horizontal)


# ---------------------------------------------------------------- inference into slices
#
# For networks that only infer, in half precision on a GPU. They write into slices of the channels of a larger
# channels-last tensor, so that nothing needs to be concatenated; no gradients.


def pack_weight(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A convolution's weight (Cout, Cin, KH, KW) and bias (Cout,) as `convolve_into` takes them on their device.

    Returns:
        The weight in `dtype`, and the bias in float32; both with as many more outputs of zeros as its kernel wants.
    """
    outputs, inputs = weight.shape[:2]
    few = dtype.itemsize > 1 and outputs <= 16 and inputs <= 32  # for which the portable kernel is faster
    if weight.is_cuda and torch.cuda.get_device_capability(weight.device) == (9, 0) and not few:
        packed = reference.pack_weight_hopper(weight, dtype.itemsize)
        outputs = packed.shape[4] * packed.shape[6]
    else:
        packed = reference.pack_weight(weight)
        outputs = 16 * packed.shape[3]
    return packed.to(dtype), F.pad(bias.float(), (0, outputs - len(bias)))


def convolve_into(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: float,
    out: Tensor,
    *,
    scale: Tensor | None = None,
    plus: Tensor | None = None,
    dilation: int = 1,
) -> None:
    """``out = leaky_relu(scale * convolution of input + bias + plus, slope)``; stride 1, padded to keep the size.

    Args:
        input: (N, Cin, H, W), channels-last or a slice of the channels of such a tensor, aligned to 16 bytes; on a
            GPU float16 or bfloat16 with Cin a multiple of 16, or (compute capability 9.0) float8_e4m3fn, of 32.
        weight, bias: as `pack_weight` makes them; the weight in the dtype of `input`, KH and KW odd and at most 11.
        slope: of negative values: 0 is ReLU, 1 no activation.
        out: (N, channels, H, W), where at most Cout channels are written; float32 or the dtype of `input`, float16
            if that is float8_e4m3fn. What is not float32 is aligned to 16 bytes and has a multiple of 8 channels;
            float32 has at most 16 (on compute capability 9.0).
        scale: of each output channel, like `bias`.
        plus: like `out`, which it may be.
        dilation: the distance between the kernel's taps, at most 64.
    """
    torch.ops.dain.convolve_into(input, weight, scale, bias, plus, dilation, slope, out)


def adaptive_warp_into(
    image: Tensor, first_row: int, flow: Tensor, kernel: Tensor, top: int, out: Tensor
) -> None:
    """`adaptive_warp` of some rows of a frame into some rows.

    Args:
        image: (N, C, any, W): the frame's rows from `first_row` on; on a GPU not float64, with a multiple of 8
            channels.
        flow, kernel: (N, 2, H, W) and (N, 16, H, W), of the whole frame, as in `adaptive_warp`.
        out: (N, C, any, W): the result's rows from `top` on, in the dtype of `image` or, of float16,
            float8_e4m3fn; a slice of channels as in `convolve_into`. Pixels that need rows that `image` lacks stay as
            they are.
    """
    torch.ops.dain.adaptive_warp_into(image, first_row, flow, kernel, top, out)


#: Channels that `blend_into` writes.
BLEND_CHANNELS = 64


def blend_into(
    pictures: tuple[Tensor, Tensor],
    flows: tuple[Tensor, Tensor],
    kernels: tuple[Tensor, Tensor],
    time: Tensor,
    top: int,
    blend: Tensor,
    out: Tensor,
) -> None:
    """Warp both frames and blend them by `time`; gather that and what it was made of.

    Args:
        pictures: (N, 4, H, W) each, on a GPU channels-last: red, green, blue, log depth; float32.
        flows, kernels: (N, 2, H, W) float32 and (N, 16, H, W) each; kernels like `input` of `convolve_into`.
        time: one float32: the weight of the second frame.
        top: the row of the frame that is the first of `out`.
        blend: (N, 3, rows, W), float32: the blended rows.
        out: (N, 64, rows, W): the blend, both images, both flows, both kernels, both depths, then zeros; in the
            dtype of the kernels or, of float16, float8_e4m3fn (flows of more than 448 pixels are then 448).
    """
    torch.ops.dain.blend_into(*pictures, *flows, *kernels, time, top, blend, out)


def pool_into(input: Tensor, mean: bool, out: Tensor) -> None:
    """The mean, or else the largest, of every 2 x 2 pixels.

    Args:
        input: (N, C, H, W), channels-last or a slice of channels; on a GPU pixels are multiples of 16 bytes.
        out: (N, C, H // 2, W // 2), likewise, in the dtype of `input`.
    """
    torch.ops.dain.pool_into(input, mean, out)


def upsample_add_into(low: Tensor, high: Tensor, bilinear: bool, out: Tensor) -> None:
    """`low` at twice its size, plus `high`.

    Args:
        low: (N, C, H, W), channels-last or a slice of channels; on a GPU pixels are multiples of 16 bytes.
        high: (N, C, 2H, 2W), likewise, in the dtype of `low`.
        bilinear: with pixels as areas (align_corners=False); otherwise each pixel of `low` becomes 2 x 2 alike.
        out: like `high`, which it may be itself.
    """
    torch.ops.dain.upsample_add_into(low, high, bilinear, out)


def unfold_row_into(image: Tensor, taps: int, out: Tensor) -> None:
    """Every pixel's row of neighbours as its channels: a convolution of the image with a kernel `taps` wide is one
    of `out` with a kernel 1 wide, on tensor cores many times faster.

    Args:
        image: (N, 3, H, W), of any strides; float32 or the dtype of `out`.
        taps: odd.
        out: (N, channels, H, W), a slice of channels: channel ``3 i + c`` becomes channel c of the pixel
            ``i - taps // 2`` to the right, zero outside the image; channels from ``3 taps`` on become zeros.
    """
    torch.ops.dain.unfold_row_into(image, taps, out)


def match_into(first: Tensor, second: Tensor, out: Tensor) -> None:
    """How well every pixel of each frame matches those around its place in the other: leaky_relu(`correlation`, 0.1).

    Args:
        first, second: (N, C, H, W) each, channels-last or slices of channels; on a GPU float16 or bfloat16 aligned
            to 16 bytes, or float32.
        out: (2N, channels, H, W), likewise, a multiple of 8 channels: 81 of the first frame, then of the second, to
            the other, and zeros.
    """
    if first.dtype == torch.float32:  # which tensor cores do not multiply
        return reference.match_into(first, second, out)
    torch.ops.dain.match_into(first, second, out)


def match_warped_into(
    first: Tensor, second: Tensor, coarse: Tensor, weight: Tensor, bias: Tensor, scale: float, out: Tensor
) -> None:
    """`match_into` of frames of which the other one is warped first, with what else a level of PWC-Net's flow sees.

    The coarser level's flow, enlarged by a transposed convolution of kernel 4, stride 2, padding 1, says where each
    pixel is sampled bilinearly; it is zero where less than 0.9999 of the sample lies inside.

    Args:
        first, second: as in `match_into`; H and W are even.
        coarse: (2N, 10, H / 2, W / 2), float32: flow in the network's unit, and two features, each as the 2 x 2 pixels
            that it has at this level.
        weight, bias: of the transposed convolution, (KH, KW, in, out) = (4, 4, 2, 2) and (2,), float32.
        scale: from the flow's unit to pixels of this level.
        out: as in `match_into`, with, after the 81: the frame's own C channels, the enlarged flow, the two features,
            and zeros.
    """
    if first.dtype == torch.float32:
        return reference.match_warped_into(first, second, coarse, weight, bias, scale, out)
    torch.ops.dain.match_warped_into(first, second, coarse, weight, bias, scale, out)


def enlarge_flow(flow: Tensor, scale: float) -> Tensor:
    """`scale` times `flow`, (N, 2, H, W), float32, at four times its size: bilinear, pixels as areas."""
    return torch.ops.dain.enlarge_flow(flow, scale)


@torch.library.register_fake("dain::enlarge_flow")
def _(flow: Tensor, scale: float) -> Tensor:
    n, _, h, w = flow.shape
    return torch.empty((n, 2, 4 * h, 4 * w), dtype=flow.dtype, device=flow.device)


def stack_into(first: Tensor, second: Tensor, out: Tensor) -> None:
    """Two images, (N, 3, H, W), float32, and zeros.

    Args:
        out: (N, channels, H, W), a slice of channels, on a GPU aligned to 16 bytes and a multiple of 8.
    """
    torch.ops.dain.stack_into(first, second, out)


def unshuffle_into(image: Tensor, out: Tensor) -> None:
    """The 2 x 2 pixels of an image's colours as channels, as `torch.nn.functional.pixel_unshuffle` has them, and zeros.

    Args:
        image: (N, 3, H, W), float32.
        out: (N, channels, H / 2, W / 2), at least 12 channels; as in `stack_into`.
    """
    torch.ops.dain.unshuffle_into(image, out)


def sample_into(map: Tensor, flow: Tensor, scale: float, out: Tensor) -> None:
    """`map` at every pixel plus its flow, bilinear; outside of the map, the nearest pixel of its border. No gradient.

    Args:
        map: (N, C, H, W), of any floating dtype; on a GPU a slice of channels of a channels-last tensor.
        flow: (N, 2, H, W), float32, in pixels once it is multiplied by `scale`.
        out: (N, C, H, W) in the dtype of `map`; likewise a slice.
    """
    torch.ops.dain.sample_into(map, flow, scale, out)


for _name in (
    "convolve_into",
    "adaptive_warp_into",
    "blend_into",
    "pool_into",
    "upsample_add_into",
    "unfold_row_into",
    "match_into",
    "match_warped_into",
    "stack_into",
    "unshuffle_into",
    "sample_into",
):
    torch.library.register_fake(f"dain::{_name}", lambda *_: None)


# ---------------------------------------------------------------- gradients


def _save_tensors(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.fill_holes = any(value is True for value in inputs)


def _register_gradient(name: str) -> None:
    def backward(ctx: Any, grad: Tensor) -> Any:
        return getattr(torch.ops.dain, f"{name}_backward")(grad, *ctx.saved_tensors)

    torch.library.register_autograd(f"dain::{name}", backward, setup_context=_save_tensors)


def _adaptive_warp_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_image, *of_motion = ctx.needs_input_grad
    found = torch.ops.dain.adaptive_warp_backward(grad, *ctx.saved_tensors, of_image, any(of_motion))
    return tuple(part if needed else None for part, needed in zip(found, ctx.needs_input_grad, strict=True))


def _flow_projection_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    if ctx.fill_holes:
        raise RuntimeError("flow_projection has no gradient with fill_holes=True: train with False")
    return *torch.ops.dain.flow_projection_backward(grad, *ctx.saved_tensors), None


for _name in ("correlation", "separable_conv"):
    _register_gradient(_name)
torch.library.register_autograd("dain::adaptive_warp", _adaptive_warp_gradient, setup_context=_save_tensors)
torch.library.register_autograd(
    "dain::flow_projection", _flow_projection_gradient, setup_context=_save_tensors
)


# ---------------------------------------------------------------- checks


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)


def _check_alike(*tensors: Tensor) -> None:
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
    if len(kinds) > 1 or not tensors[0].is_floating_point():
        found = ", ".join(f"{tensor.dtype} on {tensor.device}" for tensor in tensors)
        raise ValueError(f"the tensors must share one floating dtype and one device, got {found}")


def _check_flow(flow: Tensor) -> torch.Size:
    if flow.dim() != 4 or flow.shape[1] != 2:
        raise ValueError(f"a flow has the shape (N, 2, H, W), got {tuple(flow.shape)}")
    if flow.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"pass a float32 flow, not {flow.dtype}: half precision cannot hold coordinates")
    return flow.shape
