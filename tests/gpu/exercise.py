"""Runs the kernels of the operators on small cases while compute-sanitizer watches: `python -m tests.gpu.exercise`.

The sizes leave tiles half empty, and the flows lead everywhere, outside as well. The portable kernels also run with as
little shared memory as the GPUs of any architecture have.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import cuda_ext
from tests.cuda_ext.launches import SHARED_MEMORY

LEAST_SHARED_MEMORY = min(SHARED_MEMORY.values())


def exercise(n: int, c: int, h: int, w: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    def random(*shape: int) -> Tensor:
        # Made on the CPU: nothing but the kernels then runs on the GPU under the sanitizer.
        return torch.randn(shape).to(dtype).contiguous(memory_format=layout).cuda()

    image, kernel, map_grad = random(n, c, h, w), random(n, 16, h, w), random(n, 81, h, w)
    flow, weight = (4 * torch.randn(n, 2, h, w)).cuda(), (torch.rand(n, 1, h, w) + 0.1).cuda()
    padded, vertical, horizontal = random(n, c, h + 3, w + 3), random(n, 4, h, w), random(n, 4, h, w)
    ops = torch.ops.dain
    results = [
        ops.correlation(image, image),
        *ops.correlation_backward(map_grad, image, image),
        ops.flow_projection(flow, weight, True),
        *ops.flow_projection_backward(flow, flow, weight),
        ops.adaptive_warp(image, flow, kernel),
        *ops.adaptive_warp_backward(image, image, flow, kernel),
        *ops.adaptive_warp_backward(image, image, flow, kernel, True, False),
        *ops.adaptive_warp_backward(image, image, flow, kernel, False, True),
        ops.separable_conv(padded, vertical, horizontal),
        *ops.separable_conv_backward(image, padded, vertical, horizontal),
        cuda_ext.sample(image, flow, 0.5),
        ops.sample_backward(image, flow, 0.5),
    ]
    if not all(result.cpu().isfinite().all() for result in results):
        sys.exit(f"not finite: {(n, c, h, w)} {dtype}")


def exercise_resampling(n: int, c: int, h: int, w: int, dtype: torch.dtype) -> None:
    def random(channels: int, height: int, width: int) -> Tensor:
        image = torch.randn(n, channels, height, width).to(dtype)
        return image.contiguous(memory_format=torch.channels_last).cuda()

    low, high, row = random(c, h, w), random(c, 2 * h, 2 * w), random(32, h, w)
    for flag in (False, True):
        cuda_ext.pool_into(high, flag, low)
        cuda_ext.upsample_add_into(low, high, flag, high)
    cuda_ext.unfold_row_into(random(3, h, w), 7, row)
    if not all(result.cpu().isfinite().all() for result in (low, high, row)):
        sys.exit(f"not finite after resampling: {(n, c, h, w)} {dtype}")


def exercise_flow(n: int, c: int, h: int, w: int) -> None:
    def random(channels: int, height: int, width: int, dtype: torch.dtype = torch.float16) -> Tensor:
        maps = torch.randn(2 * n, channels, height, width).to(dtype)
        return maps.contiguous(memory_format=torch.channels_last).cuda()

    first, second = random(-(-c // 8) * 8, h, w)[:, :c].chunk(2)
    width = -(-(c + 85) // 8) * 8
    matches, warped, stacked = random(88, h, w), random(width, h, w), random(16, h, w)
    coarse, images = random(10, h // 2, w // 2, torch.float32), random(3, h, w, torch.float32)
    weight, bias = torch.randn(4, 4, 2, 2).cuda(), torch.randn(2).cuda()
    for limit in (0, LEAST_SHARED_MEMORY):
        torch.ops.dain.match_into(first, second, matches, limit)
        torch.ops.dain.match_warped_into(first, second, coarse, weight, bias, 1.25, warped, limit)
    cuda_ext.stack_into(images, images, stacked)
    unshuffled = random(16, h // 2, w // 2)
    cuda_ext.unshuffle_into(images, unshuffled)
    results = (matches, warped, stacked, unshuffled, cuda_ext.enlarge_flow(coarse[:, :2], 20.0))
    if not all(result.cpu().isfinite().all() for result in results):
        sys.exit(f"not finite after matching: {(n, c, h, w)}")


def exercise_synthesis(n: int, h: int, w: int, dtype: torch.dtype, written: torch.dtype) -> None:
    def random(channels: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(n, channels, h, w).to(kind).contiguous(memory_format=torch.channels_last).cuda()

    flows = (4 * torch.randn(n, 2, h, w)).cuda(), (4 * torch.randn(n, 2, h, w)).cuda()
    kernels, pictures = (random(16), random(16)), (random(4, torch.float32), random(4, torch.float32))
    seen, blend = random(96).to(written), random(3, torch.float32)
    cuda_ext.adaptive_warp_into(random(32), 0, flows[0], kernels[0], 0, seen[:, :32])
    cuda_ext.blend_into(pictures, flows, kernels, torch.tensor(0.3).cuda(), 0, blend, seen[:, 32:])
    if not all(result.cpu().float().isfinite().all() for result in (seen, blend)):
        sys.exit(f"not finite after warping: {(n, h, w)} {dtype}")


def exercise_convolution(
    n: int, inputs: int, outputs: int, size: tuple[int, int], dilation: int, h: int, w: int
) -> None:
    def random(channels: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(n, channels, h, w).contiguous(memory_format=torch.channels_last).to(dtype).cuda()

    weight, bias = torch.randn(outputs, inputs, *size), torch.randn(outputs)
    wide = outputs % 16 > 0
    plus = random(outputs, torch.float32 if wide else torch.float16)
    kinds = [(torch.float16, "cuda"), (torch.float16, "cpu")]
    if torch.cuda.get_device_capability() == (9, 0) and not wide and inputs % 32 == 0:
        kinds.append((torch.float8_e4m3fn, "cuda"))
    for dtype, packed_on in kinds:  # how the weight is packed decides which of the kernels runs
        packed = cuda_ext.pack_weight(weight.to(packed_on), bias.to(packed_on), dtype)
        rows, offsets = packed[0].cuda(), packed[1].cuda()
        source, out = random(inputs, dtype), torch.empty_like(plus)
        for added, limit in ((None, 0), (plus, LEAST_SHARED_MEMORY if packed_on == "cpu" else 0)):
            torch.ops.dain.convolve_into(source, rows, None, offsets, added, dilation, 0.1, out, limit)
            if not out.cpu().isfinite().all():
                sys.exit(
                    f"not finite after a convolution: {(n, inputs, outputs, size, dilation, h, w)} {dtype}"
                )


def exercise_stillness(h: int, w: int) -> None:
    first, second, flows = (
        torch.rand(1, 3, h, w).cuda(),
        torch.rand(1, 3, h, w).cuda(),
        9 * torch.randn(2, 1, 2, h, w).cuda(),
    )
    second[..., h // 4 : h // 2, :] = first[..., h // 4 : h // 2, :]  # edges that stand still
    if (
        not cuda_ext.stillness(first, second, (flows[0], -flows[0]))
        .cpu()
        .isin(torch.tensor([0.0, 1.0]))
        .all()
    ):
        sys.exit(f"neither still nor moving: {(h, w)}")


CONVOLUTIONS = [
    (2, 32, 16, (3, 3), 1, 9, 37),
    (1, 48, 32, (7, 7), 1, 33, 20),
    (1, 64, 64, (11, 11), 1, 40, 19),
    (1, 96, 128, (3, 3), 2, 70, 90),
    (1, 32, 3, (7, 1), 1, 20, 30),
    (2, 64, 208, (1, 1), 1, 50, 70),
    (1, 32, 32, (3, 3), 1, 330, 340),
    (1, 32, 128, (3, 3), 1, 330, 340),
]

if __name__ == "__main__":
    if cuda_ext.backend() != "cuda":
        sys.exit("needs a GPU and built kernels: python -m cuda_ext.build")
    torch.manual_seed(0)
    for shape in ((2, 8, 9, 37), (1, 12, 33, 70), (1, 3, 1, 1)):
        for dtype in (torch.float32, torch.float16):
            for layout in (torch.contiguous_format, torch.channels_last):
                exercise(*shape, dtype, layout)
            exercise_resampling(shape[0], 8, *shape[2:], dtype)
        exercise_flow(shape[0], shape[1] + 4, 2 * shape[2], 2 * shape[3])
        for dtype, written in (
            (torch.float32, torch.float32),
            (torch.float16, torch.float16),
            (torch.float16, torch.float8_e4m3fn),
        ):
            exercise_synthesis(shape[0], *shape[2:], dtype, written)
    for size in ((128, 192), (45, 77), (1, 1)):
        exercise_stillness(*size)
    for convolution in CONVOLUTIONS:
        exercise_convolution(*convolution)
    print("every operator ran")
