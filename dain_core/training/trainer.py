"""All that changes while a network trains, and the step that changes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dain_core.network.keys import official_key
from dain_core.network.model import DAIN
from dain_core.training.batch import Batch
from dain_core.training.config import TrainConfig
from dain_core.training.errors import TrainingError
from dain_core.training.frozen import Teacher
from dain_core.training.objective import Objective
from dain_core.training.precision import Masters, NanWatch, NonFiniteError, Precision, require_finite
from dain_core.training.ranks import Ranks

#: What remains of the learning rate at the end.
_LAST_RATE = 0.005


def rate_factor(progress: float, warm_up: float) -> float:
    """One cycle: up in a straight line, then down along a cosine."""
    if progress < warm_up:
        return max(progress / warm_up, _LAST_RATE)
    fall = (progress - warm_up) / (1 - warm_up)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fall))


class Trainer:
    """The network, the average of its weights, the optimiser and the scale of the loss.

    Attributes:
        steps: how many have been made.
        precision: the level.
    """

    def __init__(
        self,
        model: DAIN,
        config: TrainConfig,
        ranks: Ranks,
        *,
        teacher: Teacher | None = None,
        fresh_depth: bool = False,
    ) -> None:
        """Takes the model over: its weights change their precision and layout, and whether they have gradients."""
        self.model = model
        self.steps = 0
        self._config = config
        self.precision = precision = Precision.named(config.precision)
        precision.cast(model)
        for weight in model.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self.objective = Objective(
            model,
            config.parts,
            precision,
            weights=config.weights,
            teacher=teacher,
            fresh_depth=fresh_depth,
        )
        self._parallel: DistributedDataParallel | None = None
        if ranks.count > 1:
            self._parallel = DistributedDataParallel(
                self.objective, broadcast_buffers=False, gradient_as_bucket_view=True
            )

        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._names = list(trained)
        self._masters = Masters(list(trained.values()))
        self._average = [weight.detach().clone() for weight in self._masters.weights]
        self._scaler = precision.scaler(ranks.device)
        groups: dict[tuple[str, float], list[nn.Parameter]] = {}
        for name, weight in zip(self._names, self._masters.weights, strict=True):
            groups.setdefault((name.partition(".")[0], config.rate_of(name)), []).append(weight)
        self._groups = [(part, rate, weights) for (part, rate), weights in groups.items()]
        self._optimiser = torch.optim.AdamW(
            [{"params": weights} for _, _, weights in self._groups],
            lr=config.rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, batches: Sequence[Batch], progress: float) -> dict[str, Tensor]:
        """Learn from some batches at once, with the learning rate of this share of the run.

        Weights stay as they are if a gradient is not finite. Nothing here waits for the device.

        Returns:
            What `Objective` watches, and the norms of the parts' gradients, likewise: (2,) each.
        """
        watched: dict[str, Tensor] = {}
        for batch in batches:
            last = batch is batches[-1]
            with nullcontext() if self._parallel is None or last else self._parallel.no_sync():
                loss, figures = (self._parallel or self.objective)(batch, progress)
                self._scaler.scale(loss / len(batches)).backward()
            watched = {name: watched.get(name, 0) + figure for name, figure in figures.items()}

        self._masters.take_gradients()
        self._scaler.unscale_(self._optimiser)
        watched |= self._clip_gradients()
        factor = rate_factor(progress, self._config.warm_up)
        for group, (_, rate, _) in zip(self._optimiser.param_groups, self._groups, strict=True):
            group["lr"] = rate * factor
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad()
        self._masters.give_values()
        self.steps += 1
        self._follow()
        return watched

    def _clip_gradients(self) -> dict[str, Tensor]:
        watched = {}
        for chosen in dict.fromkeys(part for part, _, _ in self._groups):
            weights = [weight for part, _, group in self._groups if part == chosen for weight in group]
            norm = nn.utils.clip_grad_norm_(weights, self._config.clip, foreach=True)
            watched[f"gradient_{chosen}"] = torch.stack((norm, torch.ones_like(norm)))
        return watched

    @torch.no_grad()
    def _follow(self) -> None:
        """The average follows the weights, at first closely."""
        kept = min(self._config.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._average, list(self._masters.weights), 1 - kept)

    def averaged(self) -> dict[str, Tensor]:
        """The network's state dict, official keys, with the averaged weights of the parts that train."""
        average = zip(map(official_key, self._names), self._average, strict=True)
        return {**self.model.state_dict(), **dict(average)}

    def explain(self, batches: Sequence[Batch], progress: float, step: int) -> None:
        """Make a step that was not finite again, up to its gradients, and raise NonFiniteError that says where it went
        wrong."""
        advice = "train with a lower learning rate (--lr) or a higher --precision, from the last checkpoint (--resume)"
        self._optimiser.zero_grad()
        try:
            for batch in batches:
                unknown = batch.flows.isnan()  # which is no fault
                for name, tensor in vars(replace(batch, flows=batch.flows.masked_fill(unknown, 0))).items():
                    if tensor.is_floating_point():
                        require_finite(tensor, f"`{name}` of the training data")
                with NanWatch(self.model):
                    loss, figures = self.objective(batch, progress)
                    for name, figure in figures.items():
                        require_finite(figure, f"the loss, in its term {name}")
                    self._scaler.scale(loss).backward()
        except NonFiniteError as error:
            raise NonFiniteError(f"step {step}: {error}; {advice}") from error
        finally:
            self._optimiser.zero_grad()
            self.model.zero_grad()
        raise NonFiniteError(
            f"step {step}: a gradient was not finite, and all was when the step was made again here; {advice}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "model": self.model.state_dict(),
            "masters": [weight.detach() for weight in self._masters.weights],
            "average": self._average,
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "names": self._names,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; TrainingError if other parts trained."""
        if state["names"] != self._names:
            parts = dict.fromkeys(name.partition(".")[0] for name in state["names"])
            raise TrainingError(
                f"the checkpoint's run trained {', '.join(parts)}: resume with the same parts"
            )
        self.steps = state["steps"]
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            torch._foreach_copy_(list(self._masters.weights), list(state["masters"]))
            torch._foreach_copy_(self._average, list(state["average"]))
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
