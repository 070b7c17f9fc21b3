"""Compiles the CUDA kernels: `python -m cuda_ext.build` puts `_C.so` beside this file, `pip install .` into the wheel.

The build needs nvcc and a PyTorch with CUDA, but no GPU. With `--check` the kernels are compiled and not linked, for
which any PyTorch is enough. The kernels are built for the architectures in TORCH_CUDA_ARCH_LIST (such as
"8.6;9.0+PTX"). Without it they are built for the GPUs of this machine, or, if it has none, for all of `ARCHS`, on arm64
of `ARM_ARCHS`.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = sorted((Path(__file__).parent / "csrc").glob("*.cu"))
LIBRARY = Path(__file__).parent / "_C.so"
ARCHITECTURES = LIBRARY.with_suffix(".archs")  # what the library is built for, in a line

#: The architectures from Turing to Blackwell. Newer GPUs compile the PTX of the last one.
ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")
#: Those beside an arm64 processor: Jetson Orin and Thor, which run only what was built for them, and servers.
ARM_ARCHS = ("8.7", "9.0", "10.0", "11.0", "12.0+PTX")

#: The oldest PyTorch whose stable ABI the library may use. The library runs on this version and on all later ones.
STABLE_ABI = "0x020b000000000000"  # 2.11

CANNOT = 3  # the exit status if this machine cannot build the kernels


class CannotBuild(RuntimeError):
    """This machine lacks something that the build needs. The message says what to install."""


def nvcc() -> str:
    """Return the path of the CUDA compiler: in CUDA_HOME, or on PATH, or in the folder of its installer.

    Raises:
        CannotBuild: there is none.
    """
    home = os.environ.get("CUDA_HOME")
    candidates = [f"{home}/bin/nvcc"] if home else [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise CannotBuild("no nvcc here: install the CUDA toolkit, or set CUDA_HOME to its folder")


def torch_home() -> Path:
    """Return the folder of PyTorch's headers and libraries.

    Raises:
        CannotBuild: PyTorch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise CannotBuild(
            "PyTorch cannot be imported here: install it first, then `pip install --no-build-isolation .`"
        ) from error
    return Path(torch.__file__).parent


def require_cuda_torch() -> None:
    """Raise CannotBuild unless PyTorch has its CUDA libraries, which linking needs and compiling does not."""
    libraries = torch_home() / "lib"
    if not (libraries / "libtorch_cuda.so").exists():
        raise CannotBuild("the PyTorch installed here is a CPU build: install one with CUDA")


