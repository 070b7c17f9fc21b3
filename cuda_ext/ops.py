"""The operators of DAIN that PyTorch lacks, as ``torch.library`` operators in the namespace ``dain``.

``SCHEMAS`` defines every operator once. A CPU runs the functions of `cuda_ext.reference`. The compiled extension adds
CUDA kernels with the same schemas (``TORCH_LIBRARY_IMPL(dain, CUDA, m)``), so that no code here depends on the device.

All implementations have these conventions:

* Tensors are (N, C, H, W). Channel 0 of a flow is x, channel 1 is y, in pixels.
* Coordinates, and the weights of the projection, are float32 at every precision of the network. Sums of float16 and
  bfloat16 inputs are float32. With float64 inputs all values are float64.
* An output has the memory format (contiguous or channels-last) of the first argument that is not a gradient. A gradient
  has the memory format of its tensor. Flows are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import reference

#: The schemas by operator. `*_backward` takes the gradient of the output and then the arguments of the operator.
#: `shared_memory` is the largest number of bytes that a block on a GPU may use; 0 means all that the GPU has. Results
#: do not depend on it.
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
    "sample": "(Tensor map, Tensor flow, float scale) -> Tensor",
    "sample_backward": "(Tensor grad, Tensor flow, float scale) -> Tensor",
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
    "stillness": "(Tensor first, Tensor second, Tensor there, Tensor back) -> Tensor",
}


def _as_it_is(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return `operator` without autocast, which would change the precision inside the reference."""

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
    """Compute the cost volume of two feature maps (PWC-Net, section 3) for displacements of up to 4 pixels each way.

    Channel ``(dy + 4) * 9 + (dx + 4)`` holds the mean over the C channels of ``first[y, x] * second[y + dy, x + dx]``.
    Outside its borders `second` is zero. There is no activation.

    Args:
        first, second: (N, C, H, W), of one floating dtype.

    Returns:
        (N, 81, H, W) in the dtype of `first`.

    Raises:
        ValueError: the shapes, dtypes or devices differ, or the dtype is not a floating one.
    """
    if first.dim() != 4 or first.shape != second.shape:
        raise ValueError(
            f"correlation needs two maps of one shape (N, C, H, W), got {_shapes(first, second)}"
        )
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
    """Project a flow to the time at which it ends, weighted by depth (DAIN, section 3.2).

    Every source pixel p with flow f and weight w gives ``-f`` with weight w to each of the four pixels around
    ``p + f``. Each target pixel takes the weighted mean of the values that it gets. A source pixel whose flow leads out
    of the frame gives nothing.

    Args:
        flow: (N, 2, H, W), in pixels, already scaled to the projected time; float32 or float64.
        weight: (N, 1, H, W), positive, of the dtype of `flow`. It is the inverse depth, so that near pixels dominate.
        fill_holes: whether a target that got no value takes the mean of the nearest targets to the left, to the right,
            above and below that got one. It is 0 if there are none, and without `fill_holes`. The operator has no
            gradient with filled holes.

    Returns:
        The flow from the projected time back to the frame, (N, 2, H, W), in pixels.

    Raises:
        ValueError: the shapes, dtypes or devices do not fit.
        RuntimeError: a gradient is computed with `fill_holes`.
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
    """Warp an image adaptively (MEMC-Net): the flow places a 4x4 kernel for every pixel.

    Let ``q = p + flow`` for a pixel p. If q lies inside the image, and ``|fx| < W/2`` and ``|fy| < H/2``, the 4x4
    window starts one pixel left of and above ``floor(q)``, and is clamped to the border. The window is multiplied by
    the kernel, in which tap (row j, column i) is channel ``4j + i``. The sums of its four 2x2 quadrants are blended
    bilinearly by the fraction of q. For any other q the result is the pixel at p, without a warp.

    Args:
        image: (N, C, H, W), of any floating dtype.
        flow: (N, 2, H, W), in pixels; float32, or float64 for a float64 image.
        kernel: (N, 16, H, W) in the dtype of `image`. It is not normalised.

    Returns:
        (N, C, H, W) in the dtype and memory format of `image`.

    Raises:
        ValueError: the shapes, dtypes or devices do not fit.
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
    """Convolve an image with a K x K kernel for every pixel, an outer product (Niklaus et al., ICCV 2017).

    ``out[y, x] = sum over i, j of image[y + i, x + j] * vertical[i, y, x] * horizontal[j, y, x]``. DAIN's
    predecessors use this operator; DAIN itself does not.

    Args:
        image: (N, C, H + K - 1, W + K - 1), already padded, of any floating dtype.
        vertical, horizontal: (N, K, H, W) in the dtype of `image`.

    Returns:
        (N, C, H, W) in the dtype of `image`.

    Raises:
        ValueError: the shapes, dtypes or devices do not fit.
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


# ---------------------------------------------------------------- sampling


def sample(map: Tensor, flow: Tensor, scale: float = 1.0) -> Tensor:
    """Sample `map` bilinearly at every pixel plus its flow. Outside the map, its nearest border pixel counts.

    The operator has a gradient for `map`, but none for `flow`.

    Args:
        map: (N, C, H, W), of any floating dtype.
        flow: (N, 2, H, W), float32, or float64 for a float64 map.
        scale: a factor for `flow`, so that `scale` * `flow` is in pixels of `map`.

    Returns:
        (N, C, H, W) in the dtype of `map`, channels-last.

    Raises:
        ValueError: the shapes or dtypes do not fit.
        RuntimeError: `flow` needs a gradient.
    """
    n, _, h, w = _check_flow(flow)
    if map.dim() != 4 or (map.shape[0], *map.shape[2:]) != (n, h, w):
        raise ValueError(f"sample needs a map (N, C, H, W) and a flow (N, 2, H, W), got {_shapes(map, flow)}")
    needed = reference.coordinate_dtype(map)
    if flow.dtype != needed:
        raise ValueError(f"a {map.dtype} map needs a {needed} flow, got {flow.dtype}")
    return torch.ops.dain.sample(map.contiguous(memory_format=torch.channels_last), flow, scale)


@torch.library.register_fake("dain::sample")
def _(map: Tensor, flow: Tensor, scale: float) -> Tensor:
    return torch.empty_like(map, memory_format=torch.channels_last)


@torch.library.register_fake("dain::sample_backward")
def _(grad: Tensor, flow: Tensor, scale: float) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.channels_last)


# ---------------------------------------------------------------- inference into slices
#
# These operators serve inference in half precision on a GPU. They write into slices of the channels of a larger
# channels-last tensor, so that no tensors need to be concatenated. They have no gradients.


def pack_weight(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Pack the weight and the bias of a convolution for `convolve_into` on their device.

    Args:
        weight: (Cout, Cin, KH, KW).
        bias: (Cout,).
        dtype: the dtype of the packed weight.

    Returns:
        The packed weight in `dtype`, and the bias in float32. Both have further outputs of zeros, as many as the kernel
        needs.
    """
    outputs, inputs = weight.shape[:2]
    few = dtype.itemsize > 1 and outputs <= 16 and inputs <= 32  # the portable kernel is faster then
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
    """Compute ``out = leaky_relu(scale * convolution of input + bias + plus, slope)`` with stride 1 and the same size.

    Args:
        input: (N, Cin, H, W), channels-last or a slice of the channels of such a tensor, aligned to 16 bytes. On a GPU
            it is float16 or bfloat16 and Cin is a multiple of 16; with compute capability 9.0 it may be float8_e4m3fn,
            and Cin is a multiple of 32.
        weight, bias: the results of `pack_weight`. The weight has the dtype of `input`; KH and KW are odd and 11 at
            most.
        slope: the slope for negative values: 0 is ReLU, 1 is no activation.
        out: (N, channels, H, W), with Cout channels at most. It is float32 or has the dtype of `input`, or is float16
            if `input` is float8_e4m3fn. On compute capability 9.0 it may be float8_e4m3fn for a float16 `input`, too;
            what would be beyond 448 is then 448. All but a float32 `out` are aligned to 16 bytes and have a multiple of
            8 channels. A float32 `out` has 16 channels at most on compute capability 9.0.
        scale: the scale of each output channel, with the shape and dtype of `bias`.
        plus: a tensor with the shape, dtype and layout of `out`. It may be `out` itself.
        dilation: the distance between the taps of the kernel in pixels, 1 to 64.
    """
    torch.ops.dain.convolve_into(input, weight, scale, bias, plus, dilation, slope, out)


