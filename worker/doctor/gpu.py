"""Checks of the GPU: whether there is one, whether PyTorch and the kernels can use it, and what slows it down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dain_core.runtime.devices import built_for
from service.doctor.findings import Checks, Finding, error, ok, warning
from worker.sensors import Sensors

OLDEST = (7, 5)  # compute capability that kernels are built for; see cuda_ext.build.ARCHS
LEAST_SHARED = (
    64 * 1024
)  # bytes of shared memory that a block must be able to have; see cuda_ext/csrc/launch.h
LEAST_MEMORY = 2 * 2**30  # free bytes that frames of 1920x1080 want at least
DRIVER = "Install NVIDIA's driver (https://www.nvidia.com/drivers), and restart."
BUILD = "Build them: `python -m cuda_ext.build` (needs nvcc)."


class Gpu(NamedTuple):
    """What PyTorch says of a GPU: its compute capability, and bytes of memory and of shared memory for a block."""

    name: str
    capability: tuple[int, int]
    memory: int
    free: int
    shared: int

    @property
    def arch(self) -> str:
        return "{}.{}".format(*self.capability)

    @property
    def has_tensor_cores(self) -> bool:
        """Turing's GTX 16 has none; all else since Volta has."""
        return self.capability >= (7, 0) and "GTX 16" not in self.name


class Driver(NamedTuple):
    """What NVML says: the driver's version, the newest CUDA that it knows, and the names of its GPUs."""

    version: str
    cuda: tuple[int, int]
    names: Sequence[str]


