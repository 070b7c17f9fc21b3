"""The original network's numbers, and the weights behind them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dain_core.network.model import DAIN

DATA = Path(__file__).parents[1] / "data"

#: First pattern that fits a 4-D weight's key -> the gain of its random values.
GAINS = {
    r"flownets\.(predict_flow\d|dc_conv7)": 0.8,
    r"flownets\.(deconv|upfeat)\d": 1.0,
    r"initScaleNets_filter[12]\.2": 0.05,
    r"rectifyNet\.block5\.0": 0.1,
    r"depthNet\.4": 1.5,
    r"(ctxNet\.block[23]|rectifyNet\.block[234])\.conv2": 0.5,
    r"": 2**0.5,
}


def formula_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight that the golden numbers were made with: random numbers that follow from the key alone."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    values = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    if key.endswith("running_mean"):
        values = 0.1 * values
    elif key.endswith("running_var"):
        values = 1 + 0.2 * np.abs(values)
    elif len(shape) == 4:
        transposed = re.match(r"flownets\.(deconv|upfeat)", key)
        fan = shape[0] * 4 if transposed else shape[1] * shape[2] * shape[3]
        gain = next(gain for pattern, gain in GAINS.items() if re.match(pattern, key))
        values = values * gain / np.sqrt(fan)
    elif key.endswith(".weight"):
        values = 1 + 0.1 * values
    else:
        values = formula_bias(key, 0.02 * values)
    return torch.from_numpy(values.astype(np.float32))


def formula_bias(key: str, values: np.ndarray) -> np.ndarray:
    if re.match(r"initScaleNets_filter[12]\.2\.", key):
        return values + 0.25
    if key == "depthNet.4.bias":
        return values + 1
    if re.match(r"rectifyNet\.block5\.0\.|flownets\.(predict_flow\d|dc_conv7|deconv\d)\.", key):
        return 0.5 * values
    return values


@pytest.fixture(scope="session")
def official_keys() -> dict[str, tuple[tuple[int, ...], int]]:
    """Key of the official checkpoint -> its shape, and the CRC-32 of the formula's weight."""
    keys = {}
    for line in (DATA / "official_keys.tsv").read_text().splitlines()[1:]:
        key, shape, crc = line.split("\t")
        keys[key] = tuple(int(size) for size in shape.split("x") if size != "scalar"), int(crc, 16)
    return keys


@pytest.fixture(scope="session")
def formula_weights(official_keys: dict[str, tuple[tuple[int, ...], int]]) -> dict[str, Tensor]:
    return {key: formula_weight(key, shape) for key, (shape, _) in official_keys.items()}


@pytest.fixture
def golden_model(formula_weights: dict[str, Tensor]) -> DAIN:
    """The official network with the formula's weights, evaluating."""
    with torch.device("meta"):
        model = DAIN()
    model.load_state_dict({key: value.clone() for key, value in formula_weights.items()}, assign=True)
    return model.eval()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """Reads one file of the original's numbers."""

    def read(name: str) -> dict[str, Tensor]:
        with np.load(DATA / f"golden_{name}.npz") as arrays:
            return {
                key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind in "fiu"
            }

    return read


@pytest.fixture(scope="session")
def golden_frames(golden: Callable[[str], dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """The two frames, (1, 3, 128, 192) in [0, 1]."""
    network = golden("network")
    first, second = (network[name].permute(2, 0, 1)[None].float() / 255 for name in ("frame0", "frame1"))
    return first, second
