"""The objective of training: the network's pass over a batch, and all losses of its results."""

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

#: For each loss, its weight at the start and at the end of a run.
WEIGHTS: Mapping[str, tuple[float, float]] = {
    "frame": (
        1.0,
        1.0,
    ),  # colours of the result: the rectified frame, or the blend where nothing is rectified
    "blend": (0.5, 0.2),  # colours of the blend, if the result is the rectified frame
    "census": (0.0, 0.0),  # `losses.census` of the result and of the blend
    "psnr": (0.0, 0.0),  # `losses.log_error` of the result
    "flow": (0.012, 0.004),
    "depth": (0.02, 0.02),
}

#: The accuracy of measured flow, in pixels.
MEASURED_TO = 1.0
#: The exponent of the flow's error at the start and at the end of a run. At first large errors dominate, then small
#: errors count more.
FLOW_POWER = (0.75, 0.5)


@dataclass(frozen=True)
class Pass:
    """The results of the network for N triplets.

    Attributes:
        levels: the flow, see `DAIN.flow_levels`; empty if no loss needs it.
        log_depth: the log depth of all first frames and then of all last frames, (2N, 1, H, W); None if no loss needs
            it.
        frames: "blend" and "output", (N, 3, H, W) each, if a loss needs them.
    """

    levels: list[Tensor]
    log_depth: Tensor | None
    frames: dict[str, Tensor]


class Objective(nn.Module):
    """The loss of a batch, and the figures to watch. Parts of the network that no loss needs are not run.

    All parts learn from the resulting frame. Flow, depth and kernels also learn from the blend before the
    rectification. Flow and depth also learn from the true flow and depth where the batch has them. A teacher supplies
    flow and depth where the batch lacks them.

    Args:
        model: the network. This class sets which of its parts have gradients and which are in training mode.
        parts: the names of the parts that train.
        precision: the precision of the network's pass. The losses are computed in float32.
        weights: constant weights of losses by name. They replace those of `WEIGHTS`. With a weight of 0 for "frame",
            only flow and depth train, which is faster.
        teacher: the teacher, if there is one.
        fresh_depth: whether depth starts from random weights. Its BatchNorm layers then learn their statistics.
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
        # The last layer is part of the official checkpoint, but nothing uses it.
        model.flow.up_flow[-1].requires_grad_(False)
        # In training mode the projection leaves its holes empty. The later parts must learn from filled holes, as in
        # inference.
        model.eval()
        model.depth.train("depth" in self._parts and fresh_depth)

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch.

        Args:
            batch: the triplets.
            progress: the share of the run that is done, 0 to 1.

        Returns:
            The loss, a scalar; and the figures to watch, without gradient: the terms of the loss before they are
            weighted, PSNR in dB and the end-point error in pixels. Each figure is (2,): the sum over triplets, and the
            number of triplets.
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
            # This cannot be done in __init__, because a run that resumes loads its weights later.
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
        """Return the terms of the loss before they are weighted, and further figures to watch."""
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
    """Return PSNR in dB of supervised triplets, which are synthetic, and of the other triplets, which are real."""
    watched = {}
    for name, frame in made.frames.items():
        error = (frame.clamp(0, 1) - batch.middle).square().mean((1, 2, 3))
        psnr = -10 * (error + 1e-8).log10()
        for kind, chosen in (("synthetic", batch.supervised), ("real", ~batch.supervised)):
            watched[f"psnr_{name}_{kind}"] = torch.stack(((psnr * chosen).sum(), chosen.sum()))
    return watched
