"""One evaluation: every method on every sample of every clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from dain_core.evaluation.cases import Worst, make_case
from dain_core.evaluation.clips import Clip, Sample, Selection
from dain_core.evaluation.methods import Method
from dain_core.evaluation.scores import Flicker, Lpips, Score, score


@dataclass
class Results:
    """What came out: every score, and the worst cases of the first method with their pictures."""

    scores: list[Score] = field(default_factory=list)
    worst: Worst = field(default_factory=lambda: Worst(0))


def run(
    clips: Iterable[Clip],
    methods: Sequence[Method],
    selection: Selection,
    device: torch.device,
    *,
    lpips: Lpips | None = None,
    worst: int = 0,
    progress: Callable[[Sample], None] = lambda _: None,
) -> Results:
    """Score `methods` on `clips`; the pictures of the `worst` cases are kept.

    Raises:
        EvaluationError: a file that cannot be read, or a method that fails.
    """
    results = Results(worst=Worst(worst))
    flicker = Flicker()
    for clip in clips:
        for sample in clip.samples(selection):
            _evaluate(sample, methods, device, lpips, flicker, results)
            progress(sample)
    return results


def _evaluate(
    sample: Sample,
    methods: Sequence[Method],
    device: torch.device,
    lpips: Lpips | None,
    flicker: Flicker,
    results: Results,
) -> None:
    what = f"{sample.clip} {sample.name}"
    first, last, *truths = (_floats(frame, device) for frame in (sample.first, sample.last, *sample.truths))
    made = {method.name: method.frames(first, last, sample.times, what).split(1) for method in methods}
    changes = {
        name: flicker.add(sample, name, [frame - truth for frame, truth in zip(frames, truths, strict=True)])
        for name, frames in made.items()
    }
    for index, (time, truth) in enumerate(zip(sample.times, truths, strict=True)):
        here = {name: frames[index] for name, frames in made.items()}
        found = [Score(sample.clip, sample.name, time, name) for name in here]
        for item in found:
            if sample.counted:
                item.values |= score(here[item.method], truth, lpips, what)
            if (change := changes[item.method][index]) is not None:
                item.values["flicker"] = change
        results.scores += found
        if sample.counted:
            results.worst.offer(found, partial(make_case, found, (first, last), truth, here))


def _floats(frame: Tensor, device: torch.device) -> Tensor:
    return frame.to(device).float() / 255
