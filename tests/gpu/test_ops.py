"""The CUDA kernels against the CPU reference, which tests/cuda_ext holds against the original's numbers.

Needs torch, pytest and what `dain_core` imports: pytest --noconftest tests/gpu/test_ops.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import cuda_ext
from tests.cuda_ext.launches import MODELS, SHARED_MEMORY, Convolution, convolutions

if not torch.cuda.is_available():
    pytest.skip("no GPU that PyTorch can use", allow_module_level=True)
if cuda_ext.backend() != "cuda":
    pytest.skip("the CUDA kernels are not built: python -m cuda_ext.build", allow_module_level=True)

DATA = Path(__file__).parents[1] / "data"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

#: Error allowed, relative to the result's largest value. Half types: one rounding of the result, and one of sums
#: that pass through a tensor of that type.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

#: (N, C, H, W): odd sizes, one pixel, no batch, a batch, exact tiles, more channels than one thread takes, a single
#: row and column, and more than one word of the bits that hole filling searches.
SHAPES = [
    (2, 5, 9, 37),
    (1, 1, 1, 1),
    (0, 3, 6, 5),
    (3, 16, 16, 32),
    (1, 196, 18, 31),
    (2, 36, 7, 65),
    (1, 3, 1, 40),
    (1, 4, 70, 1),
    (1, 2, 75, 141),
]


# ---------------------------------------------------------------- arguments


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def random_flow(n: int, h: int, w: int) -> Tensor:
    """Flows to the middle of cells, where nothing jumps; a part of them leads outside."""
    return (4 * random(n, 2, h, w)).floor() + 0.2 + 0.6 * random(n, 2, h, w, seed=1).abs().clamp(max=1)


def arguments(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """The tensors an operator takes, on the CPU; the last is a gradient for its result."""
    n, c, h, w = shape
    wide = torch.promote_types(dtype, torch.float32)
    if name == "correlation":
        inputs = [random(n, c, h, w), random(n, c, h, w, seed=1), random(n, 81, h, w)]
    elif name == "flow_projection":
        return [
            x.to(wide) for x in (random_flow(n, h, w), random(n, 1, h, w).abs() + 0.1, random(n, 2, h, w))
        ]
    elif name == "adaptive_warp":
        image, kernel, grad = (
            x.to(dtype) for x in (random(*shape), random(n, 16, h, w), random(*shape, seed=1))
        )
        return [image, random_flow(n, h, w).to(wide), kernel, grad]
    else:
        inputs = [random(n, c, h + 3, w + 3), random(n, 4, h, w), random(n, 4, h, w, seed=1), random(*shape)]
    return [x.to(dtype) for x in inputs]


def cuda(tensors: list[Tensor], device: str = "cuda") -> list[Tensor]:
    return [x.to(device) for x in tensors]


def spread(tensor: Tensor) -> Tensor:
    """The same values, every second pixel of a larger tensor."""
    n, c, h, w = tensor.shape
    larger = tensor.new_zeros((n, c, h + 1, 2 * w + 1))
    larger[:, :, 1:, 1::2] = tensor
    return larger[:, :, 1:, 1::2]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "spread": spread,
    "reversed": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
}
OPERATORS = ["correlation", "flow_projection", "adaptive_warp", "separable_conv"]


def run(name: str, tensors: list[Tensor]) -> list[Tensor]:
    """The result and every gradient, moved to the CPU; the projection's result with its holes filled as well."""
    *inputs, grad = tensors
    operator = getattr(torch.ops.dain, name)
    extra = (False,) if name == "flow_projection" else ()
    gradients = getattr(torch.ops.dain, f"{name}_backward")(grad, *inputs)
    results = [operator(*inputs, *extra), *gradients]
    if name == "flow_projection":
        results.append(operator(*inputs, True))
    for gradient, tensor in zip(gradients, inputs, strict=True):
        assert gradient.stride() == torch.empty_like(tensor).stride() or gradient.numel() == 0
    return [x.cpu() for x in results]


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        largest = theirs.double().abs().max().item() if theirs.numel() else 0.0
        error = (ours.double() - theirs.double()).abs().max().item() if theirs.numel() else 0.0
        # A NaN fails this.
        assert error <= tolerance * (1 + largest), (
            f"result {index}: off by {error:.2e}, values up to {largest:.2e}"
        )