def adaptive_warp_into(
    image: Tensor, first_row: int, flow: Tensor, kernel: Tensor, top: int, out: Tensor
) -> None:
    """Warp some rows of a frame as `adaptive_warp` does, into some rows of the result.

    Pixels of `out` that need rows which `image` lacks are not changed.

    Args:
        image: the rows of the frame from `first_row` on, (N, C, any, W). On a GPU it is not float64, and C is a
            multiple of 8.
        first_row: the row of the frame that is row 0 of `image`.
        flow, kernel: those of the whole frame, (N, 2, H, W) and (N, 16, H, W), as in `adaptive_warp`; the kernel is
            float16 for an `image` of float8_e4m3fn, which has a multiple of 16 channels.
        top: the row of the frame that is row 0 of `out`.
        out: the rows of the result from `top` on, (N, C, any, W), a slice of channels as in `convolve_into`. It has the
            dtype of `image`, or is float8_e4m3fn for a float16 `image`.
    """
    torch.ops.dain.adaptive_warp_into(image, first_row, flow, kernel, top, out)


#: The number of channels that `blend_into` writes.
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
    """Warp both frames and blend them by `time`; write the blend together with its ingredients.

    Args:
        pictures: red, green, blue and log depth of both frames, (N, 4, H, W) each, float32; channels-last on a GPU.
        flows: (N, 2, H, W) each, float32, in pixels.
        kernels: (N, 16, H, W) each, with the dtype and layout of `input` in `convolve_into`.
        time: the weight of the second frame, one float32.
        top: the row of the frame that is row 0 of `blend` and `out`.
        blend: the blended rows, (N, 3, rows, W), float32.
        out: the blend, both images, both flows, both kernels, both log depths and zeros, (N, 64, rows, W). It has the
            dtype of `kernels`, or is float8_e4m3fn for float16 kernels. Flows of more than 448 pixels are then 448.
    """
    torch.ops.dain.blend_into(*pictures, *flows, *kernels, time, top, blend, out)


