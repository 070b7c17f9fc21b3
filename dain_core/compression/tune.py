"""``dain tune``: measures what each block of a network costs and loses in each precision here, and chooses of them.

Time and loss of blocks are taken to add up, which makes the choice a knapsack problem with one item of each block
(Sinha and Zoltners, 1979). There are so few that all choices are looked at. What is chosen is then measured as a whole;
if it loses more or takes longer than it may, the next best choice is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dain_core import __version__
from dain_core.compression.errors import CompressionError
from dain_core.compression.quantise import model_called, read_samples
from dain_core.errors import DainCoreError
from dain_core.evaluation.clips import Sample, find_clips
from dain_core.evaluation.metrics import psnr
from dain_core.network.networks import build
from dain_core.outputs import check_writable, writing
from dain_core.runtime.backends import backend_for
from dain_core.runtime.backends.fused import FusedDAIN
from dain_core.runtime.backends.int8 import has_instructions
from dain_core.runtime.calibration import digest_of, place_of
from dain_core.runtime.devices import named_device
from dain_core.runtime.engine import Interpolator
from dain_core.runtime.profile import Profile, device_class
from dain_core.weights.registry import Entry

#: The precision of each block by name.
Choice = Mapping[str, str]

#: The most choices that are measured as a whole.
_TRIES = 8


@dataclass(frozen=True)
class Cost:
    """What a choice takes.

    Attributes:
        milliseconds: the time of a new frame.
        loss: the PSNR in dB that it loses against float32.
    """

    milliseconds: float
    loss: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.milliseconds + other.milliseconds, self.loss + other.loss)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.milliseconds - other.milliseconds, self.loss - other.loss)


def offers(entry: Entry, device: torch.device) -> dict[str, tuple[str, ...]]:
    """Return for each block of a model the precisions that a device has, the widest first.

    Raises:
        CompressionError: the device has only one for all blocks.
    """
    with torch.device("meta"):
        blocks = [name for name, _ in build(entry.config).named_children()]
    calibrated = place_of(entry).is_file()
    if device.type == "cpu":
        found = ("fp32", "bf16", "int8") if calibrated and has_instructions() else ("fp32", "bf16")
        return dict.fromkeys(blocks, found)
    backend = backend_for(entry.config, device)
    capable = torch.cuda.get_device_capability(device) == (9, 0)
    if backend.name != "fused" or not capable or not calibrated:
        raise CompressionError(
            f"{device_class(device)} has one precision, fp16, for all blocks of {entry.name}, so there is nothing to "
            "choose. A GPU of compute capability 9.0 has fp8 for dain and dain-lite, once `dain compress quantise` has "
            "calibrated them"
        )
    eight = FusedDAIN.eight_bit_blocks(entry.config)  # type: ignore[arg-type]
    return {block: ("fp16", "fp8") if block in eight else ("fp16",) for block in blocks}


def choices(costs: Mapping[str, Mapping[str, Cost]], base: Cost) -> Iterator[tuple[Choice, Cost]]:
    """Give every choice of one precision for each block, and what it is expected to take.

    Args:
        costs: for each block and precision what it takes beyond the first, the widest.
        base: what the widest takes everywhere.
    """
    for chosen in product(*(each.items() for each in costs.values())):
        choice = {block: precision for block, (precision, _) in zip(costs, chosen, strict=True)}
        if choice.get("context") == "fp8" and choice.get("rectify") != "fp8":
            continue  # the kernels have context in eight bits only for a rectification that sees it so
        total = base
        for _, cost in chosen:
            # That a narrower precision comes nearer to the truth is chance, and no chance adds up.
            total = total + Cost(cost.milliseconds, max(cost.loss, 0.0))
        yield choice, total


def choose(
    costs: Mapping[str, Mapping[str, Cost]], base: Cost, loss: float | None, milliseconds: float | None
) -> list[tuple[Choice, Cost]]:
    """Return the choices that keep to a budget, the best first: the fastest, or those that lose least.

    Args:
        costs, base: see `choices`.
        loss: the dB that may be lost; None if a time is given.
        milliseconds: the time that a new frame may take; None if a loss is given.
    """
    found = list(choices(costs, base))
    if milliseconds is None:
        assert loss is not None
        fit = [each for each in found if each[1].loss <= loss]
        return sorted(fit, key=lambda each: (each[1].milliseconds, each[1].loss))
    fit = [each for each in found if each[1].milliseconds <= milliseconds]
    return sorted(fit, key=lambda each: (each[1].loss, each[1].milliseconds))


class Bench:
    """Measures a model with any precisions of its blocks.

    Args:
        entry: the model.
        device: where it runs.
        samples: pairs of frames and the true frames between them.
        size: the (width, height) of the frames whose time is measured.
        repeats: how often the time is measured; the median counts.
    """

    def __init__(
        self,
        entry: Entry,
        device: torch.device,
        samples: Sequence[Sample],
        size: tuple[int, int],
        repeats: int,
    ) -> None:
        self._entry, self._device, self._repeats = entry, device, repeats
        self._samples = [
            ((sample.first, sample.last), sample.times[0], sample.truths[0]) for sample in samples
        ]
        first, last = (_floats(frame, device) for frame in (samples[0].first, samples[0].last))
        self._timed = [F.interpolate(frame, size[::-1], mode="bilinear") for frame in (first, last)]
        exact = self._engine(None)
        self._exact = self._quality(exact)

    def __call__(self, choice: Choice) -> Cost:
        """Return what a choice takes."""
        engine = self._engine(choice)
        return Cost(self._milliseconds(engine), self._exact - self._quality(engine))

    def _engine(self, choice: Choice | None) -> Interpolator:
        place = str(self._device)
        models = {self._entry.name: self._entry}
        if choice is None:
            return Interpolator.load(self._entry.name, device=place, precision="fp32", models=models)
        return Interpolator.load(self._entry.name, device=place, models=models, blocks=choice)

    def _quality(self, engine: Interpolator) -> float:
        made = []
        for ends, moment, truth in self._samples:
            first, last = (_floats(frame, self._device) for frame in ends)
            frame = engine.interpolate(first, last, [moment]).clamp(0, 1)
            made.append(psnr(frame.cpu(), _floats(truth, torch.device("cpu"))))
        return statistics.mean(made)

    def _milliseconds(self, engine: Interpolator) -> float:
        """Return the time of a new frame as a video has them: one frame, one pair and one time."""
        first, last = self._timed
        known = engine.frame(first)
        taken = []
        for _ in range(self._repeats + 2):  # the first two prepare
            self._wait()
            started = time.perf_counter()
            engine.between(engine.pair(known, engine.frame(last)), 0.5)
            self._wait()
            taken.append(1000 * (time.perf_counter() - started))
        return statistics.median(taken[2:])

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _floats(frame: Tensor, device: torch.device) -> Tensor:
    return frame.to(device).float() / 255


def measure(
    bench: Callable[[Choice], Cost], offered: Mapping[str, Sequence[str]]
) -> tuple[Cost, dict[str, dict[str, Cost]]]:
    """Return what the widest precision takes everywhere, and what each block and precision takes beyond that."""
    widest = {block: precisions[0] for block, precisions in offered.items()}
    base = bench(widest)
    nothing = Cost(0.0, 0.0)
    costs = {
        block: {
            precision: nothing if precision == widest[block] else bench({**widest, block: precision}) - base
            for precision in precisions
            if not (block == "context" and precision == "fp8")
        }
        for block, precisions in offered.items()
    }
    if "fp8" in offered.get("context", ()):  # its rectification has eight bits, too
        both = bench({**widest, "context": "fp8", "rectify": "fp8"}) - base
        costs["context"]["fp8"] = both - costs["rectify"]["fp8"]
    return base, costs


def best(
    bench: Callable[[Choice], Cost],
    ranked: Sequence[tuple[Choice, Cost]],
    fits: Callable[[Cost], bool],
    widest: tuple[Choice, Cost],
) -> tuple[Choice, Cost]:
    """Measure choices as a whole, the best first, and return the first that keeps to the budget.

    Args:
        bench: measures a choice.
        ranked: choices, and what they are expected to take.
        fits: whether a cost keeps to the budget.
        widest: the widest precision everywhere, as it was measured, which is taken where no other choice keeps to it.

    Raises:
        CompressionError: none does.
    """
    for choice, _ in ranked[:_TRIES]:
        cost = bench(choice)
        if fits(cost):
            return choice, cost
    if fits(widest[1]):
        return widest
    raise CompressionError(
        "no choice of precisions keeps to the budget: allow a larger --loss, or a longer --time"
    )


def run(
    model: str, out: Path, data: Path, loss: float | None, milliseconds: float | None, pairs: int,
    size: tuple[int, int], repeats: int, device: str, models: Path | None,
) -> None:  # fmt: skip
    """Does what `dain tune` is asked for; one of `loss` and `milliseconds` is None. ClickException says what failed."""
    check_writable(out)
    try:
        entry, place = model_called(model, models), named_device(device)
        offered = offers(entry, place)
        bench = Bench(entry, place, list(read_samples(find_clips(data), pairs)), size, repeats)
        base, costs = measure(bench, offered)

        def fits(cost: Cost) -> bool:
            if loss is None:
                return cost.milliseconds <= (milliseconds or 0)
            return cost.loss <= loss and cost.milliseconds <= base.milliseconds

        widest = {block: precisions[0] for block, precisions in offered.items()}
        choice, cost = best(bench, choose(costs, base, loss, milliseconds), fits, (widest, base))
        digest = digest_of(entry)
    except DainCoreError as error:
        raise click.ClickException(str(error)) from error
    here = device_class(place)
    profile = Profile(
        here, model, digest, __version__, choice, size, cost.milliseconds, base.milliseconds, cost.loss
    )
    with writing(out):
        profile.write(out)
    _show(costs, base, choice)
    click.echo(
        f"{out}: {cost.milliseconds:.1f} ms instead of {base.milliseconds:.1f} ms, {cost.loss:+.3f} dB lost, on {here}"
    )


def _show(costs: Mapping[str, Mapping[str, Cost]], base: Cost, choice: Choice) -> None:
    table = Table(
        "block", "precision", "ms", "dB lost", "", title=f"beside {base.milliseconds:.1f} ms a frame"
    )
    for block, each in costs.items():
        for precision, cost in each.items():
            chosen = "chosen" if choice[block] == precision else ""
            table.add_row(block, precision, f"{cost.milliseconds:+.2f}", f"{cost.loss:+.3f}", chosen)
    Console().print(table)
