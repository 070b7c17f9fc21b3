"""Times the operators at the sizes of a 1080p frame: `python -m cuda_ext.bench`.

"GB/s" is the size of all inputs and of the output of an operator, divided by its time. The percentage compares it with
a plain copy within the memory of the GPU.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import cuda_ext

HEIGHT, WIDTH = 1152, 1984  # 1920 x 1080 as the network pads it
RUNS = 20


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of `RUNS` calls, after three calls that do not count."""
    for _ in range(3):
        call()
    times = []
    for _ in range(RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def byte_count(*tensors: Tensor) -> int:
    """Return the size of all `tensors` in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def smooth_flow(height: int, width: int) -> Tensor:
    """Return a random flow like that of a film, (1, 2, `height`, `width`): smooth, and tens of pixels long."""
    coarse = 12 * torch.randn(1, 2, height // 64, width // 64, device="cuda")
    return F.interpolate(coarse, (height, width), mode="bilinear")


def copy_rate() -> float:
    """Measure the GB/s that a copy within the memory of the GPU reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * byte_count(source) / milliseconds(lambda: target.copy_(source)) / 1e6


def report(peak: float, name: str, operator: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Time `operator` on `inputs` and print a line; `peak` is the rate of a copy in GB/s."""
    time = milliseconds(lambda: operator(*inputs))
    rate = byte_count(*inputs, operator(*inputs)) / time / 1e6
    print(f"{name:44} {time:8.3f} ms {rate:8.0f} GB/s {rate / peak:6.0%}")


def report_projection(peak: float, flow: Tensor) -> None:
    """Print the lines of `flow_projection`."""
    weight = torch.rand(1, 1, HEIGHT, WIDTH, device="cuda") + 0.1
    fill = partial(cuda_ext.flow_projection, fill_holes=True)
    leave = partial(cuda_ext.flow_projection, fill_holes=False)
    report(peak, "flow_projection, holes left", leave, flow, weight)
    report(peak, "flow_projection, holes filled", fill, flow, weight)
    report(peak, "flow_projection, one large hole", fill, torch.full_like(flow, 1e6), weight)


def report_images(peak: float, flow: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Print the lines of `correlation` and `adaptive_warp` for one dtype and layout."""

    def random(channels: int, scale: int = 1) -> Tensor:
        shape = (1, channels, HEIGHT // scale, WIDTH // scale)
        return torch.randn(shape, device="cuda", dtype=dtype).contiguous(memory_format=layout)

    kind = f"{str(dtype)[6:]} {'NHWC' if layout == torch.channels_last else 'NCHW'}"
    for channels, scale in ((32, 4), (196, 64)):
        name = f"correlation, {channels} channels, 1/{scale}, {kind}"
        report(peak, name, cuda_ext.correlation, random(channels, scale), random(channels, scale))
    kernel = random(16)
    for channels in (3, 196):
        name = f"adaptive_warp, {channels} channels, {kind}"
        report(peak, name, cuda_ext.adaptive_warp, random(channels), flow, kernel)


@torch.inference_mode()
def main() -> None:
    if cuda_ext.backend() != "cuda":
        sys.exit("this benchmark needs a GPU and built kernels: python -m cuda_ext.build")
    torch.manual_seed(0)
    peak = copy_rate()
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; a device copy runs at {peak:.0f} GB/s"
    )
    flow = smooth_flow(HEIGHT, WIDTH)
    report_projection(peak, flow)
    for dtype in (torch.float32, torch.float16):
        for layout in (torch.contiguous_format, torch.channels_last):
            report_images(peak, flow, dtype, layout)


if __name__ == "__main__":
    main()
