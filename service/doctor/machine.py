"""Checks of the machine itself, as this process sees it; the standard library is all that they need."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from service.doctor.findings import INSTALL, Checks, Finding, error, ok, warning

GIB = 2**30
OLDEST_PYTHON = (3, 11)
PARTS = ("service", "worker", "embedded")  #: the extras whose packages `dain up` needs
LEAST_MEMORY = 3 * GIB  # what a new frame of 1920x1080 takes on a CPU (docs/design.md)
LEAST_FILES = 1024  # open files: clients, pipes of FFmpeg, Redis
LEAST_PROCESSES = 512
BUILT = datetime(2026, 1, 1, tzinfo=UTC)  # no clock of a machine that runs this shows an earlier time
_TIME_ERROR = 5  # what adjtimex(2) says of a clock that nothing keeps right
_PROJECT = "dain-service"
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(.*)")


def python() -> Iterator[Finding]:
    version, where = sys.version.split()[0], sys.executable
    if sys.version_info < OLDEST_PYTHON:
        yield error("python", f"{where} is Python {version}; 3.11 is the oldest that this runs on.",
                    "Make the environment with a newer one: `make PYTHON=python3.12 setup`.")  # fmt: skip
    else:
        yield ok("python", f"Python {version}, {where}.")


def packages() -> Iterator[Finding]:
    """Whether each package that the parts of the service need is there, in a version that they know."""
    wanted = dict(requirements())
    missing = [name for name in wanted if not _version(name)]
    wrong = [
        f"{name} {_version(name)} (needs {wanted[name]})" for name in wanted if _is_wrong(name, wanted[name])
    ]
    if missing:
        yield error("packages", f"Not installed: {', '.join(missing)}.", INSTALL)
    if wrong:
        yield error("packages", f"Of another version than this one knows: {', '.join(wrong)}.", INSTALL)
    if not (missing or wrong):
        yield ok(
            "packages", f"All {len(wanted)} packages of {', '.join(PARTS)} are there, in versions that suit."
        )


def requirements() -> Iterator[tuple[str, str]]:
    """Each package that the project's `PARTS` need, and its versions (">=2,<3")."""
    for line in importlib.metadata.requires(_PROJECT) or []:
        text, _, condition = line.partition(";")
        parts = _REQUIREMENT.match(text)
        name, versions = (parts[1], parts[2]) if parts else ("", "")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", condition)
        elsewhere = "platform_machine" in condition and os.uname().machine not in condition
        if name not in ("", _PROJECT) and (extra is None or extra[1] in PARTS) and not elsewhere:
            yield name, versions.strip(" ()")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _is_wrong(package: str, versions: str) -> bool:
    """Whether the version of a package that is there is none of `versions`; no, where nothing here can tell."""
    if not (found := _version(package)) or importlib.util.find_spec("packaging") is None:
        return False
    from packaging.specifiers import SpecifierSet

    return not SpecifierSet(versions).contains(found, prereleases=True)


def cpu() -> Iterator[Finding]:
    usable, there = usable_cores(), os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if usable < there / 2:
        yield warning(
            "cpu", f"This process may use {usable:g} of the machine's {there} cores.",
            "Give it more: `--cpus` of a container, `CPUQuota` of systemd, or `taskset`.",
        )  # fmt: skip
    elif threads.isdecimal() and int(threads) < usable / 2:
        yield warning(
            "cpu", f"OMP_NUM_THREADS={threads} lets networks on the CPU use that many of {usable:g} cores.",
            "Unset OMP_NUM_THREADS, or set DAIN_THREADS.",
        )  # fmt: skip
    else:
        yield ok("cpu", f"{usable:g} cores.")


def usable_cores(root: Path = Path("/sys/fs/cgroup")) -> float:
    """The cores that this process may use, by its affinity and by the quota of its control group."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, int(quota) / int(period))


def memory() -> Iterator[Finding]:
    left = memory_left()
    if left < LEAST_MEMORY:
        yield warning(
            "memory", f"{left / GIB:.1f} GiB of main memory are free; a frame of 1920x1080 on the CPU takes "
            f"{LEAST_MEMORY / GIB:.0f} GiB with dain-lite.",
            "Close other programs, raise the container's `--memory`, or see `dain edge --memory` for a bound.",
        )  # fmt: skip
    else:
        yield ok("memory", f"{left / GIB:.1f} GiB of main memory are free.")


def memory_left(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """The bytes of main memory that programs may still take: of the machine, and of the control group."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    left = int(found[1]) * 1024 if found else 0
    try:
        bound, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return left
    return left if bound == "max" else min(left, int(bound) - int(used))


