"""The operators of DAIN that PyTorch does not have: see `cuda_ext.ops`."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import torch

from cuda_ext.ops import SCHEMAS, adaptive_warp, correlation, flow_projection, separable_conv

__all__ = ["SCHEMAS", "adaptive_warp", "backend", "correlation", "flow_projection", "separable_conv"]

#: The compiled CUDA kernels, where there are any.
_LIBRARY = next(Path(__file__).parent.glob("_C*.so"), None)


def backend() -> str:
    """Which operators there are: `cuda` where the compiled kernels are loaded, else `cpu`."""
    return "cuda" if _LIBRARY else "cpu"


def _not_built(*args: object) -> NoReturn:
    raise RuntimeError(
        "DAIN's CUDA kernels are not built, and its operators do not fall back to slower code on a GPU: "
        "build them with `python -m cuda_ext.build`, or run on the CPU (device='cpu')"
    )


if _LIBRARY:
    torch.ops.load_library(_LIBRARY)
else:
    for _name in SCHEMAS:
        torch.library.impl(f"dain::{_name}", "cuda", _not_built)
