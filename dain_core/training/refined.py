"""Trains the refinement at the intermediate time, and all that follows it, on footage that lies on the device.

    python -m dain_core.training.refined --data clips --out run --minutes 20 --teacher teacher.py
    python -m dain_core.training.refined --data clips --out next --minutes 20 --init run/last.safetensors

Flow and depth stay as they begin, those of `dain-lite`. Feature pyramid, refinement, kernels and rectification train.

A teacher is a Python file with a function `flows(first, last, time)`. It is given frames (N, 3, H, W) in [0, 1] and
times (N, 1, 1, 1), and returns the flow from the frame between to both ends, (N, 4, H, W), in pixels. That flow is a
target where the teacher's warped frame is nearer to the truth than ours (RIFE has such a teacher; Huang et al., 2022).
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.model import CONFIGS, DAIN
from dain_core.network.modules.pyramid import image_pyramid
from dain_core.network.modules.refinement import Refined, sample, sample_both
from dain_core.network.refined import RefinedDAIN, RefinedSynthesis
from dain_core.runtime.devices import DeviceError, named_device
from dain_core.training import losses
from dain_core.training.batch import TrainingDataError
from dain_core.training.resident import ResidentFootage, Triplets
from dain_core.weights.files import WeightsError, load_weights, read, save

Teacher = Callable[[Tensor, Tensor, Tensor], Tensor]

#: The parts that train.
PARTS = ("context", "refine", "rectify")
#: What remains of the rate at the end.
_LAST_RATE = 0.01
#: Steps between two looks at how far a step moves each layer.
_LOOK_EVERY = 200


@dataclass(frozen=True)
class Settings:
    """One run.

    Attributes:
        minutes: how long.
        batch: triplets a step.
        crop: height and width of a triplet, multiples of 64.
        rate: the highest learning rate.
        flow_first: the share of the run in which only pyramid and refinement learn, from the blend.
        flow: the weight of the teacher's flow.
        psnr: the weight of the logarithm of the squared error, in the last two fifths of the run.
    """

    minutes: float
    batch: int = 32
    crop: tuple[int, int] = (256, 384)
    rate: float = 4e-4
    flow_first: float = 0.3
    flow: float = 0.02
    psnr: float = 0.01


def photometric(made: Tensor, truth: Tensor) -> Tensor:
    """How far a frame is off: its pixels, and its Laplacian pyramid."""
    difference = made.float() - truth
    return losses.charbonnier(difference) + 0.5 * losses.laplacian(difference)


def step_blends(batch: Triplets, steps: Sequence[Refined]) -> Iterator[tuple[Tensor, Tensor]]:
    """For each block, the frame between that both ends give, warped bilinearly, and the truth, at the block's size."""
    levels = len(steps) - 1
    firsts, truths, lasts = (image_pyramid(x, levels) for x in (batch.first, batch.middle, batch.last))
    for level, step in zip(range(levels, -1, -1), steps, strict=True):
        one, two = sample_both(firsts[level], lasts[level], step.flows, 2**level).chunk(2, 1)
        share = step.logit.sigmoid()
        yield share * one + (1 - share) * two, truths[level]


