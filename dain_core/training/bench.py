"""Measures the speed and the memory of `dain train`, and compares the losses of its precisions.

    python -m dain_core.training.bench speed fp32:4:256x256 bf16:8:512x512 --parts all
    python -m dain_core.training.bench curves --steps 150
    python -m dain_core.training.bench refined --data clips --profile 60

A configuration is PRECISION:BATCH:HEIGHTxWIDTH. The network is `dain` with its shipped weights, and the data are made
scenes; `refined` is about the training of `dain-refined`, from its shipped weights, on videos.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from dain_core.training import refined as refining
from dain_core.training.batch import Batch
from dain_core.training.cli import Named, PartNames
from dain_core.training.config import TrainConfig
from dain_core.training.data import open_source
from dain_core.training.lessons import teacher_of
from dain_core.training.loop import prepare
from dain_core.training.objective import WEIGHTS
from dain_core.training.precision import LEVELS
from dain_core.training.ranks import Ranks
from dain_core.training.resident import ResidentFootage
from dain_core.training.steps import Step
from dain_core.training.trainer import Trainer
from dain_core.weights.files import shipped_path

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WARM_UP = 5
GIB = 2**30

CLAIM = ("fp32:4:256x256", "bf16:8:512x512", "fp16:8:512x512", "fp16-master:8:512x512")


@click.group()
def main() -> None:
    """Time and compare training."""


@main.command()
@click.argument("configurations", nargs=-1)
@click.option("--parts", type=PartNames(), default="flow,kernels,context,rectify")
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=Named(tuple(WEIGHTS), alone=False),
    help="Set the weight of a loss.",
)
@click.option("--seconds", default=6.0, help="Time each configuration for so many seconds.")
@click.option("--profile", "kernels", default=0, help="Also list the N slowest kernels.")
@click.option("--tune/--no-tune", default=True, help="Let cuDNN search for its fastest kernels.")
@click.option("--json", "path", type=click.Path(path_type=Path))
def speed(
    configurations: tuple[str, ...],
    parts: tuple[str, ...],
    weights: tuple[tuple[str, float], ...],
    seconds: float,
    kernels: int,
    tune: bool,
    path: Path | None,
) -> None:
    """Print triplets a second and peak memory for each configuration."""
    torch.backends.cudnn.benchmark = tune
    table = Table(
        "precision", "batch", "crop", "parts", "samples/s", "ms/step", "ms/data", "s warm-up", "GiB", "loss"
    )
    rows = []
    for text in configurations or CLAIM:
        row = measure(configure(text, parts, weights=dict(weights)), seconds, kernels)
        print(json.dumps(row), flush=True)
        rows.append(row)
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=140).print(table)
    write(path, rows)


def configure(text: str, parts: tuple[str, ...], **more: Any) -> TrainConfig:
    """Return the settings for `text`, PRECISION:BATCH:HEIGHTxWIDTH; `more` are further settings."""
    precision, batch, size = text.split(":")
    height, width = map(int, size.split("x"))
    return TrainConfig(
        data=("scenes",),
        out="",
        precision=precision,
        batch=int(batch),
        crop=(height, width),
        parts=parts,
        steps=1,
        **more,
    )


def begin(config: TrainConfig, *, seed: int = 0) -> tuple[Trainer, Any]:
    """Return a trainer and its source of data. `seed` determines new weights only; the data have a fixed seed."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = config.precision != "fp32"
    torch.manual_seed(seed)
    source = open_source(config.data, config.crop, device=DEVICE, seed=1)
    return prepare(config, Ranks(0, 1, DEVICE), source, fresh=True), source


def measure(config: TrainConfig, seconds: float, kernels: int) -> dict[str, Any]:
    """Return a row of the table. The time of a step excludes the time to make its batch, which has its own column."""
    trainer, source = begin(config)
    source.sample(config.batch)
    synchronise()
    start = time.perf_counter()
    batches = [source.sample(config.batch) for _ in range(WARM_UP)]
    synchronise()
    data = (time.perf_counter() - start) / len(batches)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    losses = [step(trainer, batch) for batch in batches]
    synchronise()
    warm_up = time.perf_counter() - start
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        losses.append(step(trainer, batches[steps % len(batches)]))
        steps += 1
        synchronise() if steps % 10 == 0 else None
    synchronise()
    taken = (time.perf_counter() - start) / steps
    if kernels:
        list_kernels(lambda: step(trainer, batches[0]), kernels)
    height, width = config.crop
    return {
        "precision": config.precision,
        "batch": config.batch,
        "crop": f"{height}x{width}",
        "parts": ",".join(config.parts),
        "samples_per_second": config.batch / taken,
        "ms_step": 1000 * taken,
        "ms_data": 1000 * data,
        "s_warm_up": warm_up,
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if DEVICE.type == "cuda" else 0.0,
        "loss": float(torch.stack(losses[-10:]).mean()),
    }