def driver_here() -> Driver | None:
    """The driver of this machine; None where NVML finds none."""
    try:
        import pynvml

        pynvml.nvmlInit()
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
        names = [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
        return Driver(pynvml.nvmlSystemGetDriverVersion(), (cuda // 1000, cuda % 1000 // 10), names)
    except Exception:  # no package, no library, no driver: NVML has an exception for each
        return None


def gpus_here() -> list[Gpu]:
    """The GPUs that PyTorch can use."""
    found = []
    for k in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(k)
        free, total = torch.cuda.mem_get_info(k)
        shared = int(about.shared_memory_per_block_optin)  # type: ignore[attr-defined]  # of builds with CUDA
        found.append(Gpu(about.name, (about.major, about.minor), total, free, shared))
    return found


def is_nvidia_in_a_slot(root: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether a GPU of NVIDIA's is in this machine, whether it has a driver or not."""
    return any(
        (device / "vendor").read_text().strip() == "0x10de"
        and (device / "class").read_text().startswith("0x03")
        for device in root.glob("*")
        if (device / "class").exists()
    )


def gpu() -> Iterator[Finding]:
    yield from judge_gpu(gpus_here(), driver_here(), is_nvidia_in_a_slot())


def judge_gpu(gpus: Sequence[Gpu], driver: Driver | None, is_in_a_slot: bool) -> Iterator[Finding]:
    for each in gpus:
        about = f"{each.name}, compute capability {each.arch}, {each.memory / 2**30:.0f} GiB"
        if each.capability < OLDEST:
            yield error("gpu", f"{about}: it is older than the kernels, which begin at 7.5 (Turing, 2018).",
                        "Use another GPU, or the CPU (DAIN_DEVICE=cpu).")  # fmt: skip
        elif each.free < LEAST_MEMORY:
            yield warning("gpu", f"{about}, of which only {each.free / 2**30:.1f} GiB are free.",
                          "End the programs that `nvidia-smi` lists, or expect frames in bands.")  # fmt: skip
        else:
            yield ok("gpu", f"{about}, {each.free / 2**30:.0f} GiB of them free.")
    if gpus:
        return
    if driver is not None and driver.names:
        yield error("gpu", f"PyTorch cannot use {', '.join(driver.names)}: see driver.",
                    "What the finding on the driver says.")  # fmt: skip
    elif is_in_a_slot:
        yield error("gpu", "There is an NVIDIA GPU, and no driver for it.", DRIVER)
    else:
        yield warning("gpu", "There is no NVIDIA GPU: dain-lite runs on the CPU, at some frames of 480p a second.",
                      "Nothing, if that is so. In a container: start it with `--gpus all`.")  # fmt: skip


def driver() -> Iterator[Finding]:
    yield from judge_driver(driver_here(), torch.version.cuda, torch.cuda.is_available(), why_no_cuda)


def why_no_cuda() -> str:
    """PyTorch's own words."""
    try:
        torch.cuda.init()
    except Exception as failure:
        return str(failure).splitlines()[0].rstrip(".")
    return "it gives no reason"


def judge_driver(
    found: Driver | None, cuda: str | None, is_available: bool, reason: object
) -> Iterator[Finding]:
    """Whether the driver knows the CUDA that PyTorch was built for.

    Args:
        found: the driver.
        cuda: what PyTorch was built for, "12.8"; None is a build for CPUs.
        is_available: whether PyTorch can use a GPU.
        reason: a function that says why not.
    """
    if found is None:
        yield ok("driver", "There is no NVIDIA driver, which a CPU does not need.")
        return
    newest = "{}.{}".format(*found.cuda)
    about = f"Driver {found.version} knows CUDA up to {newest}"
    if cuda is None:
        yield error("driver", f"PyTorch {torch.__version__} is a build for CPUs, beside a GPU.",
                    "Install the build with CUDA: `pip install --force-reinstall torch==VERSION` from an index that "
                    "has it.")  # fmt: skip
    elif found.cuda < (int(cuda.split(".")[0]), 0):
        yield error("driver", f"{about}, and PyTorch is built for {cuda}: it cannot use the GPU.",
                    f"Update the driver, or install a PyTorch for CUDA {newest} or earlier.")  # fmt: skip
    elif not is_available:
        said = reason() if callable(reason) else reason
        yield error("driver", f"{about}, PyTorch is built for {cuda}, and yet it sees no GPU: {said}.",
                    "If the driver was updated, restart. In a container, start it with `--gpus all`. Look at "
                    "CUDA_VISIBLE_DEVICES, and at what `nvidia-smi` says.")  # fmt: skip
    else:
        yield ok("driver", f"{about}, which suits PyTorch {torch.__version__} of CUDA {cuda}.")


def tensor_cores() -> Iterator[Finding]:
    yield from judge_tensor_cores(gpus_here())


def judge_tensor_cores(gpus: Sequence[Gpu]) -> Iterator[Finding]:
    for each in gpus:
        formats = [
            "fp16",
            *(["bf16"] if each.capability >= (8, 0) else []),
            *(["fp8"] if each.arch == "9.0" else []),
        ]
        if each.has_tensor_cores:
            yield ok("tensor-cores", f"{each.name} has tensor cores for {', '.join(formats)}.")
        else:
            yield warning("tensor-cores", f"{each.name} has no tensor cores: half precision is little faster there.",
                          "Use dain-lite (DAIN_MODEL), or a GPU of the RTX kind.")  # fmt: skip
    if not gpus:
        yield ok("tensor-cores", "There is no GPU to have them.")


def kernels() -> Iterator[Finding]:
    yield from judge_kernels(gpus_here(), built_for())


def judge_kernels(gpus: Sequence[Gpu], archs: Sequence[str] | None) -> Iterator[Finding]:
    """Whether there are compiled kernels, and those of each GPU among them; see `built_for` for `archs`."""
    if archs is None and not gpus:
        yield ok("kernels", "The CUDA kernels are not built, which a CPU does not need.")
        return
    if archs is None:
        yield error("kernels", "The CUDA kernels are not built, so the GPU is not used.", BUILD)
        return
    if not archs:
        yield warning("kernels", "The CUDA kernels are built, and it is not known for which GPUs.", BUILD)
        return
    foreign = [each for each in gpus if not _runs(each.capability, archs)]
    for each in foreign:
        yield error("kernels", f"The kernels are built for {', '.join(archs)}, and {each.name} is {each.arch}.",
                    f'Build them for it: `TORCH_CUDA_ARCH_LIST="{each.arch}" python -m cuda_ext.build`.')  # fmt: skip
    if not foreign:
        yield ok("kernels", f"The CUDA kernels are built for {', '.join(archs)}.")


def _runs(capability: tuple[int, int], archs: Sequence[str]) -> bool:
    """Whether code for one of `archs` runs on a GPU: of its generation up to its own, or as PTX of any earlier."""
    for arch in archs:
        major, minor = (int(part) for part in arch.removesuffix("+PTX").rstrip("af").split("."))
        if (major, minor) <= capability and (major == capability[0] or arch.endswith("+PTX")):
            return True
    return False


def shared_memory() -> Iterator[Finding]:
    yield from judge_shared_memory(gpus_here())


def judge_shared_memory(gpus: Sequence[Gpu]) -> Iterator[Finding]:
    for each in gpus:
        limit = f"{each.name} lets a block have {each.shared // 1024} KiB of shared memory"
        if each.shared < LEAST_SHARED:
            yield error("shared-memory", f"{limit}; the kernels need {LEAST_SHARED // 1024}.",
                        "Use another GPU, or the CPU (DAIN_DEVICE=cpu).")  # fmt: skip
        else:
            yield ok("shared-memory", f"{limit}, within which every kernel has a tile.")
    if not gpus:
        yield ok("shared-memory", "There is no GPU to have it.")


def throttling() -> Iterator[Finding]:
    devices = [f"cuda:{k}" for k in range(torch.cuda.device_count())] or ["cpu"]
    for device in devices:
        yield from judge_throttling(device, Sensors(device).read().throttled_by)


def judge_throttling(device: str, reasons: Sequence[str]) -> Iterator[Finding]:
    if reasons:
        yield warning("throttling", f"{device} is slower than it could be, for {', '.join(reasons)}.",
                      "Cool it, or raise its power limit: `nvidia-smi -q -d POWER,TEMPERATURE,PERFORMANCE` says "
                      "more.")  # fmt: skip
    else:
        yield ok("throttling", f"Neither heat nor power slows {device} down.")


CHECKS: Checks = {
    "gpu": gpu,
    "driver": driver,
    "tensor-cores": tensor_cores,
    "kernels": kernels,
    "shared-memory": shared_memory,
    "throttling": throttling,
}