# ---------------------------------------------------------------- against the reference


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_kernels_are_the_reference(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensors = arguments(name, shape, dtype)
    assert_near(run(name, cuda(tensors)), run(name, tensors), TOLERANCE[tensors[0].dtype])


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("of_image", [True, False])
def test_a_part_of_a_warps_gradient_is_the_same(of_image: bool, dtype: torch.dtype, layout: str) -> None:
    *inputs, grad = (LAYOUTS[layout](x) for x in arguments("adaptive_warp", (2, 36, 19, 43), dtype))
    expected = torch.ops.dain.adaptive_warp_backward(grad, *inputs, of_image, not of_image)
    found = torch.ops.dain.adaptive_warp_backward(*cuda([grad, *inputs]), of_image, not of_image)
    assert_near([x.cpu() for x in found], list(expected), TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [5, 36])
@pytest.mark.parametrize("name", OPERATORS)
def test_any_layout_gives_the_same(name: str, channels: int, dtype: torch.dtype, layout: str) -> None:
    tensors = arguments(name, (2, channels, 19, 43), dtype)
    expected = run(name, tensors)
    assert_near(run(name, [LAYOUTS[layout](x) for x in cuda(tensors)]), expected, TOLERANCE[tensors[0].dtype])


def test_results_keep_channels_last() -> None:
    image, flow, kernel, _ = (x.cuda() for x in arguments("adaptive_warp", (2, 8, 6, 7), torch.float16))
    image = image.contiguous(memory_format=torch.channels_last)
    for result in (cuda_ext.adaptive_warp(image, flow, kernel), cuda_ext.correlation(image, image)):
        assert result.is_contiguous(memory_format=torch.channels_last) and not result.is_contiguous()


def test_an_unaligned_image_is_warped_too() -> None:
    """Channels-last, but not at an address that four elements can be read from at once."""
    image, flow, kernel, _ = arguments("adaptive_warp", (1, 4, 6, 7), torch.float16)
    expected = torch.ops.dain.adaptive_warp(image, flow, kernel)
    shifted = torch.empty(image.numel() + 1, dtype=image.dtype, device="cuda")[1:]
    shifted = shifted.view(1, 6, 7, 4).permute(0, 3, 1, 2).copy_(image)
    found = torch.ops.dain.adaptive_warp(shifted, flow.cuda(), kernel.cuda())
    assert_near([found.cpu()], [expected], TOLERANCE[torch.float16])


def test_far_apart_sources_fill_every_hole() -> None:
    """One pixel in a hundred lands inside: holes of all sizes, whole empty rows and columns."""
    _, weight, _ = arguments("flow_projection", (2, 1, 200, 333), torch.float32)
    flow = random_flow(2, 200, 333).float()
    flow[torch.rand(flow[:, :1].shape, generator=torch.Generator().manual_seed(0)).expand_as(flow) > 0.01] = (
        1e6
    )
    assert_near([cuda_ext.flow_projection(flow.cuda(), weight.cuda(), True).cpu()], [
        cuda_ext.flow_projection(flow, weight, True)], 1e-5)  # fmt: skip
    flow.fill_(1e6)
    assert cuda_ext.flow_projection(flow.cuda(), weight.cuda(), True).abs().max() == 0


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_flows_that_are_no_position_are_harmless(bad: float, channels_last: bool) -> None:
    flow, weight = torch.zeros(1, 2, 5, 6, device="cuda"), torch.ones(1, 1, 5, 6, device="cuda")
    flow[0, 0, 2, 3] = bad
    assert cuda_ext.flow_projection(flow, weight, True).isfinite().all()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = torch.rand(1, 4, 5, 6, device="cuda").contiguous(memory_format=layout)
    kernel = torch.full((1, 16, 5, 6), 0.25, device="cuda")
    torch.testing.assert_close(cuda_ext.adaptive_warp(image, flow, kernel)[..., 2, 3], image[..., 2, 3])


@pytest.mark.parametrize("channels_last", [False, True])
def test_random_flows_agree_but_for_jumps(channels_last: bool) -> None:
    """Flows anywhere: positions beside an integer may fall either way, and only they may differ."""
    image, _, kernel, _ = arguments("adaptive_warp", (1, 8, 240, 320), torch.float32)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    flow = (6 * random(1, 2, 240, 320)).float()
    found = cuda_ext.adaptive_warp(image.cuda(), flow.cuda(), kernel.cuda()).cpu()
    differs = (found - cuda_ext.adaptive_warp(image, flow, kernel)).abs().amax(1)[0] > 1e-4
    y, x = torch.meshgrid(torch.arange(240.0), torch.arange(320.0), indexing="ij")
    to_edge = torch.stack([(p - p.round()).abs() for p in (x + flow[0, 0], y + flow[0, 1])]).amin(0)
    assert not (differs & (to_edge > 1e-4)).any()
    assert differs.float().mean() < 1e-3


# ---------------------------------------------------------------- against the original's numbers


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(DATA / "golden_operators.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]).cuda() for name in arrays.files}


@pytest.mark.parametrize(
    ("name", "inputs", "result"),
    [
        ("correlation", ["corr_in1", "corr_in2"], "corr_out"),
        ("correlation_backward", ["corr_gout", "corr_in1", "corr_in2"], "corr_gin1 corr_gin2"),
        ("flow_projection", ["dfp_flow", "dfp_dinv", False], "dfp_out_nofill"),
        ("flow_projection", ["dfp_flow", "dfp_dinv", True], "dfp_out_fill"),
        ("flow_projection_backward", ["dfp_gout", "dfp_flow", "dfp_dinv"], "dfp_gflow"),
        ("adaptive_warp", ["fi_img", "fi_flow", "fi_filt"], "fi_out"),
        ("adaptive_warp_backward", ["fi_gout", "fi_img", "fi_flow", "fi_filt"], "- fi_gflow fi_gfilt"),
    ],
)
def test_kernels_are_the_originals(
    golden: dict[str, Tensor], name: str, inputs: list[str | bool], result: str
) -> None:
    """Where ours differs on purpose (a weight's gradient, an unwarped pixel's) tests/cuda_ext says how."""
    found = getattr(torch.ops.dain, name)(*(golden[x] if isinstance(x, str) else x for x in inputs))
    for tensor, expected in zip(found if isinstance(found, tuple) else [found], result.split(), strict=False):
        if expected != "-":
            torch.testing.assert_close(tensor, golden[expected], atol=2e-5, rtol=0)


# ---------------------------------------------------------------- as PyTorch uses them


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_are_the_derivatives(name: str) -> None:
    *inputs, _ = cuda(arguments(name, (1, 2, 4, 5), torch.float64))
    extra = (False,) if name == "flow_projection" else ()
    leaves = [x.requires_grad_() for x in inputs]
    # Atomic additions come in another order each time.
    assert torch.autograd.gradcheck(getattr(cuda_ext, name), (*leaves, *extra), nondet_tol=1e-10)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("name", OPERATORS)
def test_registration_is_sound(name: str, layout: str) -> None:
    *inputs, grad = (LAYOUTS[layout](x).cuda() for x in arguments(name, (2, 8, 6, 7), torch.float32))
    extra = (False,) if name == "flow_projection" else ()
    opcheck(getattr(torch.ops.dain, name).default, (*inputs, *extra))
    opcheck(getattr(torch.ops.dain, f"{name}_backward").default, (grad, *inputs))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_side_stream_is_used(name: str) -> None:
    """The inputs appear on a side stream only after a long wait: kernels on any other stream would miss them."""
    tensors = arguments(name, (2, 8, 40, 50), torch.float32)
    expected = run(name, tensors)
    staged = [x.cuda() for x in tensors]
    late = [torch.zeros_like(x) for x in staged]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)
        for target, source in zip(late, staged, strict=True):
            target.copy_(source, non_blocking=True)
        found = run(name, late)
    assert_near(found, expected, TOLERANCE[torch.float32])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize("name", OPERATORS)
def test_a_tensors_own_gpu_is_used(name: str) -> None:
    tensors = arguments(name, (2, 8, 20, 30), torch.float32)
    assert_near(run(name, cuda(tensors, "cuda:1")), run(name, tensors), TOLERANCE[torch.float32])
    assert torch.cuda.current_device() == 0
    image, flow, kernel, _ = arguments("adaptive_warp", (1, 3, 4, 4), torch.float32)
    with pytest.raises(RuntimeError, match="same GPU"):
        torch.ops.dain.adaptive_warp(image.to("cuda:1"), flow.to("cuda:0"), kernel.to("cuda:1"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("correlation", lambda a, b, _: [a, b[..., 1:]], "second must be"),
        ("correlation", lambda a, b, _: [a, b.half()], "second must be Float, not Half"),
        ("correlation", lambda a, b, _: [a.int(), b.int()], "needs float16"),
        ("flow_projection", lambda f, w, _: [f.half(), w.half(), True], "flow must be float32"),
        ("flow_projection", lambda f, w, _: [w, w, True], r"flow must be \(N, 2, H, W\)"),
        ("adaptive_warp", lambda i, f, k, _: [i[0], f, k], "image must be"),
        ("adaptive_warp", lambda i, f, k, _: [i.half(), f.half(), k.half()], "flow must be Float"),
        ("separable_conv", lambda i, v, h, _: [i[..., 1:], v, h], "image must be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    name: str, change: Callable[..., list[Tensor]], message: str
) -> None:
    """The operators are called past the Python checks: the kernels have their own."""
    tensors = [x.cuda() for x in arguments(name, (1, 3, 6, 7), torch.float32)]
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.dain, name)(*change(*tensors))


# ---------------------------------------------------------------- size


@pytest.fixture
def roomy_gpu() -> Iterator[None]:
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of GPU memory")
    yield
    torch.cuda.empty_cache()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.usefixtures("roomy_gpu")
def test_offsets_pass_32_bits(channels_last: bool) -> None:
    """The contexts of two 4K frames: 3.3e9 elements. A shift by whole pixels is exact, to the last frame's end."""
    n, c, h, w = 2, 196, 2160, 3840
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = torch.empty((n, c, h, w), dtype=torch.float16, device="cuda", memory_format=layout)
    image.copy_(
        torch.arange(w, device="cuda") % 97 + 100 * torch.arange(n, device="cuda")[:, None, None, None]
    )
    kernel = torch.zeros((n, 16, h, w), dtype=torch.float16, device="cuda")
    kernel[:, 5] = 1
    flow = torch.zeros((n, 2, h, w), device="cuda")
    flow[:, 0] = 2
    moved = cuda_ext.adaptive_warp(image, flow, kernel)
    for frame in range(n):
        for channel in (0, 97, c - 1):
            assert torch.equal(moved[frame, channel, :, :-2], image[frame, channel, :, 2:])


# ---------------------------------------------------------------- inference into slices

HALF = [torch.float16, torch.bfloat16]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", ["native", "portable"])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("n", "inputs", "outputs", "kernel", "dilation", "h", "w"),
    [
        (2, 16, 16, (1, 1), 1, 5, 19),
        (1, 32, 16, (7, 7), 1, 33, 50),
        (1, 48, 64, (3, 3), 1, 1, 1),
        (2, 64, 32, (11, 11), 1, 20, 17),
        (1, 64, 16, (11, 11), 1, 300, 280),
        (1, 112, 96, (3, 3), 1, 270, 270),
        (2, 64, 64, (5, 5), 1, 200, 300),
        (3, 576, 2, (3, 3), 1, 9, 12),
        (1, 128, 3, (3, 3), 1, 270, 290),
        (1, 32, 128, (7, 1), 1, 150, 330),
        (1, 48, 208, (1, 1), 1, 260, 270),
        (1, 256, 160, (1, 1), 1, 5, 7),
        (2, 128, 112, (1, 1), 1, 61, 75),
        (1, 272, 64, (1, 1), 1, 40, 41),
        (1, 448, 128, (7, 7), 1, 70, 90),
        (2, 64, 64, (3, 3), 4, 61, 75),
        (1, 128, 96, (3, 3), 16, 200, 210),
        (1, 32, 32, (1, 5), 8, 300, 310),
    ],
)
def test_convolution_into_a_slice(
    n: int,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    dilation: int,
    h: int,
    w: int,
    dtype: torch.dtype,
    layout: str,
) -> None:
    weight = (random(outputs, inputs, *kernel) / (inputs * kernel[0] * kernel[1]) ** 0.5).to(dtype).cuda()
    bias, source = (
        random(outputs).float().cuda(),
        channels_last(random(n, inputs + 24, h, w).to(dtype).cuda()),
    )
    source = source[:, 8 : 8 + inputs]  # both are slices
    wide = outputs % 16 != 0
    whole = torch.full((n, outputs + 16, h, w), 7.0, dtype=torch.float32 if wide else dtype, device="cuda")
    whole = channels_last(whole)
    plus = channels_last(random(n, outputs, h, w).to(whole))
    packed = cuda_ext.pack_weight(weight, bias, dtype)
    if layout == "portable":
        packed = tuple(x.cuda() for x in cuda_ext.pack_weight(weight.cpu(), bias.cpu(), dtype))
    ours = whole[:, 8 : 8 + outputs]
    reach = [dilation * (side // 2) for side in kernel]
    expected = torch.nn.functional.conv2d(
        source.double(), weight.double(), bias.double(), padding=reach, dilation=dilation
    )
    limit = (1e-4 if wide else TOLERANCE[dtype]) * float(expected.abs().max())
    cuda_ext.convolve_into(source, *packed, 0.1, ours, dilation=dilation)
    assert float((ours - torch.nn.functional.leaky_relu(expected, 0.1)).abs().max()) <= limit
    cuda_ext.convolve_into(source, *packed, 0.0, ours, plus=plus, dilation=dilation)
    assert float((ours - torch.nn.functional.relu(expected + plus)).abs().max()) <= limit
    assert bool((whole[:, :8] == 7).all()) and bool((whole[:, 8 + outputs :] == 7).all())


#: Shared memory that a block is given: as much as the GPU has, and as much as GPUs of every architecture have.
LIMITS = [0, *sorted({limit for limit in SHARED_MEMORY.values()})]


def device_limit() -> int:
    """Bytes that a block may have here: all of a multiprocessor's but what the system keeps."""
    return int(torch.cuda.get_device_properties(0).shared_memory_per_multiprocessor) - 1024


def layer_on_gpu(
    layer: Convolution, dtype: torch.dtype, h: int, w: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An input, a weight and its bias, all random, and what the layer makes of them in float32, with slope 0.1."""
    generator = torch.Generator("cuda").manual_seed(layer.inputs + layer.outputs + layer.rows + h)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    fan_in = layer.inputs * layer.rows * layer.columns
    source = channels_last(normal(1, layer.inputs, h, w).to(dtype))
    weight = (normal(layer.outputs, layer.inputs, layer.rows, layer.columns) / fan_in**0.5).to(dtype)
    bias = normal(layer.outputs)
    reach = [layer.dilation * (side // 2) for side in (layer.rows, layer.columns)]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        sums = torch.nn.functional.conv2d(
            source.float(), weight.float(), bias, padding=reach, dilation=layer.dilation
        )
    return source, weight, bias, torch.nn.functional.leaky_relu(sums, 0.1)


def portable(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A weight and a bias on the GPU as the portable kernel takes them, whatever the GPU."""
    packed, padded = cuda_ext.pack_weight(weight.cpu(), bias.cpu(), weight.dtype)
    return packed.cuda(), padded.cuda()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", MODELS)
def test_convolutions_agree_whatever_the_shared_memory(name: str, dtype: torch.dtype) -> None:
    """Every layer of every model as the GPUs of every architecture launch it, on maps of few and of many tiles."""
    for layer in convolutions(name, torch.float16):
        for h, w in ((21, 35), (260, 270)):
            source, weight, bias, expected = layer_on_gpu(layer, dtype, h, w)
            packed, padded = portable(weight, bias)
            allowed = (1e-4 if layer.wide else TOLERANCE[dtype]) * float(expected.abs().max())
            for limit in LIMITS:
                if limit > device_limit():
                    continue  # this GPU has less
                out_dtype = torch.float32 if layer.wide else dtype
                out = channels_last(torch.full(expected.shape, 7.0, dtype=out_dtype, device="cuda"))
                torch.ops.dain.convolve_into(
                    source, packed, None, padded, None, layer.dilation, 0.1, out, limit
                )
                # A NaN fails this.
                assert float((out - expected).abs().max()) <= allowed, (layer, h, w, limit)


def test_more_shared_memory_than_there_is_is_refused() -> None:
    x, weight, bias, _ = layer_on_gpu(Convolution(16, 16, 3, 3, 1, 2, False), torch.float16, 4, 4)
    packed, padded = portable(weight, bias)
    for limit in (-1, device_limit() + 1):
        with pytest.raises(RuntimeError, match="shared_memory must be between 0 and"):
            torch.ops.dain.convolve_into(x, packed, None, padded, None, 1, 0.0, x.clone(), limit)
    with pytest.raises(RuntimeError, match="a kernel of 3x3 needs more shared memory than the 1000 bytes"):
        torch.ops.dain.convolve_into(x, packed, None, padded, None, 1, 0.0, x.clone(), 1000)


def unaligned(x: Tensor) -> Tensor:
    """The same values as a channels-last tensor, two bytes beside where vectors of 16 bytes can be read."""
    n, c, h, w = x.shape
    memory = torch.empty(x.numel() + 8, dtype=x.dtype, device=x.device)
    start = 1 if memory.data_ptr() % 16 == 0 else 0
    return memory[start : start + x.numel()].view(n, h, w, c).permute(0, 3, 1, 2).copy_(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": lambda x: x.float()}, "input must be float16 or bfloat16"),
        ({"input": lambda x: x.bfloat16()}, "weight must be BFloat16, not Half"),
        ({"input": lambda x: x[:, :, 1:]}, "input must be"),
        ({"input": unaligned}, "input must be a slice of channels"),
        ({"weight": lambda x: x.float()}, "weight must be Half, not Float"),
        ({"weight": lambda x: x.cpu()}, "weight must be on the same GPU"),
        ({"weight": lambda x: x[..., :1]}, "weight must be packed"),
        ({"weight": lambda x: x[0, ..., 0, 0, 0]}, "weight must be packed"),
        ({"weight": lambda x: torch.cat((x, x))}, "the weight another number"),
        ({"weight": lambda x: x[:, :2].contiguous()}, "odd sides"),
        ({"bias": lambda x: x.half()}, "bias must be Float, not Half"),
        ({"bias": lambda x: x.cpu()}, "bias must be on the same GPU"),
        ({"bias": lambda x: x[:-1]}, "bias must be 16 contiguous elements, not 15"),
        ({"bias": lambda x: torch.stack((x, x), 1)[:, 0]}, "bias must be 16 contiguous elements"),
        ({"scale": lambda x: torch.ones(16, device="cuda")}, "scale needs a weight packed for"),
        ({"scale": lambda x: torch.ones(16)}, "scale must be on the same GPU"),
        ({"scale": lambda x: torch.ones(15, device="cuda")}, "scale must be 16 contiguous elements"),
        ({"scale": lambda x: torch.ones(16, device="cuda").half()}, "scale must be Float"),
        ({"plus": lambda x: x.float()}, "plus must be Half, not Float"),
        ({"plus": lambda x: x[:, :, :3]}, "plus must be"),
        ({"plus": unaligned}, "plus must be a slice of channels .* aligned to 16 bytes"),
        ({"plus": lambda x: x.cpu()}, "plus must be on the same GPU"),
        ({"plus": Tensor.contiguous}, "plus must be a slice of channels"),
        ({"out": lambda x: x.bfloat16()}, "out must be float32 or of the dtype of input"),
        ({"out": lambda x: x.to(torch.float8_e4m3fn), "plus": lambda x: None}, "with a weight packed for"),
        ({"out": unaligned}, "out must be a slice of channels"),
        ({"out": lambda x: torch.cat((x, x), 1)}, "out has 32 channels, the weight 16"),
        ({"dilation": lambda x: 0}, "a dilation is between 1 and 64"),
    ],
)
def test_a_convolution_refuses_what_does_not_fit(
    change: dict[str, Callable[..., object]], message: str
) -> None:
    source, weight, bias, _ = layer_on_gpu(Convolution(32, 16, 3, 3, 1, 2, False), torch.float16, 4, 5)
    packed, padded = portable(weight, bias)
    x = channels_last(random(1, 16, 4, 5).half().cuda())
    arguments: dict[str, object] = {
        "input": source,
        "weight": packed,
        "scale": None,
        "bias": padded,
        "plus": x,
        "dilation": 1,
        "slope": 0.0,
        "out": x.clone(),
    }
    for name, make in change.items():
        arguments[name] = make(arguments[name])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.dain.convolve_into(*arguments.values())
    torch.cuda.synchronize()


EIGHT = torch.float8_e4m3fn
needs_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
)


@needs_hopper
@pytest.mark.parametrize(
    ("source_dtype", "out_dtype"),
    [(EIGHT, torch.float16), (EIGHT, EIGHT), (EIGHT, torch.float32), (torch.float16, EIGHT)],
    ids=["half", "eight", "float", "from half"],
)
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "dilation"),
    [(448, 128, 7, 1), (128, 128, 3, 1), (96, 32, 3, 2), (32, 16, 11, 1), (128, 112, 1, 1), (64, 3, 3, 1)],
)
def test_convolution_of_eight_bits(
    inputs: int,
    outputs: int,
    size: int,
    dilation: int,
    added: bool,
    source_dtype: torch.dtype,
    out_dtype: torch.dtype,
) -> None:
    if (out_dtype == torch.float32) != (outputs < 8):
        pytest.skip("few outputs are float32, and many are not")
    source = channels_last(random(1, inputs, 61, 75).float().cuda()).to(source_dtype)
    weight = random(outputs, inputs, size, size).float().cuda() / (inputs * size**2) ** 0.5
    bias, scale = random(outputs).float().cuda(), random(outputs).abs().float().cuda()
    packed, padded_bias = cuda_ext.pack_weight(weight, bias, source_dtype)
    if packed.dim() != 8:
        pytest.skip("the portable kernel, which few outputs take in half precision, has no eight bits")
    padded_scale = torch.nn.functional.pad(scale, (0, len(padded_bias) - outputs))
    shape = (1, outputs, 61, 75)
    plus = channels_last(random(*shape, seed=1).float().cuda()).to(out_dtype) if added else None
    out = channels_last(torch.empty(shape, dtype=out_dtype, device="cuda"))
    cuda_ext.convolve_into(
        source, packed, padded_bias, 0.1, out, scale=padded_scale, plus=plus, dilation=dilation
    )
    exact = torch.nn.functional.conv2d(
        source.double(), weight.to(source_dtype).double(), padding=size // 2 * dilation, dilation=dilation
    )
    exact = exact * scale[:, None, None] + bias[:, None, None] + (0 if plus is None else plus.double())
    expected = torch.nn.functional.leaky_relu(exact, 0.1)
    # The tensor cores keep 14 bits of a sum of such products. A result of eight bits has four digits.
    allowed = 4e-2 if out_dtype == EIGHT else 5e-3
    assert float((out.double() - expected).norm()) <= allowed * float(expected.norm())


