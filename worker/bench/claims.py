"""`dain bench claims`: what was promised of the service's speed, size and fidelity, beside what this machine shows.

Ratios are of one run on one device. What a machine cannot show is said in its row, with the reason. On a GPU each is
taken twice: against the plain network in fp32, and against the engine in TF32, which PyTorch's convolutions in float32
use unless that is forbidden.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import click
import torch
from rich.console import Console
from rich.table import Table

from dain_core.network.networks import build, config_named
from dain_core.outputs import OutputFile, writing
from dain_core.runtime.backends import eight_bit_blocks
from dain_core.runtime.devices import DeviceError, named_device
from dain_core.runtime.memory import is_out_of_memory
from dain_core.training import bench as training
from dain_core.weights.files import SHIPPED, shipped_path
from worker.bench.choices import Picture, Size
from worker.bench.measure import (
    EAGER,
    Baseline,
    Engine,
    Row,
    between,
    load,
    measure,
    panned,
    steady,
    tf32,
    timed,
)
from worker.telemetry import describe

#: What the authors' code takes for a frame in fp32 on an NVIDIA H100 80GB HBM3, as docs/benchmarks.md says.
ORIGINAL_MS = {"480p": 172.9, "720p": 455.7, "1080p": 999.7}
TRAINED = "4:256x256"  # batch and crop
TRAINED_PARTS = ("flow", "kernels", "context", "rectify")
FRAMES = 20
LOST_DB = 0.3  # of a picture, within which the speed over the original is promised
PLAIN = {EAGER: "fp32", "tf32": "TF32"}


class NotMeasured(Exception):
    """Why a claim cannot be measured here."""


@contextmanager
def _fitting(what: str) -> Iterator[None]:
    """Makes it the reason of a row that there is not memory enough."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise NotMeasured(f"{what} does not fit into the memory here") from error


class Claim(NamedTuple):
    """A promise, how it is measured, and the command that measures the same by itself."""

    what: str
    theirs: str
    measure: Callable[[Bench], str]
    repeat: str


@dataclass(frozen=True)
class Outcome:
    """A row of the table. `ours` is None where it was not measured, for the reason `why`."""

    what: str
    theirs: str
    ours: str | None
    why: str | None
    repeat: str

    @property
    def said(self) -> str:
        return self.ours or f"not measured: {self.why}"


class Bench:
    """The measurements that claims share, each of which is done once, when it is first asked for."""

    def __init__(self, model: str, size: Picture, device: torch.device) -> None:
        self.model, self.size, self.device = model, size, device
        self.on_gpu = device.type == "cuda"
        self.plain = tuple(PLAIN) if self.on_gpu else (EAGER,)
        self.half = "fp16" if self.on_gpu else "bf16"
        self.eight = "fp8" if self.on_gpu else "int8"
        self._rows: dict[str, tuple[Row, torch.Tensor]] = {}

    @property
    def command(self) -> str:
        """What measures the precisions that others are compared with."""
        plain = "".join(f" --precision {each}" for each in self.plain)
        return f"dain bench --model {self.model} --size {self.size[0]}{plain}"

    def row(self, precision: str) -> Row:
        """How the model runs in a precision; dB are against the plain network in fp32."""
        if precision == self.eight and not eight_bit_blocks(precision, config_named(self.model)):
            raise NotMeasured(f"{precision} computes no block of {self.model} in eight bits")
        if precision not in self._rows:
            baseline = None
            if precision != EAGER:
                plain = self.row(EAGER)
                baseline = Baseline(plain.ms, self._rows[EAGER][1])
            if self.on_gpu:
                torch.cuda.empty_cache()
            try:
                with _fitting(f"{self.model} in {precision} at {self.size[0]}"):
                    self._rows[precision] = measure(
                        self.model, self.size, precision, self.device, FRAMES if self.on_gpu else 2, baseline
                    )
            except ValueError as error:  # this device has no such precision
                raise NotMeasured(str(error)) from error
        return self._rows[precision][0]

    @cached_property
    def fastest(self) -> Row:
        """The fastest of the precisions that cost a picture no more than `LOST_DB`."""
        rows = []
        for precision in (self.half, self.eight):
            try:
                rows.append(self.row(precision))
            except NotMeasured:
                continue
        kept = [row for row in rows if _lost(row) <= LOST_DB] or [self.row("fp32")]
        return min(kept, key=lambda row: row.ms)

    @contextmanager
    def engine(self, precision: str) -> Iterator[tuple[Engine, list[torch.Tensor]]]:
        """An engine that has made frames before, and frames for it."""
        _, height, width = self.size
        with tf32(precision == "tf32"):
            engine, pictures = load(self.model, precision, self.device), panned(height, width, self.device)
            for _ in range(2):
                between(engine, pictures)
            yield engine, pictures

    def processor_ms(self, precision: str) -> float:
        """Milliseconds of this process's processor time for each new frame in a steady stream.

        PyTorch waits for a GPU in a loop, which counts.
        """
        with self.engine(precision) as (engine, pictures):
            began, processor = time.perf_counter(), time.process_time()
            ms = steady(engine, pictures, FRAMES if self.on_gpu else 2)
            return ms * (time.process_time() - processor) / (time.perf_counter() - began)

    def latency_ms(self, precision: str) -> float:
        """Least milliseconds from two frames to the one between them, with nothing known of either."""
        with self.engine(precision) as (engine, pictures):
            return min(timed(self.device, lambda: between(engine, pictures), 5))


