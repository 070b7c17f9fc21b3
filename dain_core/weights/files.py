"""Weights on disk: the authors' ``best.pth``, safetensors under the same keys, and int8 as we ship it.

In an int8 file a large weight is an int8 tensor with one scale an output channel under ``KEY.scale``; all
else is float16. Every reader hands out the official keys in float32.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import httpx
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from dain_core.network.model import DAIN, ModelConfig

FORMATS = ("int8", "fp16", "fp32")

#: SHA-256 of the weights that come with the project, `weights/NAME.safetensors`.
SHIPPED = {
    "dain": "3818205e30d835c1993dd9dd337c0149d95dc9a350db6118e11dacbbf4426f44",
    "dain-lite": "deacb1cfd35f626ff0b1d4539b44a49b4ad769a60b8f61c038ec07e90a919df1",
}

#: A copy of the authors' checkpoint (their own address is dead), and the SHA-1 Git knows it by.
OFFICIAL_URL = "https://raw.githubusercontent.com/BurguerJohn/Dain-App/master/model_weights/best.pth"
OFFICIAL_GIT_BLOB = "8ce43dbd696a63a7cd0caac8a4aacb1264ef3899"

_SCALE = ".scale"
#: Weights of fewer elements stay float16: they are few bytes in all.
_QUANTISED_FROM = 8192
#: Kernels of so many taps have a scale for each pair of channels: that it takes four bytes matters little there.
_OWN_SCALE_FROM = 49


class WeightsError(Exception):
    """Weights that cannot be read, do not fit the model, or are not what they should be."""


def shipped_path(name: str) -> Path:
    """Where the weights called `name` lie in the installed package."""
    return Path(__file__).parent / f"{name}.safetensors"


def load_weights(source: str | Path, config: ModelConfig | None = None) -> dict[str, Tensor]:
    """A state dict of official keys, float32, complete for the model.

    Args:
        source: the name of weights that come with the project, or the path of a .safetensors or .pth file.
        config: the model they are for; by default the one called `source`, or the official for a path.

    Raises:
        WeightsError: there is no such file, it cannot be read, is damaged, or does not fit the model.
    """
    if source in SHIPPED:
        path = verify_shipped(str(source))
        config = config or ModelConfig.named(str(source))
    else:
        path = Path(source)
    state = read(path)
    check_fit(state, config or ModelConfig(), path)
    return state


def verify_shipped(name: str) -> Path:
    """The path of shipped weights, once their hash is what it should be."""
    path = shipped_path(name)
    if not path.is_file():
        raise WeightsError(f"{path} is missing: install the project again, or name another file of weights")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHIPPED[name]:
        raise WeightsError(
            f"{path} is damaged (sha256 {found}, expected {SHIPPED[name]}): install the project again; "
            "to use weights of your own, pass the path of their file"
        )
    return path


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, under the keys that it has, floats as float32."""
    if not path.is_file():
        names = ", ".join(SHIPPED)
        raise WeightsError(f"there are no weights at {path}: give the path of a file, or one of {names}")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        why = str(error).partition("\n")[0] or "it ends too early"
        raise WeightsError(f"{path} is no readable .safetensors or .pth file of weights: {why}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} does not hold a state dict: a mapping from names to tensors")
    return dequantise(state)


def check_fit(state: Mapping[str, Tensor], config: ModelConfig, path: Path) -> None:
    """Raise WeightsError unless `state` has exactly the keys and shapes of the model."""
    expected = _expected_shapes(config)
    wrong_shape = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape
    ]
    problems = (
        ("missing", [key for key in expected if key not in state]),
        ("unexpected", [key for key in state if key not in expected]),
        ("of another shape", wrong_shape),
    )
    found = [f"{len(keys)} {what} ({_few(keys)})" for what, keys in problems if keys]
    if found:
        raise WeightsError(
            f"{path} does not fit the model, of whose {len(expected)} tensors there are {'; '.join(found)}: "
            "use weights of the same model, such as the authors' best.pth for dain"
        )


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The int8 form of a state dict: large weights with a scale an output channel or a kernel, the rest as float16."""
    small = {}
    for key, value in state.items():
        if not value.is_floating_point():
            small[key] = value
        elif _is_quantised(value):
            small[key], small[key + _SCALE] = _quantise_channels(value.float())
        else:
            small[key] = value.half()
    return small


def dequantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `quantise`; any other state dict in float32."""
    full = {}
    for key, value in state.items():
        if value.dtype == torch.int8:
            if key + _SCALE not in state:
                raise WeightsError(f"the int8 weight {key} has no scale: convert the original weights again")
            full[key] = value.float() * state[key + _SCALE]
        elif not key.endswith(_SCALE):
            full[key] = value.float() if value.is_floating_point() else value
    return full


