"""Reports of a run while it trains: lines of the log, curves and pictures."""

from __future__ import annotations

import logging
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dain_core.network.model import DAIN
from dain_core.training.batch import Batch
from dain_core.training.checkpoints import Run
from dain_core.training.precision import Precision

log = logging.getLogger(__name__)

#: The number of rows of a preview. Each row shows one triplet.
_ROWS = 4
#: The length of a flow in pixels from which its colour is fully saturated.
_FULL_COLOUR = 20.0
#: The factor by which a preview enlarges errors.
_ERROR_GAIN = 4.0


class Reports:
    """Writes the log and the pictures of a run, and TensorBoard's files if the package tensorboard is installed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(run.folder))

    def add(self, entry: Mapping[str, float]) -> None:
        """Write an entry of the log: "step" and figures by name."""
        self._run.log(entry)
        log.info("%s", "  ".join(f"{name} {value:.5g}" for name, value in entry.items()))
        if self._board:
            for name, value in entry.items():
                self._board.add_scalar(name, value, int(entry["step"]))

    def show(self, step: int, model: DAIN, batch: Batch, precision: Precision) -> None:
        """Write a preview of the first triplets of `batch`; see `preview`."""
        picture = preview(model, batch, precision)
        write_png(self._run.previews / f"{step:07}.png", picture)
        if self._board:
            self._board.add_image("samples", picture, step)
            self._board.flush()


@torch.no_grad()
def preview(model: DAIN, batch: Batch, precision: Precision) -> Tensor:
    """Make a picture with a row for each of the first triplets of `batch`.

    The columns are the first frame, the result, the truth, the last frame, the error and the flow from first to last.

    Returns:
        (3, rows * H, 6 * W), uint8, on the CPU.
    """
    first, middle, last = (frame[:_ROWS] for frame in (batch.first, batch.middle, batch.last))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with precision.autocast(first.device):
        one, two = model.features(torch.cat((first, last))).halves()
        motion = model.motion(one, two)
        made = model.synthesise(one, two, motion, batch.time[:_ROWS].view(-1, 1, 1, 1)).output
    for module, training in modes.items():
        module.training = training
    error = _ERROR_GAIN * (made - middle).abs()
    cells = torch.cat((first, made, middle, last, error, flow_colours(motion.flows[0])), 3)
    return (255 * torch.cat(cells.unbind(), 1).float().clamp(0, 1)).round().to("cpu", torch.uint8)


def flow_colours(flow: Tensor) -> Tensor:
    """Return flow (N, 2, H, W), in pixels, as RGB (N, 3, H, W) in [0, 1].

    The direction gives the hue, the length gives the saturation. A pixel at rest is white.
    """
    length = (flow.norm(dim=1, keepdim=True) / _FULL_COLOUR).clamp(max=1)
    hue = torch.atan2(flow[:, 1:], flow[:, :1])
    phases = torch.arange(3, device=flow.device).view(1, 3, 1, 1) * (2 * math.pi / 3)
    return 1 - length * (0.5 - 0.5 * torch.cos(hue - phases))


def write_png(path: Path, picture: Tensor) -> None:
    """Write `picture`, RGB (3, H, W), uint8, as a PNG file."""
    _, height, width = picture.shape
    rows = torch.zeros(
        (height, 1 + 3 * width), dtype=torch.uint8
    )  # a row begins with the number of its filter, 0
    rows[:, 1:] = picture.permute(1, 2, 0).reshape(height, 3 * width)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(rows.numpy().tobytes())
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
