"""What convolutions saw on real frames: the ranges that eight bits are scaled to.

`dain compress quantise` writes a calibration beside the weights that it belongs to, and precisions of eight bits read
it. A range belongs to the input of a convolution, which is called as in the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dain_core.errors import DainCoreError
from dain_core.weights.registry import Entry

_KIND = "dain-calibration"


class CalibrationError(DainCoreError, ValueError):
    """A calibration that is missing, cannot be read, or belongs to other weights: the message says how to make one."""


@dataclass(frozen=True)
class Calibration:
    """The ranges of a model's activations.

    Attributes:
        model: the name of the model.
        weights: the SHA-256 of the file of its weights.
        method: how the ranges were chosen, for people.
        pairs: the number of pairs of frames that were seen.
        ranges: the least and the greatest value that the input of each convolution is to represent.
        channels: where they differ much, the greatest magnitude in each channel of a convolution's input.
    """

    model: str
    weights: str
    method: str
    pairs: int
    ranges: Mapping[str, tuple[float, float]]
    channels: Mapping[str, Sequence[float]]

    def write(self, path: Path) -> None:
        """Write the calibration to `path`: whole, or not at all."""
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(json.dumps({"kind": _KIND, **asdict(self)}) + "\n")
        draft.replace(path)

    def apply(self, network: nn.Module) -> None:
        """Tell each convolution of `network` the ranges of its input; see `range_of` and `channels_of`.

        Raises:
            CalibrationError: a convolution of that name is missing.
        """
        convolutions = {
            name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
        }
        if missing := (self.ranges.keys() | self.channels.keys()) - convolutions.keys():
            raise CalibrationError(
                f"the calibration of {self.model} names the convolution {min(missing)}, which its network has not: "
                f"{_again(self.model)}"
            )
        for name, span in self.ranges.items():
            convolutions[name].input_range = span  # type: ignore[assignment]
        for name, greatest in self.channels.items():
            convolutions[name].input_channels = torch.tensor(greatest)


def range_of(conv: nn.Conv2d) -> tuple[float, float] | None:
    """The range of a convolution's input; None if no calibration named it."""
    span: Any = getattr(conv, "input_range", None)
    return span


def channels_of(conv: nn.Conv2d) -> Tensor | None:
    """The greatest magnitude in each channel of a convolution's input, (C,); None where they differ little."""
    greatest: Tensor | None = getattr(conv, "input_channels", None)
    return greatest


def place_of(entry: Entry) -> Path:
    """Where the calibration of a model lies: beside its weights."""
    return entry.path.with_suffix(".calibration.json")


def digest_of(entry: Entry) -> str:
    """The SHA-256 of a model's file of weights."""
    with entry.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_calibration(entry: Entry) -> Calibration:
    """Read the calibration of a model.

    Raises:
        CalibrationError: there is none, it cannot be read, or it belongs to other weights.
    """
    path = place_of(entry)
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or content.get("kind") != _KIND:
            raise ValueError("it is no calibration")
        known = {field.name: content[field.name] for field in fields(Calibration)}
        known["ranges"] = {name: (float(low), float(high)) for name, (low, high) in known["ranges"].items()}
    except FileNotFoundError as error:
        raise CalibrationError(
            f"there is no calibration of {entry.name} at {path}, which eight bits need: {_again(entry.name)}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(f"{path} cannot be read ({error}): {_again(entry.name)}") from error
    found = Calibration(**known)
    if found.weights != digest_of(entry):
        raise CalibrationError(
            f"{path} belongs to other weights of {found.model} than those of {entry.name}: {_again(entry.name)}"
        )
    return found


def _again(model: str) -> str:
    return f"`dain compress quantise {model} --data FOLDER` makes it from videos of yours"
