"""``dain compress quantise``: finds the scales with which a model computes in eight bits, and measures the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import torch
from torch import Tensor

from dain_core.compression.calibrate import METHODS, Histogram, histograms
from dain_core.errors import DainCoreError
from dain_core.evaluation.clips import Clip, Sample, Selection, find_clips
from dain_core.outputs import check_writable, writing
from dain_core.runtime.backends import Source
from dain_core.runtime.calibration import Calibration, digest_of, place_of
from dain_core.runtime.devices import named_device
from dain_core.weights.registry import Entry, named, registry

#: The largest frame to calibrate with and to measure on, (width, height). The middle of larger ones is taken.
_LARGEST = (448, 256)


def quantise(model: str, data: Path, pairs: int, method: str, device: str, models: Path | None) -> None:
    """Do what `dain compress quantise` says, with its options."""
    try:
        entry = model_called(model, models)
        path = place_of(entry)
        check_writable(path)
        calibration = calibrate(entry, data, pairs, method, named_device(device))
    except DainCoreError as error:
        raise click.ClickException(str(error)) from error
    with writing(path):
        calibration.write(path)
    click.echo(
        f"{path}: the ranges of {len(calibration.ranges)} convolutions of {model} on {calibration.pairs} pairs"
    )


def model_called(name: str, models: Path | None) -> Entry:
    """Return a model of the registry; raise UnknownModelError if there is none of that name."""
    return named(name, registry(models))


def calibrate(entry: Entry, data: Path, pairs: int, method: str, device: torch.device) -> Calibration:
    """Return the ranges of a model's activations on pairs of frames from `data`.

    Raises:
        EvaluationError: `data` holds no frames that can be read.
        WeightsError: the weights cannot be read.
    """
    clips = find_clips(data)
    network = Source(entry).network().to(device).eval()
    frames = [(first, last) for first, last in sample_pairs(clips, pairs)]
    seen = histograms(network, ((first.to(device), last.to(device)) for first, last in frames))
    return calibration_of(entry, seen, method, len(frames))


def calibration_of(entry: Entry, seen: Mapping[str, Histogram], method: str, pairs: int) -> Calibration:
    """Return the calibration of a model by what its convolutions saw on so many pairs of frames."""
    ranges = {name: METHODS[method](histogram) for name, histogram in seen.items()}
    channels = {name: histogram.channels.tolist() for name, histogram in seen.items() if histogram.is_mixed}
    return Calibration(entry.name, digest_of(entry), method, pairs, ranges, channels)


def sample_pairs(clips: Sequence[Clip], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Give about `count` pairs of frames, (1, 3, H, W) in [0, 1], spread evenly over `clips`, and over each of them.

    Raises:
        EvaluationError: a clip cannot be read.
    """
    for sample in read_samples(clips, count):
        yield sample.first.float() / 255, sample.last.float() / 255


def read_samples(clips: Sequence[Clip], count: int) -> Iterator[Sample]:
    """Give about `count` samples, spread evenly over `clips`, and over each of them, none larger than `_LARGEST`.

    Raises:
        EvaluationError: a clip cannot be read.
    """
    share = -(-count // len(clips))
    for clip in clips[:: -(-len(clips) // count)]:
        yield from map(_cut, clip.samples(Selection(limit=share)))


def _cut(sample: Sample) -> Sample:
    """Take the middle of the frames of a sample, as far as they are larger than `_LARGEST`."""
    height, width = sample.first.shape[-2:]
    size = min(width, _LARGEST[0]), min(height, _LARGEST[1])
    cut = Selection(crop=size)
    first, last, *truths = (
        cut.prepare(frame, sample.name) for frame in (sample.first, sample.last, *sample.truths)
    )
    return Sample(
        sample.clip, sample.name, sample.place, sample.counted, first, last, sample.times, tuple(truths)
    )
