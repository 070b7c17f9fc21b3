"""What teachers say of triplets: networks of flow, such as RIFE, and a whole network, whose frame is a target too."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.network.modules.refinement import Refined, sample
from dain_core.network.networks import build
from dain_core.network.refined import RefinedDAIN, RefinedSynthesis
from dain_core.training.resident import Triplets
from dain_core.weights.files import WeightsError, load_weights
from dain_core.weights.registry import named, registry

#: Gives, of frames (N, 3, H, W) in [0, 1] and times (N, 1, 1, 1), flows from the intermediate frame to both ends,
#: (N, 4, H, W), in pixels: one of each network that is asked.
Teacher = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]

#: The largest standard deviation of the errors of a first guess, in pixels, and the side of the blocks in which errors
#: are drawn. Errors between the blocks are interpolated.
_GUESS_ERROR, _GUESS_BLOCK = 3.0, 32


@dataclass(frozen=True)
class Lesson:
    """What teachers say of triplets.

    Attributes:
        flows: the flow from the intermediate frame to both ends, (N, 4, H, W), in pixels.
        share: the share of the first frame in each pixel, (N, 1, H, W), if a network teaches.
        frame: the intermediate frame, (N, 3, H, W), if a network is asked for it.
        guess: one teacher's flow with smooth errors, chosen without the truth: the first guess of the refinement in
            the triplets of `guessed`.
        guessed: (N, 1, 1, 1), bool.
    """

    flows: Tensor
    share: Tensor | None
    frame: Tensor | None
    guess: Tensor
    guessed: Tensor


def make(
    model: RefinedDAIN, batch: Triplets, rectified: bool, known: Lesson | None = None
) -> tuple[list[Refined], RefinedSynthesis | None]:
    """Return the estimate after each block; and the intermediate frame, or None unless it is `rectified`.

    The refinement begins with the projection, or with the guess of `known` in the triplets that are to.
    """
    with torch.autocast(batch.first.device.type, torch.bfloat16):
        one, two = model.features(torch.cat((batch.first, batch.last))).halves()
        projected = model.projected(one, two, model.motion(one, two), batch.time)
        if known is not None:
            projected = torch.where(known.guessed, known.guess, projected)
        if rectified:
            made = model.refined(one, two, projected, batch.time)
            return made.steps, made
        images, contexts = (batch.first, batch.last), (one.context, two.context)
        return model.refine(images, contexts, projected, batch.time)[0], None


@torch.no_grad()
def lesson(
    batch: Triplets, teacher: Teacher | None, network: RefinedDAIN | None, rectified: bool, guessed: float
) -> Lesson | None:
    """Ask a teacher of flow, and a network that teaches. Of several flows the one nearest to the truth counts.

    Args:
        batch: the triplets.
        teacher: the teacher of flow, if there is one.
        network: the network that teaches, prepared for inference, if there is one.
        rectified: whether the network is asked for the frame, too.
        guessed: the share of triplets whose refinement begins with the guess.
    """
    told = (
        [] if teacher is None else [flows.float() for flows in teacher(batch.first, batch.last, batch.time)]
    )
    share = frame = None
    if network is not None:
        steps, made = make(network, batch, rectified)
        told.append(steps[-1].flows)
        share, frame = steps[-1].logit.sigmoid(), None if made is None else made.output
    if not told:
        return None
    flows = told[0]
    for other in told[1:]:
        better = errors_of_warps(batch, other) < errors_of_warps(batch, flows)
        flows = torch.where(better.repeat_interleave(2, 1), other, flows)
    chosen = torch.rand_like(batch.time) < guessed
    return Lesson(flows, share, frame, _guess(told[0]), chosen)


def _guess(flows: Tensor) -> Tensor:
    """Add smooth errors to flows (N, 4, H, W), in pixels. How large they are differs from triplet to triplet."""
    count, channels, *size = flows.shape
    rows, columns = (max(side // _GUESS_BLOCK, 1) for side in size)
    errors = torch.randn((count, channels, rows, columns), device=flows.device)
    errors = errors * (_GUESS_ERROR * torch.rand((count, 1, 1, 1), device=flows.device))
    return flows + F.interpolate(errors, size, mode="bicubic", align_corners=False)


def errors_of_warps(batch: Triplets, flows: Tensor) -> Tensor:
    """Return how far both ends, warped by `flows`, are from the middle around each pixel, (N, 2, H, W)."""
    errors = [
        (sample(end, flow) - batch.middle).abs().mean(1, keepdim=True)
        for end, flow in zip((batch.first, batch.last), flows.split(2, 1), strict=True)
    ]
    return F.avg_pool2d(torch.cat(errors, 1), 7, 1, 3)


def teaching(name: str) -> RefinedDAIN:
    """Return the shipped network called `name`.

    Raises:
        UnknownModelError: there is no such network.
        WeightsError: it is of another kind, or its weights cannot be read.
    """
    entry = named(name, registry())
    network = build(entry.config)
    if not isinstance(network, RefinedDAIN):
        raise WeightsError(f"{name} has no refinement to learn from: choose dain-refined (--learn-from)")
    network.load_state_dict(load_weights(entry.weights, entry.config))
    return network


def teacher_of(path: Path) -> Teacher:
    """Import a Python file and return its function `flows`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    flows: Teacher = module.flows
    return flows