def _lost(row: Row) -> float:
    """The most dB that a frame so near to fp32 can lose, of a picture that fp32 makes at 35 dB."""
    assert row.psnr_db is not None
    return 20 * math.log10(1 + 10 ** ((35 - row.psnr_db) / 20))


def _fidelity(row: Row) -> str:
    return f"{row.psnr_db:.1f} dB from fp32, at most {_lost(row):.2f} dB of a picture at 35 dB"


def _loss(bench: Bench) -> str:
    row = bench.row(bench.half)
    return f"{row.precision}: {_fidelity(row)}"


def _speed(precision: Callable[[Bench], str]) -> Callable[[Bench], str]:
    def times(bench: Bench) -> str:
        row = bench.row(precision(bench))
        ratios = (f"{bench.row(plain).ms / row.ms:.1f} times {PLAIN[plain]}" for plain in bench.plain)
        return f"{row.precision}: {' and '.join(ratios)}, {row.psnr_db:.1f} dB from fp32"

    return times


def _change(bench: Bench, precision: str, measured: Callable[[str], float], unit: str) -> str:
    """What a precision takes, and how much less that is than what the plain ones take."""
    ours = measured(precision)
    theirs = {PLAIN[plain]: measured(plain) for plain in bench.plain}
    changes = (f"{ours / each - 1:+.1%} from {each:.4g} {unit} in {name}" for name, each in theirs.items())
    return f"{precision}: {ours:.3g} {unit}, {' and '.join(changes)}"


def _original(bench: Bench) -> str:
    if not bench.on_gpu:
        raise NotMeasured("the operators of the original need a GPU")
    name = bench.size[0]
    if name not in ORIGINAL_MS:
        raise NotMeasured(f"the original was timed at {', '.join(ORIGINAL_MS)}")
    row = bench.fastest
    return (
        f"{row.precision}: {ORIGINAL_MS[name] / row.ms:.1f} times, {_fidelity(row)}; the original took "
        f"{ORIGINAL_MS[name]:.0f} ms in fp32, on an H100"
    )


def _memory(bench: Bench) -> str:
    if not bench.on_gpu:
        raise NotMeasured("there is no GPU here")
    return _change(bench, bench.half, lambda precision: bench.row(precision).vram_allocated_gib, "GiB")


def _processor(bench: Bench) -> str:
    return _change(bench, bench.fastest.precision, bench.processor_ms, "ms a frame")


def _latency(bench: Bench) -> str:
    return _change(bench, bench.fastest.precision, bench.latency_ms, "ms")


