"""A step of learning, which is a CUDA graph on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dain_core.training.muon import Muon
from dain_core.training.resident import Triplets

Loss = Callable[[Triplets], tuple[Tensor, dict[str, Tensor]]]

#: The share of a weight that a step of rate 1 takes away.
_DECAY = 1e-4


class Step:
    """A step of learning: it computes and clips the gradients of a batch, and the optimisers change the weights.

    `Muon` moves the weights of convolutions, and AdamW their biases.

    On a GPU a step is a CUDA graph. It has about three thousand kernels, most of which are short, so that launching
    them one by one takes longer than running them.

    Args:
        loss: gives the loss of a batch, and figures to watch.
        weights: the weights that train.
        rate: the initial learning rate.
        device: the device of the weights.

    Attributes:
        rate: the learning rate, a scalar tensor that may be changed in place.
    """

    def __init__(
        self, loss: Loss, weights: Sequence[nn.Parameter], rate: float, device: torch.device
    ) -> None:
        self._loss, self._weights, self._device = loss, list(weights), device
        self.rate = torch.tensor(rate, device=device)
        self._muon = Muon([weight for weight in self._weights if weight.dim() == 4], self.rate, _DECAY)
        biases = [weight for weight in self._weights if weight.dim() < 4]
        self._optimiser = torch.optim.AdamW(
            biases, lr=self.rate, betas=(0.9, 0.99), weight_decay=_DECAY, fused=True,
            capturable=device.type == "cuda",
        )  # fmt: skip
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static: list[Tensor] = []
        self._figures: dict[str, Tensor] = {}

    def __call__(self, batch: Triplets) -> dict[str, Tensor]:
        """Learn from `batch`; return the figures. The next step overwrites them."""
        if self._device.type != "cuda":
            return self.eager(batch)
        given = [batch.first, batch.middle, batch.last, batch.time]
        if self._graph is None:
            self._static = [part.clone() for part in given]
            self._graph = self._captured()
        for static, part in zip(self._static, given, strict=True):
            static.copy_(part)
        self._graph.replay()
        return self._figures

    def renew(self) -> None:
        """Forget the CUDA graph, because the loss computes something else from now on."""
        self._graph = None

    def eager(self, batch: Triplets) -> dict[str, Tensor]:
        """Make the same step without a CUDA graph."""
        self._clear()
        return self._learn(batch)

    def _clear(self) -> None:
        for weight in self._weights:
            weight.grad = None

    def _learn(self, batch: Triplets) -> dict[str, Tensor]:
        loss, figures = self._loss(batch)
        loss.backward()
        figures["gradient"] = torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        figures["loss"] = loss.detach()
        sound = figures["gradient"].isfinite()
        self._muon.step(sound)
        # The fused optimiser does not change the weights if this is 1.
        self._optimiser.found_inf = 1 - sound.float()  # type: ignore[attr-defined]
        self._optimiser.grad_scale = None  # type: ignore[attr-defined]
        self._optimiser.step()
        return figures

    def _captured(self) -> torch.cuda.CUDAGraph:
        batch = Triplets(*self._static)
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.eager(batch)
        torch.cuda.current_stream(self._device).wait_stream(side)
        self._clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._figures = self._learn(batch)
        return graph
