"""Trains `dain-refined`: the refinement at the intermediate time and all that follows it, on resident footage.

    python -m dain_core.training.refined --data clips --out run --minutes 20 --teacher teacher.py
    python -m dain_core.training.refined --data clips --out next --minutes 20 --init run/last.safetensors
    python -m dain_core.training.refined --data clips --out small --minutes 12 --init start.safetensors \\
        --learn-from dain-refined

Flow and depth keep their initial weights, those of `dain-refined`. The feature pyramid, the refinement with its
kernels and the rectification train.

A teacher is a Python file that defines a function `flows(first, last, time)`. The function gets frames (N, 3, H, W) in
[0, 1] and times (N, 1, 1, 1). It returns a list of flows from the intermediate frame to both ends, one for each network
that it asks, (N, 4, H, W), in pixels. The flow that warps nearest to the truth counts. It is a target where it is
nearer than ours (RIFE has such a teacher; Huang et al., ECCV 2022). In some triplets the refinement begins with a
teacher's flow and smooth errors in place of the projection, so that blocks learn to look, and to stay where they are
right.

A network of other widths begins with a file that `dain compress prune --widths` made. It can learn from the whole
network as well: from its flow, its mask and its frame (Hinton et al., 2015).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from dain_core.network.modules.layers import lay_out
from dain_core.network.modules.pyramid import image_pyramid
from dain_core.network.modules.refinement import Refined, sample_both
from dain_core.network.refined import RefinedConfig, RefinedDAIN
from dain_core.options import Amount
from dain_core.runtime.devices import DeviceError, named_device
from dain_core.training import losses
from dain_core.training.batch import TrainingDataError
from dain_core.training.lessons import Lesson, Teacher, errors_of_warps, lesson, make, teacher_of, teaching
from dain_core.training.resident import ResidentFootage, Triplets
from dain_core.training.steps import Step
from dain_core.weights.files import (
    WeightsError,
    check_fit,
    config_in,
    load_weights,
    read,
    save,
    shipped_path,
)
from dain_core.weights.registry import UnknownModelError

#: The parts that train.
PARTS = ("context", "refine", "rectify")
#: The learning rate at the end, as a share of the highest rate.
_LAST_RATE = 0.01
#: The weight of the distance to the teacher's flow where that flow is not better than ours, by stage.
_FLOORS = (0.5, 0.1, 0.0)
#: The number of steps between log entries, which say how far a step moves each layer.
_LOOK_EVERY = 200


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    Attributes:
        minutes: the length of the run.
        batch: the number of triplets in a step.
        crop: the height and width of a triplet in pixels, multiples of 64.
        rate: the highest learning rate.
        flow_first: the share of the run at its start in which only pyramid and refinement learn, from the blend.
        flow: the weight of the distance to the teachers' flow.
        guessed: the share of triplets in which the refinement begins with a teacher's flow and smooth errors.
        share, frame: the weights of the distances to the mask and to the frame of the network that teaches.
        psnr: the weight of the logarithm of the squared error, in the last 40 % of the run.
        compiled: whether `torch.compile` makes fewer kernels of the loss and its gradients, which takes minutes before
            the run.
    """

    minutes: float
    batch: int = 32
    crop: tuple[int, int] = (256, 384)
    rate: float = 4e-4
    flow_first: float = 0.3
    flow: float = 0.06
    guessed: float = 0.25
    share: float = 0.01
    frame: float = 0.5
    psnr: float = 0.01
    compiled: bool = False


def step_blends(batch: Triplets, steps: Sequence[Refined]) -> Iterator[tuple[Tensor, Tensor]]:
    """Give for each block, at its size, the blend of both bilinearly warped ends, and the true frame."""
    levels = len(steps) - 1
    firsts, truths, lasts = (image_pyramid(x, levels) for x in (batch.first, batch.middle, batch.last))
    for level, step in zip(range(levels, -1, -1), steps, strict=True):
        one, two = sample_both(firsts[level], lasts[level], step.flows, 2**level).chunk(2, 1)
        share = step.logit.sigmoid()
        yield share * one + (1 - share) * two, truths[level]