def pool_into(input: Tensor, mean: bool, out: Tensor) -> None:
    """Write the mean, or the maximum if `mean` is False, of every 2 x 2 pixels.

    Args:
        input: (N, C, H, W), channels-last or a slice of channels. On a GPU a pixel has a multiple of 16 bytes.
        mean: whether to take means.
        out: (N, C, H // 2, W // 2), with the dtype of `input` and the same conditions.
    """
    torch.ops.dain.pool_into(input, mean, out)


def upsample_add_into(low: Tensor, high: Tensor, bilinear: bool, out: Tensor) -> None:
    """Enlarge `low` to twice its size, and write its sum with `high`.

    Args:
        low: (N, C, H, W), channels-last or a slice of channels. On a GPU a pixel has a multiple of 16 bytes.
        high: (N, C, 2H, 2W), with the dtype of `low` and the same conditions.
        bilinear: whether to enlarge bilinearly, with pixels as areas (align_corners=False). Otherwise each pixel of
            `low` becomes 2 x 2 equal pixels.
        out: a tensor with the shape, dtype and layout of `high`. It may be `high` itself.
    """
    torch.ops.dain.upsample_add_into(low, high, bilinear, out)


def unfold_row_into(image: Tensor, taps: int, out: Tensor) -> None:
    """Write the neighbours in the row of every pixel as channels of the pixel.

    A convolution of `image` with a kernel of width `taps` is a convolution of `out` with a kernel of width 1, which
    tensor cores compute many times faster.

    Args:
        image: (N, 3, H, W), of any strides, float32 or with the dtype of `out`.
        taps: the number of neighbours with the pixel itself, odd.
        out: (N, channels, H, W), a slice of channels. Channel ``3 i + c`` is channel c of the pixel ``i - taps // 2``
            to the right, or zero outside the image. The channels from ``3 taps`` on are zero.
    """
    torch.ops.dain.unfold_row_into(image, taps, out)


def match_into(first: Tensor, second: Tensor, out: Tensor) -> None:
    """Write leaky_relu(`correlation`, 0.1) of the first frame with the second, and of the second with the first.

    Args:
        first, second: (N, C, H, W) each, channels-last or slices of channels. On a GPU they are float16 or bfloat16 and
            aligned to 16 bytes, or float32.
        out: (2N, channels, H, W), with the same conditions and a multiple of 8 channels: 81 channels of matches, then
            zeros. The first N items belong to the first frames.
    """
    if first.dtype == torch.float32:  # tensor cores do not multiply float32
        return reference.match_into(first, second, out)
    torch.ops.dain.match_into(first, second, out)


