"""The optimiser Muon for the weights of convolutions. PyTorch's own takes matrices alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: The momentum of the gradients.
_MOMENTUM = 0.95
#: The coefficients of a Newton-Schulz iteration that brings all singular values near 1 (Jordan, 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
#: The root mean square of an update at rate 1: about that of AdamW (Liu et al., 2025).
_SIZE = 0.2


class Muon:
    """Moves weights along their orthogonalised momentum (Jordan, 2024; Liu et al., 2025).

    A convolution's weight is seen as a matrix of its output channels by all else. A step moves all directions of the
    matrix equally far, so that rare ones learn as fast as frequent ones. Steps can be part of a CUDA graph.

    Args:
        weights: the weights, of two or more dimensions.
        rate: the learning rate, a scalar tensor that may be changed in place. Rates that suit AdamW suit it.
        decay: the share of a weight that a step of rate 1 takes away.
    """

    def __init__(self, weights: Sequence[Tensor], rate: Tensor, decay: float) -> None:
        self._rate, self._decay = rate, decay
        groups: dict[tuple[int, int], list[Tensor]] = {}
        for weight in weights:
            groups.setdefault((len(weight), weight[0].numel()), []).append(weight)
        self._groups = [
            (group, torch.zeros((len(group), *shape), device=rate.device)) for shape, group in groups.items()
        ]

    @torch.no_grad()
    def step(self, sound: Tensor) -> None:
        """Change the weights by their gradients; one without a gradient goes on by its momentum.

        Args:
            sound: a scalar of type bool. Where it is False, gradients count as zero.
        """
        for weights, momentum in self._groups:
            parts = (torch.zeros_like(w) if w.grad is None else w.grad for w in weights)
            gradient = torch.stack([part.flatten(1).float() for part in parts])
            gradient = torch.where(sound, gradient, 0)
            momentum.lerp_(gradient, 1 - _MOMENTUM)
            step = self._rate * _SIZE * max(momentum.shape[1:]) ** 0.5
            changes = step * _orthogonal(gradient.lerp(momentum, _MOMENTUM))
            for weight, change in zip(weights, changes.unbind(), strict=True):
                weight.mul_(1 - self._rate * self._decay).sub_(change.view_as(weight))


def _orthogonal(matrices: Tensor) -> Tensor:
    """Return the nearest matrices with orthonormal rows or columns, roughly, of matrices (N, rows, columns)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()