@needs_hopper
def test_eight_bits_hold_no_more_than_448() -> None:
    source = channels_last(torch.full((1, 32, 9, 9), 400.0, device="cuda")).to(EIGHT)
    packed, bias = cuda_ext.pack_weight(torch.ones(64, 32, 1, 1).cuda(), torch.zeros(64).cuda(), EIGHT)
    out = channels_last(torch.empty((1, 64, 9, 9), dtype=EIGHT, device="cuda"))
    cuda_ext.convolve_into(source, packed, bias, 0.0, out)
    assert bool((out.float() == 448).all())


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize(("top", "rows"), [(0, 21), (8, 7), (15, 6)])
@pytest.mark.parametrize(("first_row", "held"), [(0, 21), (6, 9)])
def test_a_warp_of_rows_into_a_slice(
    first_row: int, held: int, top: int, rows: int, dtype: torch.dtype
) -> None:
    """Pixels that need rows which are not there are left alone."""
    n, h, w = 2, 21, 37
    kernel, flow = channels_last(random(n, 16, h, w).to(dtype)), random_flow(n, h, w).float()
    image = channels_last(random(n, 24, held, w).to(dtype))
    whole = channels_last(torch.full((n, 40, rows, w), 7.0, dtype=dtype, device="cuda"))
    cuda_ext.adaptive_warp_into(image.cuda(), first_row, flow.cuda(), kernel.cuda(), top, whole[:, 8:32])
    expected = torch.full((n, 24, rows, w), 7.0)
    cuda_ext.adaptive_warp_into(image.float(), first_row, flow, kernel.float(), top, expected)
    assert bool((whole[:, :8] == 7).all()) and bool((whole[:, 32:] == 7).all())
    found = whole[:, 8:32].cpu().float()
    assert torch.equal(found == 7, expected == 7) and bool((expected == 7).any()) == (held < h)
    assert float((found - expected).abs().max()) <= TOLERANCE[dtype] * float(expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize(("top", "rows"), [(0, 21), (8, 7), (15, 6)])
def test_blending_rows_into_a_slice(top: int, rows: int, dtype: torch.dtype) -> None:
    n, h, w = 2, 21, 37
    kernels = [channels_last(random(n, 16, h, w, seed=i).to(dtype)) for i in range(2)]
    flows = [random_flow(n, h, w).float() * (1 - 0.1 * i) for i in range(2)]
    pictures = [channels_last(random(n, 4, h, w, seed=i).float()) for i in range(2)]
    blend = torch.full((n, 3, rows, w), float("nan"), device="cuda")
    out = channels_last(torch.empty((n, 80, rows, w), dtype=dtype, device="cuda"))[:, 16:]
    time = torch.tensor(0.3)
    device = [x.cuda() for x in (*pictures, *flows, *kernels, time)]
    torch.ops.dain.blend_into(*device, top, blend, out)
    expected, seen = torch.empty((n, 3, rows, w)), torch.empty((n, 64, rows, w))
    wide = [x.float() for x in (*pictures, *flows, *kernels, time)]
    torch.ops.dain.blend_into(*wide, top, expected, seen)
    torch.testing.assert_close(blend.cpu(), expected, atol=1e-5, rtol=1e-5)
    assert float((out.cpu().float() - seen).abs().max()) <= TOLERANCE[dtype] * float(seen.abs().max())


def test_rows_beyond_the_frame_are_refused() -> None:
    image, flow = channels_last(torch.zeros(1, 8, 4, 5)).cuda(), torch.zeros(1, 2, 6, 5, device="cuda")
    kernel, out = torch.zeros(1, 16, 6, 5, device="cuda"), channels_last(torch.zeros(1, 8, 3, 5)).cuda()
    for first_row, top, name in ((3, 0, "image"), (0, 4, "out"), (-1, 0, "image")):
        with pytest.raises(RuntimeError, match=f"{name} holds rows"):
            cuda_ext.adaptive_warp_into(image, first_row, flow, kernel, top, out)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (lambda: torch.tensor(0.3), "time must be on the same GPU"),
        (lambda: torch.tensor([0.3, 0.4]).cuda(), "time must be 1 contiguous elements, not 2"),
        (lambda: torch.tensor(0.3).half().cuda(), "time must be Float, not Half"),
    ],
)
def test_a_blend_refuses_a_time_that_does_not_fit(time: Callable[[], Tensor], message: str) -> None:
    pictures = [channels_last(torch.zeros(1, 4, 6, 5, device="cuda")) for _ in range(2)]
    flows = [torch.zeros(1, 2, 6, 5, device="cuda") for _ in range(2)]
    kernels = [channels_last(torch.zeros(1, 16, 6, 5, device="cuda")) for _ in range(2)]
    blend, out = (
        torch.zeros(1, 3, 6, 5, device="cuda"),
        channels_last(torch.zeros(1, 64, 6, 5, device="cuda")),
    )
    with pytest.raises(RuntimeError, match=message):
        torch.ops.dain.blend_into(*pictures, *flows, *kernels, time(), 0, blend, out)