def match_warped_into(
    first: Tensor, second: Tensor, coarse: Tensor, weight: Tensor, bias: Tensor, scale: float, out: Tensor
) -> None:
    """Write all inputs of a level of PWC-Net's flow: `match_into` with the other frame warped first, and more.

    A transposed convolution (kernel 4, stride 2, padding 1) enlarges the flow of the coarser level. The other frame is
    sampled bilinearly by this flow. A sample is zero if less than 0.9999 of it lies inside the frame.

    Args:
        first, second: see `match_into`. H and W are even.
        coarse: (2N, 10, H / 2, W / 2), float32: the flow in the network's unit, and two features, each with the 2 x 2
            pixels that it has at this level.
        weight, bias: those of the transposed convolution, (KH, KW, in, out) = (4, 4, 2, 2) and (2,), float32.
        scale: the factor from the flow's unit to pixels of this level.
        out: see `match_into`. After the 81 channels of matches come the C channels of the frame itself, the enlarged
            flow, the two features, and zeros.
    """
    if first.dtype == torch.float32:
        return reference.match_warped_into(first, second, coarse, weight, bias, scale, out)
    torch.ops.dain.match_warped_into(first, second, coarse, weight, bias, scale, out)


def enlarge_flow(flow: Tensor, scale: float) -> Tensor:
    """Return `scale` times `flow`, (N, 2, H, W) float32, bilinearly enlarged to (N, 2, 4H, 4W); pixels are areas."""
    return torch.ops.dain.enlarge_flow(flow, scale)


@torch.library.register_fake("dain::enlarge_flow")
def _(flow: Tensor, scale: float) -> Tensor:
    n, _, h, w = flow.shape
    return torch.empty((n, 2, 4 * h, 4 * w), dtype=flow.dtype, device=flow.device)


def stack_into(first: Tensor, second: Tensor, out: Tensor) -> None:
    """Write the channels of two images, and zeros in the other channels.

    Args:
        first, second: (N, 3, H, W) each, float32.
        out: (N, channels, H, W), a slice of channels. On a GPU it is aligned to 16 bytes, and the number of channels is
            a multiple of 8.
    """
    torch.ops.dain.stack_into(first, second, out)


def unshuffle_into(image: Tensor, out: Tensor) -> None:
    """Write 2 x 2 pixels as channels, as `torch.nn.functional.pixel_unshuffle` does, and zeros in the other channels.

    Args:
        image: (N, 3, H, W), float32; H and W are even.
        out: (N, channels, H / 2, W / 2), with 12 channels at least and the conditions of `stack_into`.
    """
    torch.ops.dain.unshuffle_into(image, out)


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
):
    torch.library.register_fake(f"dain::{_name}", lambda *_: None)


# ---------------------------------------------------------------- what stands still


def stillness(first: Tensor, second: Tensor, flows: tuple[Tensor, Tensor]) -> Tensor:
    """Find what stands still before a moving picture: subtitles, logos, the display of a game.

    Flow is smooth, so the motion around a letter tears the letter. What is found is the same in both frames and has
    hard edges where all around moves. A repeating pattern that has moved by its period is the same in both frames, too,
    and must move on: there, motion explains both frames as well as rest does. So a region counts as still only where
    motion fails to explain many of its edges, by more than the flow may be off, and where the flows both ways agree.
    Where a small thing flies over a picture at rest, it is the picture that must not stay: far around, much must have
    changed.

    A CPU takes about 250 operations a pixel, and memory for about thirty values a pixel; a GPU for less than two.

    Args:
        first, second: frames, (1, 3, H, W), float32, in [0, 1] or a little beyond.
        flows: from the first to the second and back, (1, 2, H, W) each, of a floating dtype, in pixels.

    Returns:
        Where the picture between the frames is what both of them show: 1 there, else 0, (1, 1, H, W), float32.
    """
    there, back = (flow.float() for flow in flows)
    if first.is_cpu:  # step by step, so that it can be stopped in between
        return reference.stillness(first, second, there, back)
    return torch.ops.dain.stillness(first, second, there, back)


@torch.library.register_fake("dain::stillness")
def _(first: Tensor, second: Tensor, there: Tensor, back: Tensor) -> Tensor:
    return torch.empty_like(first[:, :1], memory_format=torch.contiguous_format)


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


def _save_flow(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    _, flow, ctx.scale = inputs
    ctx.save_for_backward(flow)


def _sample_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    if ctx.needs_input_grad[1]:
        raise RuntimeError("sample has no gradient for its flow: detach the flow, or use grid_sample")
    return torch.ops.dain.sample_backward(grad, *ctx.saved_tensors, ctx.scale), None, None


for _name in ("correlation", "separable_conv"):
    _register_gradient(_name)
torch.library.register_autograd("dain::sample", _sample_gradient, setup_context=_save_flow)
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
