"""What training minimises: the network's pass over a batch, and every loss of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dain_core.network.model import DAIN
from dain_core.network.padding import Padding
from dain_core.training import losses
from dain_core.training.batch import Batch
from dain_core.training.frozen import KnownDepth, Teacher
from dain_core.training.precision import Precision

#: Loss -> its weight at the start and at the end of a run.
WEIGHTS: Mapping[str, tuple[float, float]] = {
    "frame": (1.0, 1.0),  # the result: the rectified frame, or the blend where nothing rectifies
    "blend": (0.5, 0.2),  # the blend beside the rectified frame
    "census": (0.0, 0.0),  # of both, beside the differences of colour
    "psnr": (0.0, 0.0),  # of the result, see `losses.log_error`
    "flow": (0.012, 0.004),
    "depth": (0.02, 0.02),
}

#: Flow that was measured, not made, is right to about so many pixels.
MEASURED_TO = 1.0
#: Of the flow's error, at the start and at the end of a run: first large errors are learned from, then small ones.
FLOW_POWER = (0.75, 0.5)


@dataclass(frozen=True)
class Pass:
    """What the network makes of N triplets.

    Attributes:
        levels: see `DAIN.flow_levels`; none if nothing needs them.
        log_depth: of all first and then all last frames, (2N, 1, H, W); None if nothing needs it.
        frames: "blend" and "output", (N, 3, H, W), as far as something learns from them.
    """

    levels: list[Tensor]
    log_depth: Tensor | None
    frames: dict[str, Tensor]


class Objective(nn.Module):
    """The loss of a batch, and figures to watch. What nothing learns from is not run.

    All that trains learns from the resulting frame; flow, depth and kernels also from the blend before it was
    rectified; flow and depth also from the truth, where the batch has it. With a teacher, what it says of flow and
    depth is the truth where there is none.

    Args:
        model: the network; sets which of its parts have gradients, and which are in training mode.
        parts: those that train.
        precision: of the network's pass; the losses are in float32.
        weights: of losses, by name, constant; instead of those of `WEIGHTS`. With 0 for the frame, flow and depth train
            alone, which is faster.
        teacher: what else to learn from.
        fresh_depth: depth starts from nothing, so that its BatchNorm layers have statistics to learn.
    """

    def __init__(
        self,
        model: DAIN,
        parts: Collection[str],
        precision: Precision,
        *,
        weights: Mapping[str, float] | None = None,
        teacher: Teacher | None = None,
        fresh_depth: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.weights = {**WEIGHTS, **{name: (weight, weight) for name, weight in (weights or {}).items()}}
        self._parts = frozenset(parts)
        self._teacher = teacher
        self._known_depth: KnownDepth | None = None
        for name, part in model.named_children():
            part.requires_grad_(name in self._parts)
        # The last one is in the official checkpoint and used by nothing.
        model.flow.up_flow[-1].requires_grad_(False)
        # In training mode the projection would leave its holes empty: what learns should see what it will see.
        model.eval()
        model.depth.train("depth" in self._parts and fresh_depth)

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch when the given share of the run, 0 to 1, is done.

        Returns:
            The loss, a scalar; and what to watch, without gradient: the terms of the loss before they are weighted,
            PSNR in dB and end-point error in pixels, each a sum over samples and the number of samples, (2,).
        """
        truth = self._teacher.teach(batch) if self._teacher else batch
        with self.precision.autocast(batch.first.device):
            made = self._run(batch)
        weights = {name: _between(ends, progress) for name, ends in self.weights.items()}
        terms, watched = self._compare(made, truth, weights, _between(FLOW_POWER, progress))
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        for name, term in {"loss": loss, **terms}.items():
            watched[name] = torch.stack((term.detach() * len(batch), torch.full_like(term, len(batch))))
        return loss, watched | _quality(made, batch)

    def _run(self, batch: Batch) -> Pass:
        model, parts = self.model, self._parts
        rectifies = bool(parts & {"context", "rectify"})
        pictures = torch.cat((batch.first, batch.last)).contiguous(memory_format=torch.channels_last)
        if not rectifies and self.weights["frame"] == (0, 0):
            return Pass(
                levels=self._flow_levels(pictures) if "flow" in parts else [],
                log_depth=model.log_depth(pictures) if "depth" in parts else None,
                frames={},
            )
        if "depth" not in parts and self._known_depth is None:
            # Only now: a run that is resumed gets its weights after this was made.
            self._known_depth = KnownDepth.of(model, self.precision.dtype)
        known_depth = self._known_depth(pictures) if self._known_depth else None
        features = model.features(pictures, with_context=rectifies, log_depth=known_depth)
        one, two = features.halves()
        levels = model.flow_levels(one.pyramid, two.pyramid)
        log_depth = -features.inverse_depth.log()

        motion, time = model.motion(one, two, levels), batch.time.view(-1, 1, 1, 1)
        if not rectifies:
            return Pass(levels, log_depth, {"blend": model.blend(one, two, motion, time).blend})
        result = model.synthesise(one, two, motion, time)
        return Pass(levels, log_depth, {"blend": result.blend, "output": result.output})

    def _flow_levels(self, pictures: Tensor) -> list[Tensor]:
        halves = zip(*(level.chunk(2) for level in self.model.flow_features(pictures)), strict=True)
        return self.model.flow_levels(*halves)

    def _compare(
        self, made: Pass, truth: Batch, weights: Mapping[str, float], flow_power: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms of the loss, and more to watch."""
        terms, watched = {}, {}
        for name, frame in made.frames.items():
            term = "frame" if frame is _result(made) else name
            difference = frame.float() - truth.middle
            terms[term] = losses.charbonnier(difference) + 0.5 * losses.laplacian(difference)
            if weights["census"]:
                terms[term] = terms[term] + weights["census"] * losses.census(frame, truth.middle)
            if weights["psnr"] and term == "frame":
                terms["psnr"] = losses.log_error(difference)
        if "flow" in self._parts:
            slack = torch.where(truth.supervised, 0.0, MEASURED_TO).repeat(2)
            flows = torch.cat(truth.flows.chunk(2, 1))
            unknown_around = Padding.of(flows, self.model.config.flow_multiple).add(flows, torch.nan)
            terms["flow"], error = losses.flow_error(made.levels, unknown_around, slack, flow_power)
            for name, chosen in (("epe", slack == 0), ("epe_measured", slack > 0)):
                chosen = chosen & error.isfinite()
                watched[name] = torch.stack((torch.where(chosen, error, 0).sum(), chosen.sum()))
        if "depth" in self._parts:
            assert made.log_depth is not None
            depth, known = torch.cat(truth.depth.chunk(2, 1)), truth.supervised.repeat(2)
            terms["depth"] = losses.depth_error(made.log_depth, depth, known)
        return terms, watched


def _between(ends: tuple[float, float], progress: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * progress


def _result(made: Pass) -> Tensor:
    return made.frames.get("output", made.frames["blend"])


@torch.no_grad()
def _quality(made: Pass, batch: Batch) -> dict[str, Tensor]:
    """PSNR of samples that have a true flow, which are synthetic, and of the others."""
    watched = {}
    for name, frame in made.frames.items():
        error = (frame.clamp(0, 1) - batch.middle).square().mean((1, 2, 3))
        psnr = -10 * (error + 1e-8).log10()
        for kind, chosen in (("synthetic", batch.supervised), ("real", ~batch.supervised)):
            watched[f"psnr_{name}_{kind}"] = torch.stack(((psnr * chosen).sum(), chosen.sum()))
    return watched
