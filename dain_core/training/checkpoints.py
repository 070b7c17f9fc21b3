"""The folder of a training run: settings, log, checkpoint, averaged weights and previews.

A file in the folder is complete or absent. It is written under another name, flushed to the disk and then renamed.
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
from dain_core.weights.files import save as save_weights

_FORMAT = 1


class CheckpointError(TrainingError):
    """A file of a run cannot be written, cannot be read, or belongs to another network."""


class Run:
    """The folder of one training run.

    Attributes:
        checkpoint: the path of the file from which the run resumes.
        weights: the path of the averaged weights, float16 safetensors with the official keys.
        previews: the path of the folder of pictures that the network made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pt"
        self.weights = folder / "weights.safetensors"
        self.previews = folder / "previews"
        self._config = folder / "config.json"
        self._log = folder / "log.jsonl"

    def start(self, config: TrainConfig) -> None:
        """Make the folder and write the settings.

        Raises:
            CheckpointError: the folder holds a run already, or cannot be made.
        """
        if self.checkpoint.exists():
            raise CheckpointError(
                f"{self.folder} holds a run already: continue it (--resume), or name another folder (--out)"
            )
        self.keep_config(config)
        self._log.unlink(missing_ok=True)

    def keep_config(self, config: TrainConfig) -> None:
        """Write the settings. They replace earlier ones."""
        try:
            self.previews.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot make the folder {self.folder}: {error.strerror}. Name another one (--out)"
            ) from error
        self._write(self._config, config.to_json().encode())

    def config(self) -> TrainConfig:
        """Read the settings of the run.

        Raises:
            CheckpointError: the folder has no settings, or they cannot be read.
        """
        try:
            return TrainConfig.from_json(self._config.read_text())
        except FileNotFoundError as error:
            raise CheckpointError(f"there is no run in {self.folder}: {self._config} is missing") from error
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise CheckpointError(f"{self._config} cannot be read as a run's settings: {error}") from error

    def save(self, state: Mapping[str, Any], network: ModelConfig) -> None:
        """Replace the checkpoint.

        Args:
            state: tensors, numbers and strings, and lists, tuples and dicts of these.
            network: the configuration that `load` compares with its own.
        """
        buffer = io.BytesIO()
        torch.save({"format": _FORMAT, "network": asdict(network), **state}, buffer)
        self._write(self.checkpoint, buffer.getbuffer())

    def load(self, network: ModelConfig) -> dict[str, Any]:
        """Return the state that `save` wrote last, with its tensors on the CPU.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, or belongs to another network.
        """
        path = self.checkpoint
        if not path.is_file():
            raise CheckpointError(
                f"{self.folder} has no checkpoint to resume from: start a new run, without --resume"
            )
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("the file is incomplete")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged or not a checkpoint ({error}): start a new run with --init {self.weights}"
            ) from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is not a checkpoint of this version: start a new run with --init")
        theirs, ours = state["network"], asdict(network)
        different = [name for name in ours if theirs.get(name) != ours[name]]
        if different:
            name = different[0]
            raise CheckpointError(
                f"{path} belongs to another architecture ({name} is {theirs.get(name)}, not {ours[name]}): "
                "name the model that it was made with (--model)"
            )
        return state

    def export(self, weights: Mapping[str, Tensor]) -> None:
        """Write the averaged weights in the format of `dain_core.weights`: float16, official keys."""
        try:
            save_weights(weights, self.weights, "fp16")
        except OSError as error:
            raise self._cannot_write(self.weights, error) from error

    def log(self, entry: Mapping[str, float]) -> None:
        """Append `entry` to the log as a line of JSON."""
        try:
            with self._log.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise self._cannot_write(self._log, error) from error

    def rewind_log(self, step: int) -> None:
        """Remove the log entries after `step`, from which the run resumes."""
        kept = [line for line in self.entries() if line["step"] <= step]
        self._write(self._log, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def entries(self) -> list[dict[str, float]]:
        """Return the entries of the log, without an incomplete last line."""
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
        kept = f"; {path} still holds what was last saved" if path.exists() else ""
        return CheckpointError(
            f"cannot write {path}: {error.strerror}{kept}. Make room, or name a folder that can be written to; "
            "dain train --resume continues from the last checkpoint"
        )