RESAMPLED = [torch.float32, *HALF]


def slice_of(shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Channels 8 to 8 + C of a larger channels-last tensor on the GPU."""
    n, c, h, w = shape
    return channels_last(random(n, c + 24, h, w, seed=seed).to(dtype).cuda())[:, 8 : 8 + c]


@pytest.mark.parametrize("dtype", RESAMPLED)
@pytest.mark.parametrize("shape", [(2, 16, 6, 10), (1, 8, 7, 5), (3, 64, 2, 2), (1, 40, 66, 131)], ids=str)
@pytest.mark.parametrize("mean", [False, True])
def test_pooling_into_a_slice(mean: bool, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    n, c, h, w = shape
    source = slice_of(shape, dtype)
    whole = channels_last(torch.full((n, c + 16, h // 2, w // 2), 7.0, dtype=dtype, device="cuda"))
    cuda_ext.pool_into(source, mean, whole[:, 8 : 8 + c])
    expected = torch.empty(n, c, h // 2, w // 2)
    cuda_ext.pool_into(source.cpu().float(), mean, expected)
    assert_near([whole[:, 8 : 8 + c].cpu().float()], [expected], TOLERANCE[dtype])
    assert bool((whole[:, :8] == 7).all()) and bool((whole[:, 8 + c :] == 7).all())


def test_warping_eight_bits() -> None:
    n, h, w = 2, 21, 37
    kernel, flow = channels_last(random(n, 16, h, w).half()), random_flow(n, h, w).float()
    image = channels_last(random(n, 32, h, w).float()).to(EIGHT)
    out = channels_last(torch.empty((n, 48, h, w), device="cuda")).to(EIGHT)
    cuda_ext.adaptive_warp_into(image.cuda(), 0, flow.cuda(), kernel.cuda(), 0, out[:, 16:])
    expected = torch.empty((n, 32, h, w))
    cuda_ext.adaptive_warp_into(image.float(), 0, flow, kernel.float(), 0, expected)
    assert float((out[:, 16:].cpu().float() - expected).norm()) <= 4e-2 * float(expected.norm())


@pytest.mark.parametrize("flag", [False, True])
def test_resampling_eight_bits(flag: bool) -> None:
    low, high = (slice_of((1, 40, h, w), EIGHT, seed=h)[:, 8:24] for h, w in ((9, 13), (18, 26)))
    for made, expected in (
        (torch.empty_like(low), torch.empty(low.shape)),
        (torch.empty_like(high), torch.empty(high.shape)),
    ):
        if made.shape == low.shape:
            cuda_ext.pool_into(high, flag, made)
            cuda_ext.pool_into(high.cpu().float(), flag, expected)
        else:
            cuda_ext.upsample_add_into(low, high, flag, made)
            cuda_ext.upsample_add_into(low.cpu().float(), high.cpu().float(), flag, expected)
        assert float((made.cpu().float() - expected).norm()) <= 4e-2 * float(expected.norm())


def test_pooling_shows_what_is_no_number() -> None:
    image = channels_last(torch.zeros((1, 8, 4, 4), device="cuda"))
    for y, x in ((0, 0), (1, 2), (2, 1), (3, 3)):
        image[..., y, x] = float("nan")
    for mean in (False, True):
        out = channels_last(torch.zeros((1, 8, 2, 2), device="cuda"))
        cuda_ext.pool_into(image, mean, out)
        assert out.isnan().all()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", RESAMPLED)
@pytest.mark.parametrize("shape", [(2, 16, 3, 5), (1, 8, 1, 1), (3, 64, 1, 7), (1, 40, 33, 66)], ids=str)
@pytest.mark.parametrize("bilinear", [False, True])
def test_doubling_into_a_slice(
    bilinear: bool, shape: tuple[int, int, int, int], dtype: torch.dtype, in_place: bool
) -> None:
    n, c, h, w = shape
    low, high = slice_of(shape, dtype), slice_of((n, c, 2 * h, 2 * w), dtype, seed=1)
    expected = torch.empty(n, c, 2 * h, 2 * w)
    cuda_ext.upsample_add_into(low.cpu().float(), high.cpu().float(), bilinear, expected)
    whole = channels_last(torch.full((n, c + 16, 2 * h, 2 * w), 7.0, dtype=dtype, device="cuda"))
    out = high if in_place else whole[:, 8 : 8 + c]
    cuda_ext.upsample_add_into(low, high, bilinear, out)
    assert_near([out.cpu().float()], [expected], TOLERANCE[dtype])
    assert bool((whole[:, :8] == 7).all()) and bool((whole[:, 8 + c :] == 7).all())


@pytest.mark.parametrize("source", RESAMPLED)
@pytest.mark.parametrize("dtype", RESAMPLED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "taps"), [(32, 7), (16, 5), (8, 1)])
def test_rows_become_channels(
    channels: int, taps: int, layout: str, dtype: torch.dtype, source: torch.dtype
) -> None:
    if source not in (torch.float32, dtype):
        pytest.skip("refused")
    n, h, w = 2, 9, 71
    image = random(n, 3, h, w).to(source)
    out = slice_of((n, channels, h, w), dtype)
    cuda_ext.unfold_row_into(LAYOUTS[layout](image.cuda()), taps, out)
    expected = torch.empty((n, channels, h, w), dtype=dtype)
    cuda_ext.unfold_row_into(image, taps, expected)
    assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: cuda_ext.pool_into(x, True, x), "out must be"),
        (lambda x: cuda_ext.pool_into(x[:, :4], True, x[:, :4, :2, :2]), "multiple of 8 channels"),
        (lambda x: cuda_ext.pool_into(x[:, 4:12], True, x[:, :8, :2, :2]), "a slice of channels"),
        (lambda x: cuda_ext.upsample_add_into(x, x, True, x), "high must be"),
        (lambda x: cuda_ext.unfold_row_into(x[:, :3], 7, x), "no room"),
        (lambda x: cuda_ext.unfold_row_into(x[:, :3].float(), 4, x), "odd number"),
        (lambda x: cuda_ext.unfold_row_into(x[:, :3].bfloat16(), 5, x), "dtype of out"),
    ],
)
def test_resampling_refuses_what_does_not_fit(call: Callable[[Tensor], None], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(channels_last(torch.zeros((1, 16, 4, 4), dtype=torch.float16, device="cuda")))


# ---------------------------------------------------------------- flow between two frames


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("n", "c", "h", "w"),
    [(1, 196, 5, 7), (2, 16, 1, 1), (1, 128, 34, 60), (2, 24, 6, 38), (1, 32, 66, 130), (1, 256, 18, 34)],
)
@pytest.mark.parametrize("warped", [False, True])
@pytest.mark.parametrize("limit", LIMITS)
def test_frames_are_matched(
    n: int, c: int, h: int, w: int, warped: bool, dtype: torch.dtype, limit: int
) -> None:
    """With as much shared memory as the GPU has, and as much as GPUs of every architecture have."""
    if limit > device_limit():
        pytest.skip("this GPU has less")
    h, w = (h + h % 2, w + w % 2) if warped else (h, w)
    width, wider = 81 + (c + 4) * warped, -(-c // 16) * 16 + 8
    width += -width % 16
    maps = [channels_last(random(n, wider, h, w, seed=i).to(dtype)) for i in range(2)]
    extra: list[Tensor | float] = []
    if warped:
        # Flows of several pixels, which at the frame's border lead outside.
        coarse = channels_last(random(2 * n, 10, h // 2, w // 2).float())
        extra = [coarse, random(4, 4, 2, 2).float(), random(2).float(), 1.25]
    name = "match_warped_into" if warped else "match_into"
    whole = channels_last(torch.full((2 * n, width + 16, h, w), 7.0, dtype=dtype, device="cuda"))
    device = [x.cuda() if isinstance(x, Tensor) else x for x in (*maps, *extra)]
    slices = [x[:, :c] for x in device[:2]]
    getattr(torch.ops.dain, name)(*slices, *device[2:], whole[:, 8 : 8 + width], limit)
    expected = torch.empty((2 * n, width, h, w))
    getattr(torch.ops.dain, name)(*(x[:, :c].float() for x in maps), *extra, expected)
    found = whole.cpu().float()
    assert bool((found[:, :8] == 7).all()) and bool((found[:, 8 + width :] == 7).all())
    for part in (slice(0, 81), slice(81, None)):
        theirs = expected[:, part]
        limit = TOLERANCE[dtype] * float(theirs.abs().max())
        assert float((found[:, 8 : 8 + width][:, part] - theirs).abs().max()) <= limit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": lambda x: x.float()}, "second must be Float, not Half"),
        ({"second": lambda x: x[:, :, 1:]}, "second must be"),
        ({"second": unaligned}, "second must be a slice of channels"),
        ({"coarse": lambda x: x.half()}, "coarse must be Float"),
        ({"coarse": lambda x: x[:, :8]}, "coarse must be"),
        ({"weight": lambda x: x.cpu()}, "weight must be on the same GPU"),
        ({"weight": lambda x: x.transpose(0, 1)}, "weight must be 64 contiguous elements"),
        ({"bias": lambda x: x.cpu()}, "bias must be on the same GPU"),
        ({"bias": lambda x: torch.cat((x, x))}, "bias must be 2 contiguous elements, not 4"),
        ({"bias": lambda x: torch.cat((x, x))[1:3]}, "bias must be aligned to 8 bytes"),
        ({"out": lambda x: x[:, :88]}, "out must have at least 101 channels"),
        ({"out": lambda x: x.bfloat16()}, "out must be Half"),
    ],
)
def test_matching_refuses_what_does_not_fit(change: dict[str, Callable[..., Tensor]], message: str) -> None:
    maps = [channels_last(random(1, 16, 6, 8, seed=i).half().cuda()) for i in range(2)]
    arguments = {
        "first": maps[0],
        "second": maps[1],
        "coarse": channels_last(torch.zeros((2, 10, 3, 4), device="cuda")),
        "weight": torch.zeros((4, 4, 2, 2), device="cuda"),
        "bias": torch.zeros(2, device="cuda"),
        "scale": 1.0,
        "out": channels_last(torch.zeros((2, 112, 6, 8), dtype=torch.float16, device="cuda")),
    }
    for name, make in change.items():
        arguments[name] = make(arguments[name])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.dain.match_warped_into(*arguments.values())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_frames_are_matched_on_a_gpu_that_is_not_the_current_one() -> None:
    """The kernel asks its own GPU, and not the current one, for much shared memory."""
    maps = [channels_last(random(1, 128, 8, 20, seed=i).half()) for i in range(2)]
    expected, found = (
        channels_last(torch.empty((2, 96, 8, 20), dtype=dtype)) for dtype in (torch.float32, torch.half)
    )
    torch.ops.dain.match_into(*(x.float() for x in maps), expected)
    found = found.to("cuda:1")
    torch.ops.dain.match_into(*(x.to("cuda:1") for x in maps), found)
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(found.cpu().float(), expected, atol=5e-3, rtol=5e-3)


def test_flows_that_are_no_position_match_nothing() -> None:
    first, second = (channels_last(random(1, 16, 8, 8, seed=i).half().cuda()) for i in range(2))
    coarse = channels_last(torch.empty((2, 10, 4, 4), device="cuda"))
    weight, bias = torch.ones((4, 4, 2, 2), device="cuda"), torch.zeros(2, device="cuda")
    out = channels_last(torch.full((2, 112, 8, 8), 7.0, dtype=torch.float16, device="cuda"))
    for value in (float("nan"), float("inf"), 1e30, -1e30):
        torch.ops.dain.match_warped_into(first, second, coarse.fill_(value), weight, bias, 1.0, out)
        assert bool((out[:, :81] == 0).all())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flow_is_enlarged(layout: str) -> None:
    flow = random(3, 2, 7, 19).float()
    found = cuda_ext.enlarge_flow(LAYOUTS[layout](flow.cuda()), 20.0)
    torch.testing.assert_close(found.cpu(), cuda_ext.enlarge_flow(flow, 20.0), atol=1e-4, rtol=1e-5)
    assert found.is_contiguous()


@pytest.mark.parametrize("dtype", HALF)
def test_images_are_stacked(dtype: torch.dtype) -> None:
    images = [channels_last(random(2, 4, 9, 37, seed=i).float())[:, :3] for i in range(2)]
    out = channels_last(torch.full((2, 16, 9, 37), 7.0, dtype=dtype, device="cuda"))
    torch.ops.dain.stack_into(*(image.cuda() for image in images), out)
    expected = torch.cat((*images, torch.zeros(2, 10, 9, 37)), 1)
    assert torch.equal(out.cpu(), expected.to(dtype))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_become_channels(layout: str, dtype: torch.dtype) -> None:
    image = random(2, 3, 10, 74).float()
    out = channels_last(torch.full((2, 32, 5, 37), 7.0, dtype=dtype, device="cuda"))
    torch.ops.dain.unshuffle_into(LAYOUTS[layout](image.cuda()), out)
    expected = torch.cat((torch.nn.functional.pixel_unshuffle(image, 2), torch.zeros(2, 20, 5, 37)), 1)
    assert torch.equal(out.cpu(), expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 16, 48])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_maps_are_sampled_along_a_flow(layout: str, channels: int, scale: float, dtype: torch.dtype) -> None:
    """In and out of the frame, forward and backward, where runs of 16 bytes fit and where they do not."""
    map, grad = random(2, channels, 13, 37).to(dtype), random(2, channels, 13, 37, seed=2).to(dtype)
    flow = 20 * random(2, 4, 13, 37, seed=1).float()[:, 2:]
    leaf = LAYOUTS[layout](map.cuda()).detach().requires_grad_()
    found = cuda_ext.sample(leaf, flow.cuda(), scale)
    found.backward(LAYOUTS[layout](grad.cuda()))
    truth = map.float().requires_grad_()
    expected = cuda_ext.sample(truth, flow, scale)
    expected.backward(grad.float())
    assert leaf.grad is not None and truth.grad is not None
    assert found.is_contiguous(memory_format=torch.channels_last)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    for one, other in ((found, expected), (leaf.grad, truth.grad)):
        torch.testing.assert_close(one.detach().cpu().float(), other.detach(), atol=tolerance, rtol=tolerance)