def _file(bench: Bench) -> str:
    with torch.device("meta"):
        network = build(config_named(bench.model))
    plain, file = (
        4 * sum(each.numel() for each in network.parameters()),
        shipped_path(bench.model).stat().st_size,
    )
    return f"{file / plain:.2f} of fp32 ({plain / 1e6:.1f} to {file / 1e6:.1f} MB)"


def _training(bench: Bench) -> str:
    if not bench.on_gpu:
        raise NotMeasured("the memory of training is counted on a GPU")
    with _fitting(f"training with batch and crop {TRAINED}"):
        plain, half = (
            training.measure(training.configure(f"{precision}:{TRAINED}", TRAINED_PARTS), 1.0, 0)["peak_gib"]
            for precision in ("fp32", "bf16")
        )
    return f"{half / plain:.2f} of fp32 ({plain:.2f} to {half:.2f} GiB in bf16, batch and crop {TRAINED})"


CLAIMS = (
    Claim("loss of half precision", "at most 0.5 dB", _loss, "{bench} --precision {half}"),
    Claim(
        "speed of half precision",
        "2 to 3 times",
        _speed(lambda bench: bench.half),
        "{bench} --precision {half}",
    ),
    Claim(
        "speed of eight bits, calibrated",
        "3 to 4 times",
        _speed(lambda bench: bench.eight),
        "{bench} --precision {eight}",
    ),
    Claim("speed over the original", "30 times within 0.3 dB", _original, "{bench} --precision {half}"),
    Claim("GPU memory", "-31.6%", _memory, "{bench} --precision {half}"),
    Claim("load of the processor", "-47.1%", _processor, "dain bench claims"),
    Claim("latency of a frame", "-95.5% (420 to 19 ms)", _latency, "dain bench claims"),
    Claim("file of the model", "half", _file, "dain weights list"),
    Claim(
        "memory of training",
        "half",
        _training,
        f"python -m dain_core.training.bench speed fp32:{TRAINED} bf16:{TRAINED}",
    ),
)


def outcomes(bench: Bench) -> Iterator[Outcome]:
    """Measure one claim after another."""
    for claim in CLAIMS:
        ours, why = None, None
        try:
            ours = claim.measure(bench)
        except NotMeasured as error:
            why = str(error)
        repeat = claim.repeat.format(bench=bench.command, half=bench.half, eight=bench.eight)
        yield Outcome(claim.what, claim.theirs, ours, why, repeat)


@click.command()
@click.option(
    "--model", type=click.Choice(list(SHIPPED)), help="[default: dain-refined on a GPU, dain-lite on a CPU]"
)
@click.option("--size", type=Size(), help="[default: 1080p on a GPU, 320x192 on a CPU; or WIDTHxHEIGHT]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--json", "json_path", type=OutputFile(), help="Write the table here too.")
def claims(model: str | None, size: Picture | None, device: str, json_path: Path | None) -> None:
    """Set what was promised beside what this machine shows: speed, loss, memory, sizes."""
    try:
        place = named_device(device)
    except DeviceError as error:
        raise click.ClickException(str(error)) from error
    on_gpu = place.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(place)
    chosen: Picture = size or (("1080p", 1080, 1920) if on_gpu else ("320x192", 192, 320))
    bench = Bench(model or ("dain-refined" if on_gpu else "dain-lite"), chosen, place)
    found = []
    for outcome in outcomes(bench):
        found.append(outcome)
        click.echo(
            f"{len(found)}/{len(CLAIMS)} {outcome.what}: {outcome.ours or f'not measured: {outcome.why}'}",
            err=True,
        )
    title = f"{bench.model} at {chosen[0]} on {describe(str(place))}, PyTorch {torch.__version__}"
    table = Table("claim", "theirs", "ours", "again by", title=title)
    for outcome in found:
        table.add_row(outcome.what, outcome.theirs, outcome.said, outcome.repeat)
    Console(width=160).print(table)
    if json_path:
        with writing(json_path):
            json_path.write_text(
                json.dumps({"on": title, "claims": [asdict(each) for each in found]}, indent=2)
            )