def taught(
    batch: Triplets, steps: Sequence[Refined], target: Tensor, floor: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the distance of all blocks to the teacher's flow, where the teacher's flow is better than ours.

    Args:
        batch: the triplets.
        steps: the results of all blocks.
        target: the teacher's flow, (N, 4, H, W), in pixels.
        floor: the weight of a pixel where the teacher's flow is not better, 0 to 1.

    Returns:
        The loss, and the mean end-point error of the last block in pixels, without gradient.
    """
    better = errors_of_warps(batch, target) < errors_of_warps(batch, steps[-1].flows.detach())
    weights = torch.where(better, 1.0, floor)
    targets, shares = image_pyramid(target, len(steps) - 1), image_pyramid(weights, len(steps) - 1)
    total = target.new_zeros(())
    for level, step in zip(range(len(steps) - 1, -1, -1), steps, strict=True):
        error = (step.flows - targets[level]).square().view(len(target), 2, 2, *step.flows.shape[2:]).sum(2)
        total = total + (shares[level] * (error + 0.01).pow(0.4)).mean() / len(steps)
    return total, error.detach().sqrt().mean()


class Objective(nn.Module):
    """The loss of a batch, and the figures to watch.

    Args:
        model: the network.
        settings: the settings of the run.
        teacher: the teacher of flow, if there is one.
        network: the network that teaches, prepared for inference, if there is one.

    Attributes:
        rectifies: whether the frame is made whole. If not, pyramid and refinement alone learn, from the bilinear blend.
        floor: the weight of the distance to the teacher's flow where that flow is not better, a scalar.
        log_weight: the weight of the logarithm of the squared error, a scalar.
    """

    floor: Tensor
    log_weight: Tensor

    def __init__(
        self,
        model: RefinedDAIN,
        settings: Settings,
        teacher: Teacher | None,
        network: RefinedDAIN | None = None,
    ) -> None:
        super().__init__()
        self.model, self._settings, self._teacher, self._network = model, settings, teacher, network
        self.rectifies = False
        self._computed = torch.compile(self._loss, dynamic=False) if settings.compiled else self._loss
        self.register_buffer("floor", torch.zeros(()))
        self.register_buffer("log_weight", torch.zeros(()))

    def enter(self, progress: float) -> bool:
        """Set what changes in the course of a run, for `progress`, 0 to 1; return whether other parts learn now.

        In stage 0, pyramid and refinement learn from the bilinear blend. In stage 1, all parts learn. In stage 2, they
        also learn from PSNR.
        """
        first = self._settings.flow_first
        stage = (progress >= first) + (progress >= max(0.6, first))
        before, self.rectifies = self.rectifies, stage > 0
        self.floor.fill_(_FLOORS[stage])
        self.log_weight.fill_(self._settings.psnr if stage == 2 else 0.0)
        return before != self.rectifies

    def forward(self, batch: Triplets) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of `batch`, and figures by name; all are scalars."""
        known = lesson(batch, self._teacher, self._network, self.rectifies, self._settings.guessed)
        return self._computed(batch, known)

    def _loss(self, batch: Triplets, known: Lesson | None) -> tuple[Tensor, dict[str, Tensor]]:
        steps, made = make(self.model, batch, self.rectifies, known)
        *coarse, (frame, truth) = step_blends(batch, steps)
        rough = torch.stack([losses.charbonnier(frame.float() - truth) for frame, truth in coarse]).mean()
        loss = (1.0 if made is None else 0.2) * losses.photometric(frame, truth) + 0.3 * rough
        figures = {"share": steps[-1].logit.detach().sigmoid().std()}
        if made is None:
            figures["psnr_blend"] = losses.psnr(frame, truth)
        else:
            loss = loss + losses.photometric(made.output, truth) + 0.5 * losses.photometric(made.blend, truth)
            loss = loss + self.log_weight * losses.log_error(made.output - truth)
            figures |= {
                "psnr_output": losses.psnr(made.output, truth),
                "psnr_blend": losses.psnr(made.blend, truth),
            }
        if known is None:
            return loss, figures
        distance, figures["epe"] = taught(batch, steps, known.flows, self.floor)
        loss = loss + self._settings.flow * distance
        if known.share is not None:
            loss = loss + self._settings.share * losses.charbonnier(steps[-1].logit.sigmoid() - known.share)
        if known.frame is None:
            figures["psnr_teacher"] = losses.psnr(_mean_of_ends(batch, known.flows), batch.middle)
        else:
            figures["psnr_teacher"] = losses.psnr(known.frame, batch.middle)
        if made is not None and known.frame is not None:
            loss = loss + self._settings.frame * losses.photometric(made.output, known.frame)
        return loss, figures


@torch.no_grad()
def _mean_of_ends(batch: Triplets, flows: Tensor) -> Tensor:
    """Return the mean of both ends that `flows` warp, weighted by their nearness in time, (N, 3, H, W)."""
    first, last = sample_both(batch.first, batch.last, flows, 1).chunk(2, 1)
    return (1 - batch.time) * first + batch.time * last


def train(
    model: RefinedDAIN,
    footage: ResidentFootage,
    teacher: Teacher | None,
    settings: Settings,
    out: Path,
    device: torch.device,
    network: RefinedDAIN | None = None,
) -> None:
    """Train `model` for `settings.minutes`, and write its weights and a log.

    Args:
        model: the network. It is changed in place.
        footage: the data.
        teacher: the teacher of flow, if there is one.
        settings: the settings of the run.
        out: the folder of the run: log.jsonl, weights.safetensors (averaged) and last.safetensors (not averaged). Both
            have the parts that do not train, too.
        device: the device to train on.
        network: the network that teaches, if there is one. It is prepared for inference in place.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    whole = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.to(device)
    weights = trainable(model)
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    if network is not None:
        network.prepare(torch.bfloat16)
    objective = Objective(model, settings, teacher, network).to(device)
    learn = Step(objective, list(weights.values()), 0.0, device)
    for progress in (1.0, 0.0):  # what is compiled or captured here takes no time of the run
        if objective.enter(progress):
            learn.renew()
        learn(footage.sample(settings.batch))
    started = since = saved = time.monotonic()
    step, sums = 0, dict[str, Tensor]()
    while (progress := (time.monotonic() - started) / (60 * settings.minutes)) < 1:
        learn.rate.fill_(settings.rate * rate_factor(progress))
        looks = step % _LOOK_EVERY == _LOOK_EVERY - 1
        batch = footage.sample(settings.batch)
        before = {name: weight.detach().clone() for name, weight in weights.items()} if looks else {}
        if objective.enter(progress):
            learn.renew()
        figures = learn(batch)
        step += 1
        keep = min(0.999, step / (step + 10))
        torch._foreach_lerp_(list(average.values()), [w.detach() for w in weights.values()], 1 - keep)
        for name, value in figures.items():
            sums[name] = sums.get(name, 0) + value.float()
        if not looks:
            continue
        entry = {name: float(value) / _LOOK_EVERY for name, value in sums.items()}
        now = time.monotonic()
        entry |= {"step": step, "minutes": (now - started) / 60, "rate": float(learn.rate)}
        entry["triplets_per_second"] = _LOOK_EVERY * settings.batch / (now - since)
        text = json.dumps({name: round(value, 6) for name, value in entry.items()} | updates(weights, before))
        print(text, flush=True)
        with (out / "log.jsonl").open("a") as log:
            log.write(text + "\n")
        sums, since = {}, now
        if now - saved > 90:
            saved = now
            keep_weights({**whole, **average}, out / "weights.safetensors", model.config)
    keep_weights({**whole, **average}, out / "weights.safetensors", model.config)
    keep_weights({**whole, **weights}, out / "last.safetensors", model.config)


def trainable(model: RefinedDAIN) -> dict[str, nn.Parameter]:
    """Freeze the parts that do not train; return the weights that train, by name.

    The frozen parts become bfloat16, except for the layers that need float32.
    """
    model.eval()
    for name, part in model.named_children():
        part.requires_grad_(name in PARTS)
    model.prepare_front(torch.bfloat16)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    lay_out(weights.values())
    return weights


def updates(weights: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, float | str]:
    """Return how far a step moves layers, relative to their norm: the median, the smallest value, and its layer.

    Args:
        weights, before: the weights by name after the step and before it.
    """
    moved = {
        name: float((weights[name].detach() - old).norm() / old.norm().clamp(min=1e-6))
        for name, old in before.items()
        if old.dim() == 4
    }
    ranked = sorted(moved, key=lambda name: moved[name])
    return {
        "update": moved[ranked[len(ranked) // 2]],
        "slowest_update": moved[ranked[0]],
        "slowest": ranked[0],
    }


def keep_weights(weights: Mapping[str, Tensor], path: Path, config: RefinedConfig) -> None:
    """Write weights of a network in half precision. The file is complete or absent."""
    save({name: value.detach().cpu() for name, value in weights.items()}, path, "fp16", config)


def rate_factor(progress: float) -> float:
    """Return the learning rate at `progress`, 0 to 1, as a share of the highest rate.

    The rate rises within the first 3 % of a run, and then falls along a cosine.
    """
    if progress < 0.03:
        return max(progress / 0.03, 0.02)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * (progress - 0.03) / 0.97))


def begin(init: Path | None) -> RefinedDAIN:
    """Make the network with the flow and depth of `dain-refined`.

    Args:
        init: weights of an earlier run, which replace all others. The network has the widths that their file names.
            Without it the parts that train are untrained.

    Raises:
        WeightsError: the weights cannot be read, or they are of another network.
    """
    config = (init and config_in(init)) or RefinedConfig()
    if not isinstance(config, RefinedConfig):
        raise WeightsError(f"{init} holds the weights of a network without refinement: name others (--init)")
    model = RefinedDAIN(config)
    shipped, own = load_weights("dain-refined"), model.state_dict()
    front = {name: shipped[name] for name in own if name.partition(".")[0] not in PARTS}
    given = {} if init is None else read(init)
    state = {**own, **front, **given}
    check_fit(state, config, init or shipped_path("dain-refined"))
    model.load_state_dict(state)
    return model


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="A folder of videos.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run."
)
@click.option("--minutes", type=Amount(min=0, min_open=True), required=True, help="Minutes of training.")
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights of an earlier run, such as run/last.safetensors, or of `dain compress prune`.",
)
@click.option(
    "--teacher",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Python file that defines `flows(first, last, time)`.",
)
@click.option(
    "--learn-from", help="A model whose flow, mask and frame are targets too, such as dain-refined."
)
@click.option(
    "--batch", default=Settings.batch, show_default=True, type=click.IntRange(1), help="Triplets in a step."
)
@click.option(
    "--crop",
    default=Settings.crop,
    show_default=True,
    nargs=2,
    type=click.IntRange(64),
    help="Height and width of a triplet, multiples of 64.",
)
@click.option(
    "--rate",
    default=Settings.rate,
    show_default=True,
    type=Amount(0, min_open=True),
    help="The highest learning rate.",
)
@click.option(
    "--flow-first",
    default=Settings.flow_first,
    show_default=True,
    type=Amount(0, 1),
    help="Share of the run at its start in which only pyramid and refinement learn.",
)
@click.option(
    "--psnr",
    default=Settings.psnr,
    show_default=True,
    type=Amount(min=0),
    help="Weight of PSNR in the last 40 % of the run.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile a step first, which takes minutes.")
@click.option("--device", default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True)
def command(
    data: tuple[Path, ...], out: Path, minutes: float, init: Path | None, teacher: Path | None,
    learn_from: str | None, batch: int, crop: tuple[int, int], rate: float, flow_first: float, psnr: float,
    compiled: bool, device: str, seed: int,
) -> None:  # fmt: skip
    """Train `dain-refined` on videos: flow, mask, kernels and rectification at the intermediate time."""
    if any(side % 64 for side in crop):
        raise click.UsageError(f"--crop {crop[0]} {crop[1]}: both sides must be multiples of 64")
    torch.manual_seed(seed)
    videos = sorted(path for folder in data for path in folder.iterdir() if path.is_file())
    try:
        place = named_device(device)
        footage = ResidentFootage(videos, crop, place, seed)
        model = begin(init)
        network = None if learn_from is None else teaching(learn_from)
    except (DeviceError, TrainingDataError, UnknownModelError, WeightsError) as error:
        raise click.ClickException(str(error)) from error
    settings = Settings(minutes, batch, crop, rate, flow_first, psnr=psnr, compiled=compiled)
    train(model, footage, None if teacher is None else teacher_of(teacher), settings, out, place, network)


if __name__ == "__main__":
    command()
