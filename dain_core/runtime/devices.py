"""The devices of this machine, and what their names mean."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from cuda_ext import backend
from cuda_ext.build import ARCHITECTURES, LIBRARY
from dain_core.errors import DainCoreError


class DeviceError(DainCoreError, ValueError):
    """A device that there is not, or that cannot be used: the message says what to do."""


def named_device(name: str) -> torch.device:
    """The device called `name`, a GPU with its index.

    Args:
        name: "cpu", "cuda" (the first GPU), "cuda:1", …; "auto" is the first GPU where there is one.

    Raises:
        DeviceError: none is called so, PyTorch sees no such GPU, or the operators are not built for it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise DeviceError(f"no device is called {name!r}: choose auto, cpu, cuda, or one GPU, such as cuda:1")
    device = torch.device("cuda", device.index or 0)
    if backend() != "cuda":
        raise DeviceError(
            f"{device} cannot be used: PyTorch sees no GPU, or the CUDA kernels are not built "
            "(python -m cuda_ext.build): use the device cpu meanwhile"
        )
    if device.index >= torch.cuda.device_count():
        raise DeviceError(f"there is no {device}: the last GPU is cuda:{torch.cuda.device_count() - 1}")
    return device


def fastest_on_cpu() -> str:
    """The precision of floats to choose: bf16 is slower than fp32 without a CPU's matrix instructions, AMX."""
    return "bf16" if torch.cpu.get_capabilities().get("amx_bf16") else "fp32"


def usable_devices() -> list[str]:
    """Every GPU, if the compiled operators are there to run on it, else the CPU."""
    return [f"cuda:{index}" for index in range(torch.cuda.device_count()) if backend() == "cuda"] or ["cpu"]


def built_for() -> list[str] | None:
    """The architectures that the CUDA kernels are built for, as PyTorch writes them ("9.0", "12.0+PTX").

    None where no kernels are built; none where nobody wrote down what for.
    """
    if not LIBRARY.exists():
        return None
    return ARCHITECTURES.read_text().split() if ARCHITECTURES.exists() else []


def is_unified(device: torch.device) -> bool:
    """Whether a device's memory is the machine's main memory, as that of a CPU and of a Jetson's GPU is."""
    return device.type == "cpu" or bool(torch.cuda.get_device_properties(device).is_integrated)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Within this, CUDA calls of the calling thread mean `device`. Every thread starts out at the first GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
