"""What ``dain train`` does: it makes the settings of a run of the options that were given, and trains."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from dain_core.errors import DainCoreError
from dain_core.network.model import ModelConfig
from dain_core.training.batch import Source
from dain_core.training.checkpoints import Run
from dain_core.training.config import TrainConfig
from dain_core.training.data import open_source
from dain_core.training.launch import launch
from dain_core.training.loop import OpenSource
from dain_core.training.loop import train as run_training
from dain_core.training.ranks import Ranks
from dain_core.weights.files import SHIPPED


def run(given: dict[str, Any], resume: bool, device: str, gpus: int | None) -> None:
    """Train by the options that were given, by their names.

    Raises:
        click.ClickException: the options are no settings of a run.
    """
    try:
        config = _config(given, resume)
    except DainCoreError as error:
        raise click.ClickException(str(error)) from error
    launch(partial(work, config, resume, device), gpus or processes(device))


def processes(device: str) -> int:
    """Return the number of processes to start for a run: one for each GPU, or one if torchrun has started them."""
    if "WORLD_SIZE" in os.environ or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return 1
    return torch.cuda.device_count()


def _config(given: dict[str, Any], resume: bool) -> TrainConfig:
    """Make the settings of the run from the options that were given, by the names of the options."""
    model = given.pop("model", None)
    if model is not None or not resume:
        given["network"] = ModelConfig.named(model or "dain")
    if given.get("init") == "none" or (
        not resume and "init" not in given and (model or "dain") not in SHIPPED
    ):
        given["init"] = None
    elif model is not None:
        given.setdefault("init", model)
    if rates := given.pop("lr", ()):
        given["rates"] = dict(rates)
        if None in given["rates"]:
            given["rate"] = given["rates"].pop(None)
    if "weight" in given:
        given["weights"] = dict(given.pop("weight"))
    if resume:
        return replace(Run(Path(given["out"])).config(), **given)
    return TrainConfig(**{"data": (), **given})


def open_data(config: TrainConfig, ranks: Ranks) -> Source:
    """Open the data of a run for one of its processes; see `open_source`."""
    return open_source(
        config.data,
        config.crop,
        device=ranks.device,
        seed=ranks.seed(config.seed),
        part=(ranks.index, ranks.count),
    )


def work(config: TrainConfig, resume: bool, device: str, data: OpenSource = open_data) -> None:
    """Train in this process.

    Raises:
        SystemExit: training failed; standard error says why and what to do.
    """
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    try:
        run_training(config, data, resume=resume, device=device)
    except DainCoreError as error:
        raise SystemExit(_complain(str(error))) from error
    except torch.OutOfMemoryError as error:
        advice = "take a smaller --batch (and --accumulate), a smaller --crop, or a mixed --precision"
        raise SystemExit(_complain(f"the memory of the GPU is too small for this run: {advice}")) from error


def _complain(message: str) -> int:
    click.echo(f"Error: {message}", err=True)
    return 1