@main.command()
@click.option("--steps", default=120)
@click.option("--batch", default=4)
@click.option("--size", default="256x256")
@click.option("--json", "path", type=click.Path(path_type=Path))
def curves(steps: int, batch: int, size: str, path: Path | None) -> None:
    """Compare the losses of all precisions on the same data.

    A second float32 run starts from other random weights. Its difference shows the noise.
    """
    runs = {f"{name}, weights {seed}": (name, seed) for name, seed in (("fp32", 0), ("fp32", 1))}
    runs |= {name: (name, 0) for name in LEVELS if name != "fp32"}
    table = Table(
        "run", *(f"steps {k * steps // 4 + 1}-{(k + 1) * steps // 4}" for k in range(4)), "off fp32"
    )
    found: dict[str, list[float]] = {}
    for label, (precision, seed) in runs.items():
        config = configure(
            f"{precision}:{batch}:{size}", ("flow", "kernels", "context", "rectify"), init=None
        )
        trainer, source = begin(config, seed=seed)
        losses = [step(trainer, source.sample(batch), k / steps) for k in range(steps)]
        found[label] = torch.stack(losses).tolist()
        reference = next(iter(found.values()))
        quarters = [statistics.fmean(found[label][k * steps // 4 : (k + 1) * steps // 4]) for k in range(4)]
        off = statistics.fmean(
            abs(a / b - 1) for a, b in zip(found[label][steps // 2 :], reference[steps // 2 :], strict=True)
        )
        table.add_row(label, *(f"{loss:.4f}" for loss in quarters), f"{100 * off:.1f} %")
    Console(width=140).print(table)
    write(path, found)


@main.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--batch", default=refining.Settings.batch, show_default=True)
@click.option("--crop", default=refining.Settings.crop, show_default=True, nargs=2, type=int)
@click.option("--teacher", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seconds", default=6.0, help="Time each stage of the training for so many seconds.")
@click.option(
    "--profile", "kernels", default=0, help="Also list the N slowest kernels of a step with all parts."
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the step first, which takes minutes.")
def refined(
    data: Path,
    batch: int,
    crop: tuple[int, int],
    teacher: Path | None,
    seconds: float,
    kernels: int,
    compiled: bool,
) -> None:
    """Print the time of a step of `dain_core.training.refined`, while the flow learns alone and while all learns."""
    footage = ResidentFootage(sorted(data.iterdir()), crop, DEVICE, seed=0)
    taught_by = None if teacher is None else teacher_of(teacher)
    table = Table("learns", "triplets/s", "ms/step", "ms/step without a graph", "ms/data", "GiB")
    for learns, flow_first in (("flow", 1.0), ("all", 0.0)):
        model = refining.begin(shipped_path("dain-refined")).to(DEVICE)
        weights = list(refining.trainable(model).values())
        settings = refining.Settings(1.0, flow_first=flow_first, compiled=compiled)
        objective = refining.Objective(model, settings, taught_by).to(DEVICE)
        objective.enter(0.5)
        learn = Step(objective, weights, 1e-6, DEVICE)
        triplets = footage.sample(batch)
        taken = per_call(partial(learn, triplets), seconds)
        table.add_row(
            learns,
            f"{batch / taken:.4g}",
            f"{1000 * taken:.4g}",
            f"{1000 * per_call(partial(learn.eager, triplets), seconds / 2):.4g}",
            f"{1000 * per_call(partial(footage.sample, batch), seconds / 4):.4g}",
            f"{torch.cuda.max_memory_allocated() / GIB if DEVICE.type == 'cuda' else 0:.3g}",
        )
        if kernels and learns == "all":
            list_kernels(partial(learn.eager, triplets), kernels)
    Console(width=140).print(table)


def per_call(function: Callable[[], Any], seconds: float) -> float:
    """Return the mean time of a call in seconds; the first calls, which capture and tune, do not count."""
    for _ in range(WARM_UP):
        function()
    synchronise()
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        function()
        calls += 1
        synchronise()
    return (time.perf_counter() - start) / calls


def list_kernels(function: Callable[[], Any], most: int) -> None:
    """Print what three calls spend most time in."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(3):
            function()
        synchronise()
    order = "self_cuda_time_total" if DEVICE.type == "cuda" else "self_cpu_time_total"
    print(trace.key_averages().table(sort_by=order, row_limit=most, max_name_column_width=80))


def step(trainer: Trainer, batch: Batch, progress: float = 0.3) -> torch.Tensor:
    """Make one training step; return the mean loss of the batch, a scalar on the device."""
    watched = trainer.step([batch], progress)["loss"]
    return watched[0] / watched[1]


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def write(path: Path | None, figures: Any) -> None:
    if path is not None:
        path.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