def mean(states: Sequence[tuple[Mapping[str, Tensor], float]]) -> dict[str, Tensor]:
    """The mean of state dicts of one model, each with its share, in whatever sum; counts are those of the first."""
    (first, _), whole = states[0], sum(share for _, share in states)
    return {
        key: sum((state[key] * (share / whole) for state, share in states), torch.zeros(()))
        if value.is_floating_point()
        else value
        for key, value in first.items()
    }


def save(state: Mapping[str, Tensor], path: Path, layout: str) -> None:
    """Write a float32 state dict as safetensors ("int8", "fp16" or "fp32"): complete, or not at all."""
    if layout == "int8":
        state = quantise(state)
    elif layout == "fp16":
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    elif layout != "fp32":
        raise ValueError(f"the layout {layout!r} is none of {', '.join(FORMATS)}")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        part.write_bytes(serialise({key: value.contiguous() for key, value in state.items()}))
        os.replace(part, path)


def download(path: Path, *, url: str = OFFICIAL_URL, git_blob: str = OFFICIAL_GIT_BLOB) -> None:
    """Fetch the authors' checkpoint (about 96 MB) to `path`, which appears only if the hash is right.

    Raises:
        WeightsError: no network, no such file, or another file than expected.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        try:
            with (
                httpx.stream("GET", url, follow_redirects=True, timeout=30) as answer,
                part.open("wb") as file,
            ):
                if answer.status_code != httpx.codes.OK:
                    raise httpx.HTTPError(f"the server answered {answer.status_code}")
                for chunk in answer.iter_bytes():
                    file.write(chunk)
        except httpx.HTTPError as error:
            raise WeightsError(
                f"could not download {url} ({error}): check the network and its proxy, or fetch the file by "
                "other means and pass its path"
            ) from error
        found = _git_blob(part)
        if found != git_blob:
            raise WeightsError(
                f"{url} is not the file expected (git blob {found}, not {git_blob}): it was not kept; "
                "fetch best.pth from elsewhere and pass its path"
            )
        os.replace(part, path)


def _is_quantised(weight: Tensor) -> bool:
    # Layers of up to three channels read pixels, or predict flow, depth and colour: where errors show most.
    return weight.dim() == 4 and weight.numel() >= _QUANTISED_FROM and min(weight.shape[:2]) > 3


def _quantise_channels(weight: Tensor) -> tuple[Tensor, Tensor]:
    # The rectification's first layer reads pictures and hundreds of features, of weights as different as they are:
    # one scale for all of an output channel would cost 0.1 dB.
    alike = (2, 3) if weight[0, 0].numel() >= _OWN_SCALE_FROM else (1, 2, 3)
    peak = weight.abs().amax(dim=alike, keepdim=True)
    scale = peak.clamp(min=torch.finfo(torch.float32).tiny) / 127
    return _round_kernels(weight / scale).to(torch.int8), scale


def _round_kernels(weight: Tensor) -> Tensor:
    """Whole numbers of which each kernel's sum is right to a half.

    Features change little from pixel to pixel, so errors within a kernel matter less than that of its sum. Of the
    taps that round down most (up, where the sum is too large) as many as are needed are rounded the other way.
    """
    taps = weight.flatten(2)
    rounded = taps.round()
    missing = taps - rounded
    off = missing.sum(2, keepdim=True).round()
    rank = (off.sign() * missing).argsort(2, descending=True).argsort(2)
    return torch.where(rank < off.abs(), rounded + off.sign(), rounded).clamp(-127, 127).view_as(weight)


@cache
def _expected_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: value.shape for key, value in DAIN(config).state_dict().items()}


def _few(keys: Iterable[str]) -> str:
    first, *others = keys
    listed = ", ".join([first, *others[:2]])
    return f"{listed}, …" if len(others) > 2 else listed


def _git_blob(path: Path) -> str:
    """What ``git hash-object`` says."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
