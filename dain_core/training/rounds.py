"""Runs a whole round of training for the shipped weights, in several runs.

    python -m dain_core.training.gather.packages data
    python -m dain_core.training.gather.games data/games
    python -m dain_core.training.rounds data round --minutes 24

Every run is one of `dain train` with its own folder, such as round/1-motion. The run 2-frame starts from the weights of
1-motion. While one run trains, the data of the next run are read, because the measurement of footage takes a minute.
The same command continues a round that was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click

from dain_core.network.model import ModelConfig
from dain_core.options import Amount
from dain_core.training.batch import Source
from dain_core.training.checkpoints import Run
from dain_core.training.command import open_data, processes, work
from dain_core.training.config import TrainConfig
from dain_core.training.launch import launch
from dain_core.training.ranks import Ranks, joined

#: The number of training steps between checkpoints: one or two minutes on an H200.
SAVE_EVERY = 400


def runs(data: Path, out: Path, minutes: float) -> list[TrainConfig]:
    """Return the settings of the runs of a round, in order. A run needs up to 36 GiB of GPU memory with its data.

    Args:
        data: the folder that holds the folders pictures, clips and games.
        out: the folder in which each run makes its own folder.
        minutes: the training time of all runs together.
    """

    def run(name: str, share: float, mixed: tuple[float, float, float], **settings: Any) -> TrainConfig:
        folders = zip(("pictures", "clips", "games"), mixed, strict=True)
        return TrainConfig(
            data=tuple(f"{data / folder}={part}" for folder, part in folders),
            out=str(out / name),
            minutes=share * minutes,
            tune=False,
            save_every=SAVE_EVERY,
            crop=(240, 368),  # flow pads it to 256x384, and so learns from padding, which it meets in videos
            **settings,
        )

    motion = run(
        "1-motion", 0.24, (0.42, 0.33, 0.25), parts=("flow", "kernels"), batch=32,
        rates={"flow": 2e-4, "kernels": 1.5e-4}, weights={"flow": 0.016, "psnr": 0.005},
    )  # fmt: skip
    frame = run(
        "2-frame", 0.61, (0.4, 0.4, 0.2), init=_weights(motion), batch=20, weights={"psnr": 0.01},
        rates={"flow": 8e-5, "kernels": 1e-4, "context": 2.3e-4, "rectify": 3.3e-4},
    )  # fmt: skip
    lite = run(
        "3-lite", 0.15, (0.4, 0.4, 0.2), network=ModelConfig.named("dain-lite"), init="dain-lite", batch=22,
        rates={"flow": 1.5e-4, "kernels": 1.5e-4, "context": 3e-4, "rectify": 4e-4}, weights={"psnr": 0.01},
    )  # fmt: skip
    return [motion, frame, lite]


def _weights(config: TrainConfig) -> str:
    return str(Run(Path(config.out)).weights)


def train_all(configs: Sequence[TrainConfig], device: str) -> None:
    """Do the work of one process for all runs.

    Raises:
        SystemExit: a run failed, or was stopped before its time.
    """
    ahead: dict[str, Future[Source]] = {}
    left = [config for config in configs if not finished(config)]
    with joined(device), ThreadPoolExecutor(1) as pool:

        def opened(config: TrainConfig, ranks: Ranks) -> Source:
            source = ahead.pop(config.out).result() if config.out in ahead else open_data(config, ranks)
            for following in left[left.index(config) + 1 :][:1]:
                ahead[following.out] = pool.submit(open_data, following, ranks)
            return source

        for config in left:
            work(config, Run(Path(config.out)).checkpoint.exists(), device, opened)
            if not finished(config):
                sys.exit(f"{config.out} was stopped before its time: the same command continues it")


def finished(config: TrainConfig) -> bool:
    """Return whether the run has trained for as long as `config` says."""
    run = Run(Path(config.out))
    if not run.checkpoint.exists():
        return False
    state = run.load(config.network)
    return config.progress(state["trainer"]["steps"], state["seconds"]) == 1


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--minutes",
    type=Amount(0, min_open=True),
    required=True,
    help="Minutes of training of all runs together.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto: all GPUs.")
def main(data: Path, out: Path, minutes: float, device: str) -> None:
    """Train the shipped `dain` and `dain-lite` on. The new weights are in OUT/2-frame and OUT/3-lite."""
    launch(partial(train_all, runs(data, out, minutes), device), processes(device))


if __name__ == "__main__":
    main()