def default_archs() -> list[str]:
    """Return the architectures of TORCH_CUDA_ARCH_LIST, or of this machine's GPUs, or all that such machines have."""
    if listed := re.findall(r"[^;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "")):
        return listed
    torch_home()
    import torch

    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return [f"{major}.{minor}" for major, minor in sorted(found)] or [
        *(ARM_ARCHS if platform.machine() == "aarch64" else ARCHS)
    ]


def arch_flags(archs: Iterable[str]) -> list[str]:
    """Return nvcc's options for architectures in PyTorch's notation: "9.0", "9.0a", "12.0+PTX".

    Raises:
        ValueError: an architecture is not in this notation.
    """
    flags = []
    for arch in archs:
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", arch)
        if not match:
            raise ValueError(f"{arch!r} is not a GPU architecture: write it like 8.6, 9.0 or 12.0+PTX")
        number = match[1] + match[2]
        native = "90a" if number == "90" else number  # only 90a has the matrix products of Hopper
        flags.append(f"-gencode=arch=compute_{native},code=sm_{native}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def run(command: list[str]) -> str:
    """Run a command; return its output. If it fails, print the output and raise CalledProcessError."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()
    return done.stdout


def compile_sources(archs: Iterable[str], folder: Path) -> tuple[list[Path], str]:
    """Compile every source to an object file in `folder`.

    Returns:
        The object files, and the assembler's report about the kernels.
    """
    command = [
        nvcc(),
        "-std=c++17",
        "-O3",
        "-Xcompiler=-fPIC,-fvisibility=hidden",
        "-Xptxas=-v",
        "-DUSE_CUDA",
    ]
    command += [
        f"-DTORCH_TARGET_VERSION={STABLE_ABI}",
        f"-isystem={torch_home() / 'include'}",
        *arch_flags(archs),
    ]
    objects = [folder / source.with_suffix(".o").name for source in SOURCES]

    def compile_one(source: Path, target: Path) -> str:
        return run([*command, "-c", str(source), "-o", str(target)])

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        return objects, "".join(pool.map(compile_one, SOURCES, objects))


def build(target: Path = LIBRARY, archs: Iterable[str] = ()) -> None:
    """Compile and link the library.

    Args:
        target: the path of the library.
        archs: the architectures; empty gives `default_archs`.

    Raises:
        CannotBuild: there is no compiler, or no PyTorch with CUDA.
        ValueError: an architecture is invalid.
        subprocess.CalledProcessError: the compiler failed; its output is on stderr.
    """
    compiler, archs = nvcc(), list(archs) or default_archs()
    require_cuda_torch()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        objects, _ = compile_sources(archs, Path(folder))
        linked = target.with_suffix(
            ".tmp"
        )  # renamed at the end, since a process may have mapped the old file
        libraries = ["-ltorch_cuda", "-ltorch_cpu", "-ltorch", "-lc10"]
        run(
            [
                compiler,
                "-shared",
                "-o",
                str(linked),
                *map(str, objects),
                f"-L{torch_home() / 'lib'}",
                *libraries,
            ]
        )
        linked.replace(target)
        target.with_suffix(".archs").write_text(" ".join(archs))


def usage_table(report: str) -> str:
    """Return a table of the registers and the spilled bytes of all kernels by architecture.

    `report` is the output of `ptxas -v`.
    """
    pattern = re.compile(
        r"entry function '(\w+)' for '(\w+)'\n(?:.*\n)*?.* (\d+) bytes spill stores.*\n(?:.*\n)*?.*Used (\d+) registers"
    )
    found = pattern.findall(report)
    names = run(["c++filt", *(mangled for mangled, *_ in found)]).splitlines()
    rows: dict[str, dict[str, str]] = {}
    for name, (_, arch, spilled, registers) in zip(names, found, strict=True):
        kernel = re.sub(r"^void .*::(\w+<.*?>)\(.*$", r"\1", name)
        rows.setdefault(kernel, {})[arch] = registers + (f" ({spilled} B spilled)" if spilled != "0" else "")
    archs = sorted({arch for _, arch, *_ in found})
    lines = [f"{'registers':46}" + "".join(f"{arch:>18}" for arch in archs)]
    lines += [
        f"{kernel:46}" + "".join(f"{used.get(arch, '-'):>18}" for arch in archs)
        for kernel, used in rows.items()
    ]
    return "\n".join(lines)


def check(archs: Iterable[str]) -> None:
    """Compile every source, and print the registers of the kernels. Any PyTorch is enough; see `build` for errors."""
    archs = list(archs) or default_archs()
    with tempfile.TemporaryDirectory() as folder:
        _, report = compile_sources(archs, Path(folder))
    print(usage_table(report))
    print(f"compiled {', '.join(source.name for source in SOURCES)} for {', '.join(archs)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cuda_ext.build", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--arch", action="append", default=[], help="architecture such as 9.0; repeat for several"
    )
    parser.add_argument("--check", action="store_true", help="compile without linking; any PyTorch is enough")
    arguments = parser.parse_args()
    try:
        if arguments.check:
            check(arguments.arch)
        else:
            build(archs=arguments.arch)
            print(f"built {LIBRARY}")
    except CannotBuild as reason:
        print(f"CUDA kernels not built: {reason}", file=sys.stderr)
        return CANNOT
    except (subprocess.CalledProcessError, ValueError) as error:
        print(f"CUDA kernels not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
