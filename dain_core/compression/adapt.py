"""``dain compress adapt``: trains a model with its eight bits simulated, where it loses too much by them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import click

from dain_core.compression.calibrate import histograms
from dain_core.compression.distil import Settings, distil, open_footage, quality
from dain_core.compression.errors import CompressionError
from dain_core.compression.prune import check_options
from dain_core.compression.quantise import calibration_of, model_called
from dain_core.compression.simulate import simulated
from dain_core.errors import DainCoreError
from dain_core.outputs import writing
from dain_core.runtime.backends import Source, eight_bit_blocks
from dain_core.runtime.calibration import digest_of, place_of
from dain_core.runtime.devices import named_device
from dain_core.weights.files import save
from dain_core.weights.registry import Entry

#: The number of batches that models are compared on.
_COMPARED = 4


def adapt(
    model: str, out: Path, precision: str, data: tuple[Path, ...], loss: float, minutes: float | None,
    steps: int | None, batch: int, crop: tuple[int, int], rate: float, layout: str, device: str, seed: int,
    models: Path | None,
) -> None:  # fmt: skip
    """Do what `dain compress adapt` says, with its options."""
    check_options(out, crop)
    settings = Settings(10.0 if minutes is None and steps is None else minutes, steps, batch, rate)
    try:
        entry, place = model_called(model, models), named_device(device)
        blocks = eight_bit_blocks(precision, entry.config)
        if not blocks:
            raise CompressionError(
                f"{precision} computes no block of {model} in eight bits: it has nothing to lose"
            )
        teacher = Source(entry).network().to(place).eval()
        footage = open_footage(data, crop, place, seed)
        compared = [footage(batch) for _ in range(_COMPARED)]
        pairs = [
            (one, last)
            for part in compared
            for one, last in zip(part.first.split(1), part.last.split(1), strict=True)
        ]
        student = deepcopy(teacher)
        calibration = calibration_of(entry, histograms(teacher, pairs), "max", len(pairs))
        calibration.apply(student)
        with simulated(student, precision, blocks):
            figures = {"fp32": quality(teacher, compared), precision: quality(student, compared)}
            lost = figures["fp32"] - figures[precision]
            if lost <= loss:
                click.echo(
                    f"{model} loses {lost:.3f} dB by {precision}, which is not above {loss}: nothing was trained"
                )
                return
            distil(student, teacher, footage, settings, _report)
            figures["trained"] = quality(student, compared)
        with writing(out):
            save(
                {name: value.cpu() for name, value in student.state_dict().items()},
                out,
                layout,
                student.config,
            )
            adapted = Entry(out.stem, student.config, out)
            replace(calibration, model=out.stem, weights=digest_of(adapted)).write(place_of(adapted))
    except DainCoreError as error:
        raise click.ClickException(str(error)) from error
    text = ", ".join(f"{name} {value:.3f} dB" for name, value in figures.items())
    click.echo(f"{out}: {text} on {batch * _COMPARED} triplets; {place_of(adapted).name} lies beside it")


def _report(progress: float, psnr: float) -> None:
    click.echo(f"trained {progress:.0%}, {psnr:.2f} dB", err=True)
