"""The operators of DAIN that PyTorch lacks; see `cuda_ext.ops`."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import torch

from cuda_ext.ops import (
    BLEND_CHANNELS,
    SCHEMAS,
    adaptive_warp,
    adaptive_warp_into,
    blend_into,
    convolve_into,
    correlation,
    enlarge_flow,
    flow_projection,
    match_into,
    match_warped_into,
    pack_weight,
    pool_into,
    sample,
    separable_conv,
    stack_into,
    stillness,
    unfold_row_into,
    unshuffle_into,
    upsample_add_into,
)

__all__ = [
    "BLEND_CHANNELS",
    "SCHEMAS",
    "adaptive_warp",
    "adaptive_warp_into",
    "backend",
    "blend_into",
    "convolve_into",
    "correlation",
    "enlarge_flow",
    "flow_projection",
    "match_into",
    "match_warped_into",
    "pack_weight",
    "pool_into",
    "sample",
    "separable_conv",
    "stack_into",
    "stillness",
    "unfold_row_into",
    "unshuffle_into",
    "upsample_add_into",
]

#: The library of compiled CUDA kernels, which `cuda_ext.build` makes. It may be missing.
_LIBRARY = Path(__file__).with_name("_C.so")
_BUILT = _LIBRARY.exists()


def backend() -> str:
    """Return "cuda" if the compiled kernels are loaded and there is a GPU to run them, else "cpu"."""
    return "cuda" if _BUILT and torch.cuda.is_available() else "cpu"


def _not_built(*args: object) -> NoReturn:
    raise RuntimeError(
        "DAIN's CUDA kernels are not built, and its operators do not fall back to slower code on a GPU: "
        "build them with `python -m cuda_ext.build`, or run on the CPU (device='cpu')"
    )


def _load() -> None:
    try:
        torch.ops.load_library(_LIBRARY)
    except OSError as error:
        raise ImportError(
            f"{_LIBRARY} does not load with PyTorch {torch.__version__} ({error}): delete it, and on a GPU build it "
            "again with `python -m cuda_ext.build`"
        ) from error


if _BUILT:
    _load()
else:
    for _name in SCHEMAS:
        torch.library.impl(f"dain::{_name}", "cuda", _not_built)