def limits() -> Iterator[Finding]:
    """What `ulimit` lets a process have."""
    low = [
        f"{name} {have} (needs {least})"
        for name, kind, least in (
            ("open files (-n)", resource.RLIMIT_NOFILE, LEAST_FILES),
            ("processes (-u)", resource.RLIMIT_NPROC, LEAST_PROCESSES),
        )
        if (have := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY and have < least
    ]
    low += [
        f"{name} {have / GIB:.1f} GiB (needs to be unlimited)"
        for name, kind in (
            ("memory (-v)", resource.RLIMIT_AS), ("file size (-f)", resource.RLIMIT_FSIZE)
        )
        if (have := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY
    ]  # fmt: skip
    if low:
        yield error(
            "limits", f"Too low is: {', '.join(low)}.",
            "Raise it by `ulimit`, in /etc/security/limits.conf, or by `LimitNOFILE` and the like of systemd.",
        )  # fmt: skip
    else:
        yield ok("limits", "Open files, processes, memory and file sizes have limits that are high enough.")


def clock() -> Iterator[Finding]:
    """Whether the time is plausible, and kept right."""
    now = datetime.fromtimestamp(time.time(), UTC)
    keep = "Have it kept right: `timedatectl set-ntp true`, or chrony."
    if now < BUILT:
        yield error(
            "clock",
            f"The clock shows {now:%Y-%m-%d %H:%M}, which is past: certificates and links fail.",
            keep,
        )
    elif is_synchronised() is False:
        yield warning(
            "clock", f"The clock shows {now:%Y-%m-%d %H:%M} UTC, and nothing keeps it right: machines of one service "
            "may differ.", keep,
        )  # fmt: skip
    else:
        yield ok("clock", f"The clock shows {now:%Y-%m-%d %H:%M} UTC.")


def is_synchronised() -> bool | None:
    """Whether the kernel knows its clock to be kept right; None where it does not say."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # all zero: it only asks
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def containers() -> Iterator[Finding]:
    """Whether containers get at the GPU, where there is one, and whether this is a container that does not."""
    has_gpu = Path("/dev/nvidiactl").exists()
    if is_container() and not has_gpu:
        yield ok("containers", "This is a container without a GPU; one is given to it by `--gpus all`.")
        return
    if not has_gpu:
        yield ok("containers", "There is no GPU for containers to use.")
        return
    if is_container():
        yield ok("containers", "This container has a GPU.")
        return
    engine = next(filter(shutil.which, ("docker", "podman")), None)
    if engine is None:
        yield ok("containers", "Neither Docker nor Podman is installed: only containers need them.")
    elif gives_gpus(engine):
        yield ok("containers", f"{engine} gives its containers the GPU.")
    else:
        yield warning(
            "containers", f"{engine} cannot give its containers the GPU: NVIDIA's container toolkit is missing.",
            "Install nvidia-container-toolkit, then `nvidia-ctk runtime configure` and start the engine again "
            "(Podman: `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`).",
        )  # fmt: skip


def is_container() -> bool:
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


def gives_gpus(engine: str) -> bool:
    """Whether a container engine has NVIDIA's runtime, or the machine a description of its GPUs (CDI)."""
    if any(Path(folder, "nvidia.yaml").exists() for folder in ("/etc/cdi", "/var/run/cdi")):
        return True
    command = [engine, "info", "--format", "{{json .Runtimes}}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
        return "nvidia" in json.loads(told)
    except (subprocess.TimeoutExpired, ValueError):
        return False


CHECKS: Checks = {
    "python": python,
    "packages": packages,
    "cpu": cpu,
    "memory": memory,
    "limits": limits,
    "clock": clock,
    "containers": containers,
}
