"""The precision of each block of a model on a device, as `dain tune` chose it and a worker loads it by DAIN_PROFILE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from dain_core import __version__
from dain_core.errors import DainCoreError
from dain_core.runtime.calibration import digest_of
from dain_core.weights.registry import Entry

_KIND = "dain-profile"
#: What a CPU computes narrow numbers with, by PyTorch's names.
_INSTRUCTIONS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni")


class ProfileError(DainCoreError, ValueError):
    """A profile that cannot be read, or that belongs to another device, model or version: the message says which."""


@dataclass(frozen=True)
class Profile:
    """What was chosen, for what, and what it was measured to be.

    Attributes:
        device: the class of the device, see `device_class`.
        model: the name of the model.
        weights: the SHA-256 of the file of its weights.
        version: the version of this program.
        blocks: the precision of each block by name.
        size: the width and height of the frames whose time was measured.
        milliseconds, before: the time of a new frame with these precisions, and with the widest one.
        loss: the PSNR in dB that the made frames lose against those in float32, on the frames that were given.
    """

    device: str
    model: str
    weights: str
    version: str
    blocks: Mapping[str, str]
    size: tuple[int, int]
    milliseconds: float
    before: float
    loss: float

    def write(self, path: Path) -> None:
        """Write the profile to `path`: whole, or not at all."""
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(json.dumps({"kind": _KIND, **asdict(self)}, indent=1) + "\n")
        draft.replace(path)

    def check_device(self, device: torch.device) -> None:
        """Raise ProfileError if the profile is of another class of device, or of another version of this program."""
        here = device_class(device)
        if self.device != here:
            raise ProfileError(
                f"the profile of {self.model} was measured on {self.device}, and this is {here}: run `dain tune` here"
            )
        if self.version != __version__:
            raise ProfileError(
                f"the profile of {self.model} was measured with version {self.version}, and this is {__version__}: "
                "run `dain tune` again"
            )

    def check_weights(self, entry: Entry) -> None:
        """Raise ProfileError if the profile is of other weights than those of `entry`."""
        if self.weights != digest_of(entry):
            raise ProfileError(
                f"the profile of {self.model} was measured with other weights than it has here: run `dain tune` again"
            )


def read_profile(path: Path) -> Profile:
    """Read what `Profile.write` wrote.

    Raises:
        ProfileError: there is no such file, or it is no profile.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or content.get("kind") != _KIND:
            raise ValueError("it is no profile")
        found = Profile(**{field.name: content[field.name] for field in fields(Profile)})
        if not all(isinstance(part, str) for pair in dict(found.blocks).items() for part in pair):
            raise ValueError("its blocks have no precisions")
    except OSError as error:
        raise ProfileError(
            f"the profile {path} cannot be read: {error.strerror}. `dain tune` writes one"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ProfileError(f"{path} is no profile of `dain tune` ({error}): write it again") from error
    return found


def device_class(device: torch.device) -> str:
    """Return what devices of one speed have in common: a GPU's name; a CPU's name and its instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = torch.cpu.get_capabilities()
    instructions = [name for name in _INSTRUCTIONS if found.get(name)]
    return f"{_cpu_name()} with {', '.join(instructions) or 'no instructions for narrow numbers'}"


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part"))]
    return names[0] if names else "a CPU"
