"""Builds the CUDA kernels where a CUDA compiler and a PyTorch with CUDA are; all else is in pyproject.toml.

DAIN_BUILD_CUDA=1 makes it an error that they cannot be built, DAIN_BUILD_CUDA=0 leaves them out.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# By path: importing the package would need PyTorch, which the build environment may lack.
_spec = importlib.util.spec_from_file_location("kernels", Path(__file__).parent / "cuda_ext" / "build.py")
assert _spec and _spec.loader
kernels = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kernels)


class BuildKernels(build_ext):
    """Hands the work to `cuda_ext.build`. The library is loaded by PyTorch: it is no Python module."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, extension: Extension) -> None:
        kernels.build(Path(self.get_ext_fullpath(extension.name)))


def extensions() -> list[Extension]:
    wanted = os.environ.get("DAIN_BUILD_CUDA", "")
    if wanted == "0":
        return []
    try:
        kernels.nvcc()
        kernels.require_cuda_torch()
    except kernels.CannotBuild as reason:
        if wanted == "1":
            raise
        print(f"CUDA kernels not built: {reason}", file=sys.stderr)
        return []
    return [Extension("cuda_ext._C", sources=[])]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
