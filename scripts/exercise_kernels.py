"""Runs the kernels of the operators on a few small cases, for compute-sanitizer to watch:
`python -m scripts.exercise_kernels`.

Sizes leave tiles half empty, and flows lead everywhere, outside as well.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import cuda_ext


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
        ops.separable_conv(padded, vertical, horizontal),
        *ops.separable_conv_backward(image, padded, vertical, horizontal),
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
    cuda_ext.match_into(first, second, matches)
    cuda_ext.match_warped_into(first, second, coarse, weight, bias, 1.25, warped)
    cuda_ext.stack_into(images, images, stacked)
    unshuffled = random(16, h // 2, w // 2)
    cuda_ext.unshuffle_into(images, unshuffled)
    results = (matches, warped, stacked, unshuffled, cuda_ext.enlarge_flow(coarse[:, :2], 20.0))
    if not all(result.cpu().isfinite().all() for result in results):
        sys.exit(f"not finite after matching: {(n, c, h, w)}")


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
    print("every operator ran")
