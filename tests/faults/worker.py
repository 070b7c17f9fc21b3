"""A real worker in whose network faults can be put: `python -m tests.faults.worker`.

A file in the folder DAIN_FAULTS makes the next frame that any worker begins fail, and is gone then: `oom` is memory
of the GPU that runs out, `fatal` an error after which a GPU is lost. A picture of the width `POISON` kills the worker.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dain_core.runtime.engine import Interpolator
from worker.main import main

POISON = 80  # pixels
ERRORS = {
    "oom": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "fatal": torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
}

take_frame = Interpolator.frame


def take_or_fail(self: Interpolator, rgb: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
    if rgb.shape[-1] == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    for name, error in ERRORS.items():
        with suppress(FileNotFoundError):
            Path(os.environ["DAIN_FAULTS"], name).unlink()
            raise error
    return take_frame(self, rgb, mask)


if __name__ == "__main__":
    setattr(Interpolator, "frame", take_or_fail)  # noqa: B010
    main()
