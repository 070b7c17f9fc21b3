"""`dain bench roofline`: the frames/s that a device cannot exceed, and what to expect of it, by its data sheet.

A frame takes at least as long as its operations at the device's peak, and as its bytes at the device's bandwidth. Both
are counted: the operations of the convolutions, and the bytes of every tensor that an operator reads or writes. How
much of that bound a network reaches was measured on one GPU and one CPU; the same share is expected of the others. An
expectation is no measurement: `dain bench` on the device is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dain_core.network.model import DAIN, ModelConfig
from dain_core.network.networks import build, config_named
from dain_core.runtime.backends.fused import FusedDAIN
from dain_core.weights.files import SHIPPED
from worker.bench.choices import Picture, Size
from worker.bench.measure import operations_per_pixel

SIDE = 512  # pixels of the frame whose bytes are counted; a multiple of all that networks pad to


@dataclass(frozen=True)
class Device:
    """A device by its data sheet.

    Attributes:
        tflops: of dense matrix products, fp16 summed in fp32 on a GPU and fp32 on a CPU.
        bandwidth: of its memory, GB/s.
        gpu: whether the network runs on a GPU, in fp16.
    """

    name: str
    tflops: float
    bandwidth: float
    gpu: bool = True


#: From the makers' data sheets; docs/edge.md and docs/scaling.md have the sources, and how the rest follows.
DEVICES = (
    Device("Jetson Xavier NX", 6.8, 59.7),
    Device("Jetson Orin Nano 8GB", 10.2, 68),
    Device("Jetson Orin Nano Super", 16.7, 102),
    Device("Jetson Orin NX 16GB", 15.0, 102.4),
    Device("Jetson AGX Orin 64GB", 42.6, 204.8),
    Device("Jetson Thor T5000", 258, 273),
    Device("Raspberry Pi 5", 0.154, 17.1, gpu=False),
    Device("mini PC, Intel N100", 0.218, 38.4, gpu=False),
    Device("GeForce RTX 3060 12GB", 25.5, 360),
    Device("GeForce RTX 4060", 30.2, 272),
    Device("GeForce RTX 4070", 58.3, 504),
    Device("GeForce RTX 3090", 71, 936),
    Device("GeForce RTX 4090", 165.2, 1008),
    Device("GeForce RTX 5090", 209.5, 1792),
    Device("NVIDIA T4", 65, 320),
    Device("NVIDIA L4", 121, 300),
    Device("NVIDIA A10", 125, 600),
    Device("NVIDIA H100 SXM", 989, 3350),
)
#: ms a new frame of 1080p on the last of them, by model (docs/benchmarks.md).
MS_1080P = {"dain": 41.9, "dain-lite": 8.3, "dain-refined": 18.0}
#: What networks reach on a CPU of its rate of matrix products: `dain-lite` by `dain bench`, two cores, fp32.
CPU_SHARE = 0.6


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write, but for what is in `weights`. Views move nothing."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.bytes = 0
        self._weights = {tensor.untyped_storage()._cdata for tensor in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = list(_tensors((args, kwargs)))
        known = {tensor.untyped_storage()._cdata for tensor in read}
        made = [each for each in _tensors(result) if each.untyped_storage()._cdata not in known]
        is_work = made or func._schema.is_mutable
        if is_work and not func.name().startswith(("aten::empty", "aten::new_empty")):
            moved = [each for each in (*read, *made) if each.untyped_storage()._cdata not in self._weights]
            self.bytes += sum(min(each.nbytes, each.untyped_storage().nbytes()) for each in moved)
        return result


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


@functools.cache
def bytes_per_pixel(model: str, gpu: bool) -> float:
    """Bytes that one new frame in a steady stream moves for each of its pixels, in fp16 on a GPU, else in fp32.

    They are those of the network as a GPU has it where the model has such a form, else those of the plain one.
    """
    config = config_named(model)
    if gpu and isinstance(config, ModelConfig) and FusedDAIN.supports(config, torch.device("cpu")):
        with torch.device("meta"):
            return _moved(FusedDAIN(DAIN(config), torch.float16), torch.empty(1, 3, SIDE, SIDE))
    moved = _moved(build(config).prepare(torch.float32), torch.zeros(1, 3, config.multiple, config.multiple))
    return moved / 2 if gpu else moved


@torch.inference_mode()
def _moved(network: Any, frame: Tensor) -> float:
    """Bytes that a network moves for each pixel of a new frame, when it knows the frame before."""
    known, moment = network.features(frame), torch.full((), 0.5)
    with Traffic([*network.parameters(), *network.buffers()]) as traffic:
        network.synthesise(known, network.features(frame), network.motion(known, known), moment)
    return traffic.bytes / (frame.shape[2] * frame.shape[3])


def bound_ms(model: str, pixels: int, device: Device) -> tuple[float, float]:
    """The least milliseconds of a new frame, by the operations and by the bytes."""
    operations = operations_per_pixel(model) * pixels / (device.tflops * 1e9)
    return operations, bytes_per_pixel(model, device.gpu) * pixels / (device.bandwidth * 1e6)


def share(model: str, gpu: bool) -> float | None:
    """How much of its bound a model reached where it was measured; None where it was not."""
    if not gpu:
        return CPU_SHARE
    return max(bound_ms(model, 1920 * 1080, DEVICES[-1])) / MS_1080P[model] if model in MS_1080P else None


@click.command()
@click.option(
    "--size", type=Size(), default="1080p", show_default=True, help="480p, 720p, 1080p, 4k or WIDTHxHEIGHT."
)
@click.option("--model", "models", multiple=True, type=click.Choice(list(SHIPPED)), help="[default: all]")
@click.option("--tflops", type=float, help="Of a device of yours: fp16 matrix products, dense.")
@click.option("--bandwidth", type=float, help="Of that device's memory, in GB/s.")
def roofline(size: Picture, models: tuple[str, ...], tflops: float | None, bandwidth: float | None) -> None:
    """Work out the frames/s to expect of a device, by its data sheet."""
    if (tflops is None) != (bandwidth is None):
        raise click.UsageError("a device of yours needs both --tflops and --bandwidth")
    yours = [Device("yours", tflops, bandwidth)] if tflops and bandwidth else []
    name, height, width = size
    table = Table(title=f"New frames/s at {name}: the bound, by what, and what to expect")
    for heading in ("device", "TFLOP/s", "GB/s"):
        table.add_column(heading)
    chosen = models or tuple(SHIPPED)
    for model in chosen:
        flops, moved = operations_per_pixel(model) / 1e6, bytes_per_pixel(model, gpu=True) / 1e3
        table.add_column(f"{model}\n{flops:.2f} MFLOP,\n{moved:.1f} kB a pixel", justify="right")
    for device in (*yours, *DEVICES):
        cells = [_cell(model, height * width, device) for model in chosen]
        table.add_row(device.name, f"{device.tflops:g}", f"{device.bandwidth:g}", *cells)
    Console(width=None if len(chosen) < 3 else 140).print(table)


def _cell(model: str, pixels: int, device: Device) -> str:
    by_operations, by_bytes = bound_ms(model, pixels, device)
    bound, reached = max(by_operations, by_bytes), share(model, device.gpu)
    expected = f" → {_rate(1000 / bound * reached)}" if reached else ""
    return f"{_rate(1000 / bound)} {'operations' if by_operations > by_bytes else 'bytes'}{expected}"


def _rate(frames: float) -> str:
    return f"{frames:.0f}" if frames >= 20 else f"{frames:.2g}"
