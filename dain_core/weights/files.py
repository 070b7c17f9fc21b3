"""Weights on disk: the authors' ``best.pth``, safetensors under the same keys, and int8 as we ship it.

In an int8 file a large weight is an int8 tensor with one scale an output channel under ``KEY.scale``; all
else is float16. Every reader hands out the official keys in float32. The header of a file of a network with other
widths than those of `NETWORKS`, such as a pruned one, has the configuration.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import httpx
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from dain_core.errors import DainCoreError
from dain_core.network.model import ModelConfig
from dain_core.network.networks import (
    NETWORKS,
    Config,
    build,
    config_from_json,
    config_named,
    config_to_json,
    kind_of,
)

FORMATS = ("int8", "fp16", "fp32")

#: SHA-256 of the weights that come with the project, `weights/NAME.safetensors`.
SHIPPED = {
    "dain": "3818205e30d835c1993dd9dd337c0149d95dc9a350db6118e11dacbbf4426f44",
    "dain-lite": "deacb1cfd35f626ff0b1d4539b44a49b4ad769a60b8f61c038ec07e90a919df1",
    "dain-refined": "5047b3e0c74db36bdfb79a24d64dcd3ed8575d2d0597811ef232326eb0a53d40",
}

#: A copy of the authors' checkpoint (their own address is dead), and the SHA-1 Git knows it by.
OFFICIAL_URL = "https://raw.githubusercontent.com/BurguerJohn/Dain-App/master/model_weights/best.pth"
OFFICIAL_GIT_BLOB = "8ce43dbd696a63a7cd0caac8a4aacb1264ef3899"

_SCALE = ".scale"
#: The key of the configuration in a file's header.
_CONFIG = "dain.config"
#: Weights of fewer elements stay float16: they are few bytes in all.
_QUANTISED_FROM = 8192
#: Kernels of so many taps have a scale for each pair of channels: that it takes four bytes matters little there.
_OWN_SCALE_FROM = 49


class WeightsError(DainCoreError):
    """Weights that cannot be read, do not fit the model, or are not what they should be."""


def shipped_path(name: str) -> Path:
    """Where the weights called `name` lie in the installed package."""
    return Path(__file__).parent / f"{name}.safetensors"


def load_weights(source: str | Path, config: Config | None = None) -> dict[str, Tensor]:
    """A state dict of official keys, float32, complete for the model.

    Args:
        source: the name of weights that come with the project, or the path of a .safetensors or .pth file.
        config: the model they are for; by default the one called `source`, for a path that of the file's header, or
            else the official.

    Raises:
        WeightsError: there is no such file, it cannot be read, is damaged, does not fit the model, or holds numbers
            that are not finite.
    """
    if source in SHIPPED:
        path = verify_shipped(str(source))
        config = config or config_named(str(source))
    else:
        path = Path(source)
    state = read(path)
    check_fit(state, config or config_in(path) or ModelConfig(), path)
    _check_finite(state, path)
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
    _check_is_file(path)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes of another kind of file lead to
        raise _unreadable(path, error) from error
    if not _is_state(state):
        within = (
            [key for key, value in state.items() if value and _is_state(value)]
            if isinstance(state, dict)
            else []
        )
        raise WeightsError(
            f"{path} holds more than weights: save {within[0]!r} of it alone"
            if within
            else f"{path} does not hold a state dict, a mapping from names to tensors: save the model's state_dict()"
        )
    quantised = [key for key, value in state.items() if value.dtype == torch.int8]
    _check_scales(quantised, {key: value.shape for key, value in state.items()}, path)
    return dequantise(state)


def _is_state(value: object) -> bool:
    """Whether `value` is a mapping from names to tensors."""
    return isinstance(value, dict) and all(isinstance(part, Tensor) for part in value.values())


def read_shapes(path: Path) -> dict[str, torch.Size]:
    """The shape of every weight of a safetensors file, which is not read beyond its header.

    Raises:
        WeightsError: the file cannot be read, or an int8 weight has no scale that fits it.
    """
    _check_is_file(path)
    try:
        with safe_open(path, "pt") as file:
            headers = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: torch.Size(header.get_shape()) for key, header in headers.items()}
            quantised = [key for key, header in headers.items() if header.get_dtype() == "I8"]
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    _check_scales(quantised, shapes, path)
    return {key: shape for key, shape in shapes.items() if not _is_scale(key, shapes)}


def config_in(path: Path) -> Config | None:
    """The configuration in a file's header; None if it has none, and its weights are of one of `NETWORKS`.

    Raises:
        WeightsError: the file cannot be read, or its configuration is none that this version knows.
    """
    _check_is_file(path)
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_CONFIG)
        return None if text is None else config_from_json(text)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise WeightsError(
            f"{path} holds the weights of a network that this version does not know: {error}. Use the version that "
            "wrote the file"
        ) from error


def config_for(source: str | Path, network: str) -> Config:
    """The configuration of weights that are said to be of a network: the network's own, or a file's if it has one.

    Raises:
        ValueError: there is no such network.
        WeightsError: the file cannot be read, or holds a network of another kind.
    """
    config = config_named(network)
    found = None if source in SHIPPED else config_in(Path(source))
    if found is None:
        return config
    if type(found) is not type(config):
        raise WeightsError(
            f"{source} does not fit {network}: its network is a {kind_of(found)}. Choose that model"
        )
    return found


def config_of(source: str | Path) -> Config:
    """The configuration that the name or the header of weights says, or of the network that they fit.

    Weights that fit none are taken for those of the official network.

    Raises:
        WeightsError: the file cannot be read, or holds a network that this version does not know.
    """
    if source in SHIPPED:
        return config_named(str(source))
    path = Path(source)
    found = config_in(path)
    return found or NETWORKS[model_of({key: value.shape for key, value in read(path).items()}) or "dain"]


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        names = ", ".join(SHIPPED)
        raise WeightsError(f"there are no weights at {path}: give the path of a file, or one of {names}")


def _unreadable(path: Path, error: Exception) -> WeightsError:
    """What is wrong with a file that a library could not read, in our words."""
    if isinstance(error, OSError) and error.strerror:
        return WeightsError(f"{path} cannot be read: {error.strerror}")
    if path.suffix == ".safetensors":
        return WeightsError(
            f"{path} is no readable .safetensors file: it is damaged, incomplete or something else. Copy it again"
        )
    if zipfile.is_zipfile(path):
        return WeightsError(
            f"{path} is no readable .pth file of weights: it is damaged, or holds more than tensors, which is not "
            "opened because it could run code. Save the model's state_dict() alone"
        )
    return WeightsError(
        f"{path} is no readable file of weights: it is neither a .safetensors nor a .pth file, or is incomplete"
    )


def check_fit(state: Mapping[str, Tensor], config: Config, path: Path) -> None:
    """Raise WeightsError unless `state` has exactly the keys and shapes of the model.

    The message names the first difference, how many there are, and the model that the weights do fit or come nearest
    to.
    """
    shapes = {key: value.shape for key, value in state.items()}
    if not shapes:
        raise WeightsError(f"{path} holds no weights: save the state_dict() of a model")
    difference = _difference(shapes, config)
    if difference:
        wanted = next((name for name, known in NETWORKS.items() if known == config), "the model")
        raise WeightsError(f"{path} does not fit {wanted}: {difference}; {_advice(shapes, config)}")


def _difference(shapes: Mapping[str, torch.Size], config: Config) -> str:
    """The first difference between weights and those of the model, and how many there are; empty if there is none.

    A weight of another shape comes first, because another version explains other keys.
    """
    expected = expected_shapes(config)
    wrong = [
        f"{key} is {tuple(shapes[key])} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    missing = [f"{key} is missing" for key in expected if key not in shapes]
    unexpected = [f"{key} is none of its weights" for key in shapes if key not in expected]
    found = [*wrong, *missing, *unexpected]
    counts = ((len(wrong), "of another shape"), (len(missing), "missing"), (len(unexpected), "unknown"))
    how_many = ", ".join(f"{count} {what}" for count, what in counts if count)
    return f"{found[0]} (of {len(expected)} weights: {how_many})" if found else ""


def _advice(shapes: Mapping[str, torch.Size], config: Config) -> str:
    """What to do about weights that do not fit `config`."""
    wrapper = next(iter(shapes)).partition(".")[0] + "."
    wrapped = model_of({key.removeprefix(wrapper): shape for key, shape in shapes.items()})
    if wrapped:
        return f"they are weights of {wrapped} with {wrapper!r} before each name: save the model without its wrapper"
    if other := model_of(shapes):
        return f"they are weights of {other}: choose that model"
    if config not in NETWORKS.values():
        return "use weights of the same widths"
    nearest = _nearest(shapes)
    if nearest is None:
        return "they are of no network that this version knows: use weights of the model"
    if NETWORKS[nearest] == config:
        return "use weights of the same model and version"
    return f"they come nearest to {nearest}, where {_difference(shapes, NETWORKS[nearest])}"


def _nearest(shapes: Mapping[str, torch.Size]) -> str | None:
    """The name of the network that has most of these keys and shapes; None if none has more than half of them."""
    shared = {
        name: len(expected_shapes(config).items() & shapes.items()) for name, config in NETWORKS.items()
    }
    nearest = max(shared, key=lambda name: shared[name])
    return nearest if shared[nearest] > len(shapes) / 2 else None


def _check_scales(quantised: Iterable[str], shapes: Mapping[str, torch.Size], path: Path) -> None:
    """Raise WeightsError unless each int8 weight has a scale of as many dimensions, each of size 1 or the weight's."""
    for key in quantised:
        weight, scale = shapes[key], shapes.get(key + _SCALE)
        if scale is None:
            raise WeightsError(
                f"{path} holds the int8 weight {key} without its scale: convert the original weights again"
            )
        fits = len(scale) == len(weight) and all(
            own in (1, size) for own, size in zip(scale, weight, strict=True)
        )
        if not fits:
            raise WeightsError(
                f"{path} holds a scale of shape {tuple(scale)} for the int8 weight {key}, which is {tuple(weight)}: "
                "convert the original weights again"
            )


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise WeightsError where a weight holds NaN or infinity: no frame that it has a part in could be shown."""
    spoilt = [key for key, value in state.items() if not value.isfinite().all()]
    if spoilt:
        raise WeightsError(
            f"{path} holds numbers that are not finite in {len(spoilt)} of {len(state)} weights, {spoilt[0]} among "
            "them: use weights from before the training run diverged, or convert the original weights again"
        )


def model_of(shapes: Mapping[str, torch.Size]) -> str | None:
    """The name of the model that has weights of exactly these keys and shapes; None if there is none."""
    return next((name for name, config in NETWORKS.items() if expected_shapes(config) == shapes), None)


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
    """The inverse of `quantise`, for int8 weights that have their scales; any other state dict in float32."""
    full = {}
    for key, value in state.items():
        if value.dtype == torch.int8:
            full[key] = value.float() * state[key + _SCALE]
        elif not _is_scale(key, state):
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


def save(state: Mapping[str, Tensor], path: Path, layout: str, config: Config | None = None) -> None:
    """Write a float32 state dict as safetensors ("int8", "fp16" or "fp32"): complete, or not at all.

    Args:
        config: the network of the weights; the header gets it if it is none of `NETWORKS`.
    """
    if layout == "int8":
        state = quantise(state)
    elif layout == "fp16":
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    elif layout != "fp32":
        raise ValueError(f"the layout {layout!r} is none of {', '.join(FORMATS)}")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        header = None if config is None or config in NETWORKS.values() else {_CONFIG: config_to_json(config)}
        part.write_bytes(serialise({key: value.contiguous() for key, value in state.items()}, header))
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


def _is_scale(key: str, keys: Container[str]) -> bool:
    """Whether `key` is the scale of an int8 weight."""
    return key.endswith(_SCALE) and key.removesuffix(_SCALE) in keys


@cache
def expected_shapes(config: Config) -> dict[str, torch.Size]:
    """The shape of every weight of a model, under the official keys."""
    with torch.device("meta"):
        return {key: value.shape for key, value in build(config).state_dict().items()}


def _git_blob(path: Path) -> str:
    """What ``git hash-object`` says."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
