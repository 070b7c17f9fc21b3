"""Building the kernels: what is asked of the compiler, and what is said where there is nothing to build with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_ext import build

ROOT = Path(__file__).parents[2]


def build_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cuda_ext.build", *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_architectures_become_options_of_the_compiler() -> None:
    assert build.arch_flags(["8.6", "9.0a", "12.0+PTX"]) == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]
    assert build.arch_flags(build.ARCHS) and build.arch_flags(build.ARM_ARCHS)


@pytest.mark.parametrize("arch", ["sm_90", "Hopper", "9", "9.0+", ""])
def test_what_is_no_architecture_is_refused(arch: str) -> None:
    with pytest.raises(ValueError, match=r"write it like 8\.6"):
        build.arch_flags([arch])


def test_the_environment_lists_architectures_as_for_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;8.0 9.0+PTX")
    assert build.default_archs() == ["7.5", "8.0", "9.0+PTX"]


def test_arm64_machines_have_architectures_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for machine, archs in (("aarch64", build.ARM_ARCHS), ("x86_64", build.ARCHS)):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert build.default_archs() == list(archs)


def test_without_a_compiler_it_says_so() -> None:
    done = build_command("--check", CUDA_HOME="/nowhere")
    assert done.returncode == build.CANNOT
    assert "no nvcc here: install the CUDA toolkit" in done.stderr


def test_without_a_cuda_pytorch_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "torch_home", lambda: tmp_path)
    with pytest.raises(build.CannotBuild, match="CPU build"):
        build.require_cuda_torch()


@pytest.mark.skipif(not shutil.which("c++filt"), reason="c++filt comes with the compiler")
def test_registers_are_read_from_the_assemblers_report() -> None:
    report = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN4dain5splatIfEEvPKT_' for 'sm_90'
ptxas info    : Function properties for _ZN4dain5splatIfEEvPKT_
    16 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
ptxas info    : Compile time = 19.519 ms
"""
    heading, row = build.usage_table(report).splitlines()
    assert heading.split() == ["registers", "sm_90"]
    assert row.split(maxsplit=1) == ["splat<float>", "32 (8 B spilled)"]
