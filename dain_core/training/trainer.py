"""The state of a training run (network, averaged weights, optimiser, scale of the loss) and the step that changes it.

A step takes the gradients of one or several batches. The averaged weights follow the weights after each step.
"""

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
from dain_core.network.modules.layers import lay_out
from dain_core.training.batch import Batch
from dain_core.training.config import TrainConfig
from dain_core.training.errors import TrainingError
from dain_core.training.frozen import Teacher
from dain_core.training.objective import Objective
from dain_core.training.precision import Masters, NanWatch, NonFiniteError, Precision, require_finite
from dain_core.training.ranks import Ranks

#: The learning rate at the end of a run, as a share of the highest rate.
_LAST_RATE = 0.005


def rate_factor(progress: float, warm_up: float) -> float:
    """Return the learning rate at `progress`, 0 to 1, as a share of the highest rate.

    The rate rises in a straight line until `warm_up`, and then falls along a cosine.
    """
    if progress < warm_up:
        return max(progress / warm_up, _LAST_RATE)
    fall = (progress - warm_up) / (1 - warm_up)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fall))


class Trainer:
    """The network, the average of its weights, the optimiser and the scale of the loss.

    Args:
        model: the network, on its device. The trainer changes the precision and the layout of its weights, and sets
            which of them have gradients.
        config: the settings of the run.
        ranks: this process among all of the run.
        teacher, fresh_depth: see `Objective`.

    Attributes:
        steps: the number of steps so far.
        precision: the level of precision.
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
        self.model = model
        self.steps = 0
        self._config = config
        self.precision = precision = Precision.named(config.precision)
        precision.cast(model)
        lay_out(model.parameters())
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
        """Make one step from the gradients of all `batches`.

        The weights do not change if a gradient is not finite. Nothing here waits for the device.

        Args:
            batches: the batches whose gradients are added up.
            progress: the share of the run that is done, 0 to 1. It determines the learning rate.

        Returns:
            The figures of `Objective`, and the norm of the gradient of each part, (2,) each: sum and count.
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
        """Move the average towards the weights. It follows them more closely in the first steps."""
        kept = min(self._config.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._average, list(self._masters.weights), 1 - kept)

    def averaged(self) -> dict[str, Tensor]:
        """Return the state dict of the network, with official keys and the averaged weights of the parts that train."""
        average = zip(map(official_key, self._names), self._average, strict=True)
        return {**self.model.state_dict(), **dict(average)}

    def explain(self, batches: Sequence[Batch], progress: float, step: int) -> None:
        """Repeat a step that was not finite, up to its gradients, to find its first number that is not finite.

        Raises:
            NonFiniteError: always; the message says where the number came up, and what to do.
        """
        advice = "train with a lower learning rate (--lr) or a higher --precision, from the last checkpoint (--resume)"
        self._optimiser.zero_grad()
        try:
            for batch in batches:
                unknown = batch.flows.isnan()  # NaN is valid here
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
            f"step {step}: a gradient was not finite, but all numbers were finite when the step was repeated; {advice}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to continue from this step."""
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
        """Continue from the step at which `state_dict` was called.

        Raises:
            TrainingError: other parts trained in that run.
        """
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
