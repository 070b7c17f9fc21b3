"""Runs an evaluation: every method on every sample of every clip, and every model on every picture with depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from dain_core.evaluation.cases import Worst, depth_case, frame_case, ranks
from dain_core.evaluation.clips import Clip, Sample, Selection
from dain_core.evaluation.depth import DepthModel, DepthPicture, depth_scores
from dain_core.evaluation.methods import Method
from dain_core.evaluation.scores import Flicker, Lpips, Score, score
from dain_core.evaluation.vmaf import Vmaf


@dataclass
class Results:
    """The results of an evaluation.

    Attributes:
        worst: the cases of the first method that are worth looking at.
        scores: the scores of frames.
        depths: the scores of depth.
    """

    worst: Worst
    scores: list[Score] = field(default_factory=list)
    depths: list[Score] = field(default_factory=list)


def evaluate_frames(
    clips: Iterable[Clip],
    methods: Sequence[Method],
    selection: Selection,
    device: torch.device,
    lpips: Lpips | None,
    vmaf: Vmaf | None,
    results: Results,
    progress: Callable[[str], None],
) -> None:
    """Evaluate `methods` on `clips`, and add the scores to `results`.

    Args:
        clips: the clips.
        methods: the methods, the judged method first.
        selection: the choice of the samples.
        device: the device of the evaluation.
        lpips, vmaf: the metrics LPIPS and VMAF; None leaves a metric out.
        results: the results, to which scores and cases are added.
        progress: called with the clip's name after each sample.

    Raises:
        EvaluationError: a file cannot be read, or a method fails.
    """
    flicker = Flicker()
    for clip in clips:
        for sample in clip.samples(selection):
            _evaluate(sample, methods, device, lpips, vmaf, flicker, results)
            progress(clip.name)


def evaluate_depth(
    pictures: Iterable[DepthPicture],
    models: Sequence[DepthModel],
    results: Results,
    progress: Callable[[str], None],
) -> None:
    """Evaluate the depth that `models` estimate in `pictures`, and add the scores to `results`.

    Args:
        pictures: the pictures with their true depth.
        models: the models, the judged model first.
        results: the results, to which scores and cases are added.
        progress: called with the clip's name after each picture.

    Raises:
        EvaluationError: a file cannot be read.
    """
    for picture in pictures:
        seen = {model.name: model(picture.image).cpu() for model in models}
        found = [
            Score(picture.clip, picture.name, 0, name, depth_scores(depth, picture.depth))
            for name, depth in seen.items()
        ]
        results.depths += found
        if found:
            build = partial(depth_case, found, picture.image, picture.depth, seen)
            results.worst.offer(picture.clip, {"depth": found[0].values["sdr"]}, build)
        progress(picture.clip)


def _evaluate(
    sample: Sample,
    methods: Sequence[Method],
    device: torch.device,
    lpips: Lpips | None,
    vmaf: Vmaf | None,
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
    seen = {
        name: vmaf(first, last, frames, truths) if vmaf and sample.counted else None
        for name, frames in made.items()
    }
    for index, (time, truth) in enumerate(zip(sample.times, truths, strict=True)):
        here = {name: frames[index] for name, frames in made.items()}
        found = [Score(sample.clip, sample.name, time, name) for name in here]
        for item in found:
            if sample.counted:
                item.values |= score(here[item.method], truth, lpips, what)
            if (qualities := seen[item.method]) is not None:
                item.values["vmaf_neg"] = qualities[index]
            if (change := changes[item.method][index]) is not None:
                item.values["flicker"] = change
        results.scores += found
        if sample.counted:
            build = partial(frame_case, found, (first, last), truth, here)
            results.worst.offer(sample.clip, ranks(found), build)


def _floats(frame: Tensor, device: torch.device) -> Tensor:
    return frame.to(device).float() / 255
