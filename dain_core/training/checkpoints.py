"""A run's folder: its settings, its log, what it needs to go on, and the weights it has come to.

Every file is complete or not there: it is written beside the old one, forced to the disk, and put in its place.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dain_core.network.model import ModelConfig
from dain_core.training.config import TrainConfig
from dain_core.training.errors import TrainingError
from dain_core.weights import files as checkpoint

_FORMAT = 1


class CheckpointError(TrainingError):
    """A file of a run that cannot be written, cannot be read, or is of something else."""


class Run:
    """The folder of one run.

    Attributes:
        checkpoint: all that the run needs to go on where it was.
        weights: the averaged weights, float16 safetensors under the official keys.
        previews: pictures of what the network makes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pt"
        self.weights = folder / "weights.safetensors"
        self.previews = folder / "previews"
        self._config = folder / "config.json"
        self._log = folder / "log.jsonl"

    def start(self, config: TrainConfig) -> None:
        """Make the folder; CheckpointError if there is a run in it already."""
        if self.checkpoint.exists():
            raise CheckpointError(
                f"{self.folder} holds a run already: go on with it (--resume), or name another folder (--out)"
            )
        self.keep_config(config)
        self._log.unlink(missing_ok=True)

    def keep_config(self, config: TrainConfig) -> None:
        """Write the settings down, in place of earlier ones."""
        try:
            self.previews.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot make the folder {self.folder}: {error.strerror}. Name another one (--out)"
            ) from error
        self._write(self._config, config.to_json().encode())

    def config(self) -> TrainConfig:
        """The run's settings."""
        try:
            return TrainConfig.from_json(self._config.read_text())
        except FileNotFoundError as error:
            raise CheckpointError(f"there is no run in {self.folder}: {self._config} is missing") from error
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise CheckpointError(f"{self._config} cannot be read as a run's settings: {error}") from error

    def save(self, state: Mapping[str, Any], network: ModelConfig) -> None:
        """Replace the checkpoint by `state`: tensors, numbers, strings, and lists, tuples and dicts of such."""
        buffer = io.BytesIO()
        torch.save({"format": _FORMAT, "network": asdict(network), **state}, buffer)
        self._write(self.checkpoint, buffer.getbuffer())

    def load(self, network: ModelConfig) -> dict[str, Any]:
        """What was last given to `save`, its tensors on the CPU.

        Raises:
            CheckpointError: there is none, it is damaged, or it is of another network.
        """
        path = self.checkpoint
        if not path.is_file():
            raise CheckpointError(
                f"{self.folder} has no checkpoint to resume from: start it anew without --resume"
            )
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("it is not complete")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged or no checkpoint ({error}): start a new run with --init {self.weights}"
            ) from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is no checkpoint of this version: start a new run with --init")
        theirs, ours = state["network"], asdict(network)
        different = [name for name in ours if theirs.get(name) != ours[name]]
        if different:
            name = different[0]
            raise CheckpointError(
                f"{path} is of another architecture ({name} is {theirs.get(name)}, not {ours[name]}): "
                "name the model that it was made with"
            )
        return state

    def export(self, weights: Mapping[str, Tensor]) -> None:
        """Write the weights as others can load them."""
        try:
            checkpoint.save(weights, self.weights, "fp16")
        except OSError as error:
            raise self._cannot_write(self.weights, error) from error

    def log(self, entry: Mapping[str, float]) -> None:
        """Add a line to the log, as JSON."""
        try:
            with self._log.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise self._cannot_write(self._log, error) from error

    def rewind_log(self, step: int) -> None:
        """Forget what was logged after a step: the run goes on from there."""
        kept = [line for line in self.entries() if line["step"] <= step]
        self._write(self._log, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def entries(self) -> list[dict[str, float]]:
        """The log; a last line that was cut off is left out."""
        lines = self._log.read_text().splitlines(keepends=True) if self._log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _write(self, path: Path, content: bytes | memoryview) -> None:
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise self._cannot_write(path, error) from error

    def _cannot_write(self, path: Path, error: OSError) -> CheckpointError:
        kept = f"; {path} is still what was last saved" if path.exists() else ""
        return CheckpointError(
            f"cannot write {path}: {error.strerror}{kept}. Make room or name a folder that can be written to; "
            "dain train --resume goes on from the last checkpoint"
        )
