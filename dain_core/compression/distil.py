"""Trains a pruned network until it makes the frames of the network that it was, as far as it can (Hinton et al., 2015).

Its teacher is the unpruned network. The true frame is a target as well, and so are the teacher's flow and depth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dain_core.compression.importance import learned
from dain_core.network.modules.layers import lay_out
from dain_core.network.networks import Network
from dain_core.network.refined import RefinedDAIN
from dain_core.training import losses
from dain_core.training.batch import TrainingDataError
from dain_core.training.losses import photometric, psnr
from dain_core.training.refined import rate_factor
from dain_core.training.resident import ResidentFootage, Triplets
from dain_core.training.scenes.synthetic import MadeScenes
from dain_core.training.steps import Step

#: Gives so many random triplets.
Footage = Callable[[int], Triplets]

#: The weights of the distances to the teacher's frame, flow in pixels and log depth. The true frame has the weight 1.
_FRAME, _FLOW, _DEPTH = 1.0, 0.01, 0.02


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
        minutes, steps: the length of the run, whichever is over first; None sets no bound.
        batch: the number of triplets in a step.
        rate: the highest learning rate.
    """

    minutes: float | None
    steps: int | None
    batch: int
    rate: float

    def progress(self, seconds: float, step: int) -> float:
        """Return the share of the run that is done, 0 to 1."""
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        by_steps = step / self.steps if self.steps else 0.0
        return min(max(by_time, by_steps), 1.0)


def open_footage(folders: Sequence[Path], crop: tuple[int, int], device: torch.device, seed: int) -> Footage:
    """Open the videos of folders; without folders, scenes that are made.

    Args:
        folders: folders of videos.
        crop: the height and width of triplets in pixels, multiples of 64.
        device: where triplets are made.
        seed: the seed of all random numbers.

    Raises:
        TrainingDataError: a folder cannot be read, or none of its videos can be used.
    """
    if not folders:
        scenes = MadeScenes([], crop, device=device, seed=seed)

        def made(count: int) -> Triplets:
            batch = scenes.sample(count)
            return Triplets(batch.first, batch.middle, batch.last, batch.time.view(-1, 1, 1, 1))

        return made
    try:
        files = sorted(path for folder in folders for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise TrainingDataError(
            f"{error.filename} cannot be read: {error.strerror}. Name a folder of videos"
        ) from error
    return ResidentFootage(files, crop, device, seed).sample


@dataclass(frozen=True)
class Made:
    """What a network makes of triplets.

    Attributes:
        output, blend: the frame, and the frame before it is rectified, (N, 3, H, W).
        flows: both flows that the frame is made by, (N, 4, H, W), in pixels.
        depth: the log depth of both ends, (N, 2, H, W).
    """

    output: Tensor
    blend: Tensor
    flows: Tensor
    depth: Tensor


def make(network: Network, batch: Triplets) -> Made:
    """Have the middle frames of triplets made."""
    any_network: Any = network
    one, two = any_network.features(torch.cat((batch.first, batch.last))).halves()
    motion = any_network.motion(one, two)
    made = any_network.synthesise(one, two, motion, batch.time)
    flows = made.flows if isinstance(network, RefinedDAIN) else torch.cat(motion.flows, 1)
    depth = -torch.cat((one.inverse_depth, two.inverse_depth), 1).log()
    return Made(made.output, made.blend, flows, depth)


class Distillation(nn.Module):
    """The loss of a batch, and the figures to watch.

    Args:
        student: the network that learns.
        teacher: the network that it learns from.
    """

    def __init__(self, student: Network, teacher: Network) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, batch: Triplets) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and figures by name."""
        device = batch.first.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            with torch.no_grad():
                known = make(self.teacher, batch)
            made = make(self.student, batch)
        loss = photometric(made.output, batch.middle) + 0.5 * photometric(made.blend, batch.middle)
        loss = loss + _FRAME * photometric(made.output, known.output.float())
        loss = loss + _FLOW * losses.charbonnier(made.flows - known.flows, 0.1)
        loss = loss + _DEPTH * losses.charbonnier(made.depth - known.depth)
        return loss, {
            "psnr": psnr(made.output, batch.middle),
            "psnr_teacher": psnr(known.output, batch.middle),
        }


def distil(
    student: Network,
    teacher: Network,
    footage: Footage,
    settings: Settings,
    report: Callable[[float, float], None],
) -> None:
    """Train `student` in place. Its weights are at last the average over the run, which is better than the last ones.

    Args:
        student, teacher: networks on the device of the footage, in float32.
        footage: gives triplets.
        settings: the settings of the run.
        report: gets the share of the run that is done, and the PSNR in dB of the last batch, about every ten seconds.
    """
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    for network in (student, teacher):
        network.eval().requires_grad_(False)
    names = set(learned(student))
    weights = [weight for name, weight in student.named_parameters() if name in names]
    lay_out(weights)
    for weight in weights:
        weight.requires_grad_(True)
    average = [weight.detach().clone() for weight in weights]
    device = weights[0].device
    learn = Step(Distillation(student, teacher), weights, settings.rate, device)
    started = reported = time.monotonic()
    step = 0
    while (progress := settings.progress(time.monotonic() - started, step)) < 1:
        learn.rate.fill_(settings.rate * rate_factor(progress))
        figures = learn.eager(footage(settings.batch))
        step += 1
        keep = min(0.998, step / (step + 10))
        torch._foreach_lerp_(average, [weight.detach() for weight in weights], 1 - keep)
        if time.monotonic() - reported > 10:
            reported = time.monotonic()
            report(progress, float(figures["psnr"]))
    if step:
        with torch.no_grad():
            torch._foreach_copy_([weight.detach() for weight in weights], average)
    student.requires_grad_(False)


@torch.no_grad()
def quality(network: Network, batches: Sequence[Triplets]) -> float:
    """Return the mean PSNR in dB of the middle frames of batches."""
    return sum(float(psnr(make(network, batch).output, batch.middle)) for batch in batches) / len(batches)