def taught(batch: Triplets, steps: Sequence[Refined], target: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """The distance to the teacher's flow `target` (N, 4, H, W) where it is the better one, over all blocks.

    Args:
        floor: the weight of a pixel where it is not.

    Returns:
        The loss, and the mean end-point error of the last block in pixels.
    """
    ours = steps[-1].flows.detach()
    weights = []
    for end, flows in ((batch.first, slice(0, 2)), (batch.last, slice(2, 4))):
        errors = [
            F.avg_pool2d((sample(end, flow[:, flows]) - batch.middle).abs().mean(1, keepdim=True), 7, 1, 3)
            for flow in (target, ours)
        ]
        weights.append((errors[0] < errors[1]).float().clamp(min=floor))
    targets, shares = (
        image_pyramid(target, len(steps) - 1),
        image_pyramid(torch.cat(weights, 1), len(steps) - 1),
    )
    total = target.new_zeros(())
    for level, step in zip(range(len(steps) - 1, -1, -1), steps, strict=True):
        error = (step.flows - targets[level]).square().view(len(target), 2, 2, *step.flows.shape[2:]).sum(2)
        total = total + (shares[level] * (error + 0.01).pow(0.4)).mean() / len(steps)
    return total, error.detach().sqrt().mean()


class Objective(nn.Module):
    """The loss of a batch, and the figures that are watched."""

    def __init__(self, model: RefinedDAIN, settings: Settings, teacher: Teacher | None) -> None:
        super().__init__()
        self.model, self._settings, self._teacher = model, settings, teacher

    def stage(self, progress: float) -> int:
        """0: pyramid and refinement learn from the bilinear blend. 1: all learns. 2: all learns, from PSNR as well."""
        return (progress >= self._settings.flow_first) + (progress >= max(0.6, self._settings.flow_first))

    def forward(self, batch: Triplets, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, and the figures by name, scalars."""
        stage = self.stage(progress)
        steps, made = self._made(batch, rectifies=stage > 0)
        *coarse, (frame, truth) = step_blends(batch, steps)
        rough = torch.stack([losses.charbonnier(frame.float() - truth) for frame, truth in coarse]).mean()
        loss = (1.0 if made is None else 0.2) * photometric(frame, truth) + 0.3 * rough
        figures = {"share": steps[-1].logit.detach().sigmoid().std()}
        if made is None:
            figures["psnr_blend"] = psnr(frame, truth)
        else:
            loss = loss + photometric(made.output, truth) + 0.5 * photometric(made.blend, truth)
            figures |= {"psnr_output": psnr(made.output, truth), "psnr_blend": psnr(made.blend, truth)}
        if made is not None and stage == 2:
            loss = loss + self._settings.psnr * losses.log_error(made.output - truth)
        if self._teacher is not None and self._settings.flow:
            target, figures["psnr_teacher"] = self._target(batch, self._teacher)
            distance, figures["epe"] = taught(batch, steps, target, (0.1, 0.03, 0.0)[stage])
            loss = loss + self._settings.flow * distance
        return loss, figures

    def _made(self, batch: Triplets, rectifies: bool) -> tuple[list[Refined], RefinedSynthesis | None]:
        """What is known after each block, and the frame, unless only the flow is wanted."""
        model = self.model
        with torch.autocast(batch.first.device.type, torch.bfloat16):
            one, two = model.features(torch.cat((batch.first, batch.last))).halves()
            projected = model.projected(one, two, model.motion(one, two), batch.time)
            if rectifies:
                made = model.refined(one, two, projected, batch.time)
                return made.steps, made
            images, contexts = (batch.first, batch.last), (one.context, two.context)
            return model.refine(images, contexts, projected, batch.time)[0], None

    @torch.no_grad()
    def _target(self, batch: Triplets, teacher: Teacher) -> tuple[Tensor, Tensor]:
        """The teacher's flow, and the PSNR of the mean of both ends that it warps."""
        target = teacher(batch.first, batch.last, batch.time).float()
        first, last = sample_both(batch.first, batch.last, target, 1).chunk(2, 1)
        return target, psnr((1 - batch.time) * first + batch.time * last, batch.middle)


@torch.no_grad()
def psnr(made: Tensor, truth: Tensor) -> Tensor:
    """The mean over images (N, 3, H, W), in dB."""
    error = (made.detach().float().clamp(0, 1) - truth).square().mean((1, 2, 3))
    return (-10 * (error + 1e-8).log10()).mean()


class Step:
    """One step of learning: gradients of a batch, clipped, and what the optimiser makes of them.

    On a GPU a step is a CUDA graph. It has some three thousand kernels, most of them short: launching them one by one
    takes longer than running them.
    """

    def __init__(
        self, objective: Objective, weights: Sequence[nn.Parameter], rate: float, device: torch.device
    ) -> None:
        self._objective, self._weights, self._device = objective, list(weights), device
        self.rate = torch.tensor(rate, device=device)
        self._optimiser = torch.optim.AdamW(
            self._weights, lr=self.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True,
            capturable=device.type == "cuda",
        )  # fmt: skip
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stage = -1
        self._static: list[Tensor] = []
        self._figures: dict[str, Tensor] = {}

    def __call__(self, batch: Triplets, progress: float) -> dict[str, Tensor]:
        """Learn from `batch`; the figures are overwritten by the next step."""
        if self._device.type != "cuda":
            return self.eager(batch, progress)
        given = [batch.first, batch.middle, batch.last, batch.time]
        stage = self._objective.stage(progress)
        if stage != self._stage:
            self._graph, self._stage, self._static = None, stage, [part.clone() for part in given]
            self._capture(progress)
        for static, part in zip(self._static, given, strict=True):
            static.copy_(part)
        assert self._graph
        self._graph.replay()
        return self._figures

    def eager(self, batch: Triplets, progress: float) -> dict[str, Tensor]:
        """The same step, its kernels launched one by one."""
        self._optimiser.zero_grad(set_to_none=True)
        return self._learn(batch, progress)

    def _learn(self, batch: Triplets, progress: float) -> dict[str, Tensor]:
        loss, figures = self._objective(batch, progress)
        loss.backward()
        figures["gradient"] = torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        figures["loss"] = loss.detach()
        # The fused optimiser leaves weights as they are where this is 1.
        self._optimiser.found_inf = 1 - figures["gradient"].isfinite().float()  # type: ignore[attr-defined]
        self._optimiser.grad_scale = None  # type: ignore[attr-defined]
        self._optimiser.step()
        return figures

    def _capture(self, progress: float) -> None:
        batch = Triplets(*self._static)
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.eager(batch, progress)
        torch.cuda.current_stream(self._device).wait_stream(side)
        self._optimiser.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._figures = self._learn(batch, progress)


def train(
    model: RefinedDAIN,
    footage: ResidentFootage,
    teacher: Teacher | None,
    settings: Settings,
    out: Path,
    device: torch.device,
) -> None:
    """Train `model` for `settings.minutes`; its averaged weights come to lie in `out`, with a log."""
    out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    model.to(device)
    weights = trainable(model)
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    learn = Step(Objective(model, settings, teacher), list(weights.values()), settings.rate, device)
    started = since = saved = time.monotonic()
    step, sums = 0, dict[str, Tensor]()
    while (progress := (time.monotonic() - started) / (60 * settings.minutes)) < 1:
        learn.rate.fill_(settings.rate * rate_factor(progress))
        looks = step % _LOOK_EVERY == _LOOK_EVERY - 1
        batch = footage.sample(settings.batch)
        before = {name: weight.detach().clone() for name, weight in weights.items()} if looks else {}
        figures = learn(batch, progress)
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
            keep_weights(average, out / "weights.safetensors")
    keep_weights(average, out / "weights.safetensors")
    keep_weights(weights, out / "last.safetensors")


def trainable(model: RefinedDAIN) -> dict[str, nn.Parameter]:
    """Freeze what does not train, in bfloat16 where that loses nothing; returns the weights that train."""
    model.eval()
    for name, part in model.named_children():
        part.requires_grad_(name in PARTS)
    model.prepare_front(torch.bfloat16)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for weight in weights.values():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return weights


def updates(weights: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, float | str]:
    """How far a step moves layers, relative to their size: the median layer, the slowest one and its name."""
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


def keep_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights in half precision, complete or not at all."""
    save({name: value.detach().float().cpu() for name, value in weights.items()}, path, "fp16")


def rate_factor(progress: float) -> float:
    """Up within the first 3 % of a run, then down along a cosine."""
    if progress < 0.03:
        return max(progress / 0.03, 0.02)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * (progress - 0.03) / 0.97))


def begin(init: Path | None) -> RefinedDAIN:
    """The network with the weights of a run before; else flow and depth of `dain-lite`, all else untrained."""
    model = RefinedDAIN()
    small = DAIN(CONFIGS["dain-lite"])
    small.load_state_dict(load_weights("dain-lite"))
    model.flow.load_state_dict(small.flow.state_dict())
    model.depth.load_state_dict(small.depth.state_dict())
    if init is not None:
        model.load_state_dict({**model.state_dict(), **read(init)})
    return model


def teacher_of(path: Path, device: torch.device) -> Teacher:
    """The function `flows` of a Python file, in half precision on a GPU."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    flows: Teacher = module.flows
    return flows


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="A folder of videos.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder of the run."
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), required=True, help="How long to train."
)
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights that a run before has left in its folder.",
)
@click.option(
    "--teacher",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Python file with `flows(first, last, time)`.",
)
@click.option(
    "--batch", default=Settings.batch, show_default=True, type=click.IntRange(1), help="Triplets a step."
)
@click.option(
    "--crop",
    default=Settings.crop,
    show_default=True,
    nargs=2,
    type=click.IntRange(64),
    help="Height and width of a triplet, multiples of 64.",
)
@click.option("--rate", default=Settings.rate, show_default=True, help="The highest learning rate.")
@click.option(
    "--flow-first",
    default=Settings.flow_first,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="The share of the run in which pyramid and refinement learn alone.",
)
@click.option("--device", default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True)
def command(data: tuple[Path, ...], out: Path, minutes: float, init: Path | None, teacher: Path | None, batch: int,
            crop: tuple[int, int], rate: float, flow_first: float, device: str, seed: int) -> None:  # fmt: skip
    """Train flow, mask, kernels and rectification at the intermediate time on the videos in DATA."""
    if any(side % 64 for side in crop):
        raise click.UsageError(f"--crop {crop[0]} {crop[1]}: both sides must be multiples of 64")
    videos = sorted(path for folder in data for path in folder.iterdir() if path.is_file())
    try:
        place = named_device(device)
        footage = ResidentFootage(videos, crop, place, seed)
        model = begin(init)
    except (DeviceError, TrainingDataError, WeightsError) as error:
        raise click.ClickException(str(error)) from error
    settings = Settings(minutes, batch, crop, rate, flow_first)
    train(model, footage, None if teacher is None else teacher_of(teacher, place), settings, out, place)


if __name__ == "__main__":
    command()
