"""Small and thin things that fly over triplets, such as balls and rods: footage has few, and nothing is as hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: The share of triplets with such things, and the largest number of them in a triplet.
_SHARE, _MOST = 0.2, 3
#: The least and the largest motion from the first frame to the last, radius, and length of a rod, in pixels.
_MOTIONS, _RADII, _LENGTHS = (4.0, 160.0), (0.6, 24.0), (16.0, 200.0)
#: The share of balls, which are rods without length; and how far a rod turns at most, in radians.
_BALLS, _TURN = 0.5, 0.6


@dataclass(frozen=True)
class Capsule:
    """All points within a radius of a line, whose ends move evenly.

    Attributes:
        first, last: row and column of both ends in the first and in the last frame, (2, 2), in pixels.
        radius: in pixels.
        colour: in levels of 255, of three channels.
    """

    first: np.ndarray
    last: np.ndarray
    radius: float
    colour: np.ndarray

    def cover(self, time: float, height: int, width: int, device: torch.device) -> Tensor:
        """Return how much of each pixel the capsule covers at a time, 0 to 1, (height, width)."""
        (row, column), (to_row, to_column) = self.first + time * (self.last - self.first)
        down, across = to_row - row, to_column - column
        rows = torch.arange(height, device=device)[:, None] - row
        columns = torch.arange(width, device=device) - column
        along = ((rows * down + columns * across) / max(down**2 + across**2, 1e-6)).clamp(0, 1)
        distance = torch.hypot(rows - along * down, columns - along * across)
        return (self.radius + 0.5 - distance).clamp(0, 1)


def random_capsule(random: np.random.Generator, height: int, width: int) -> Capsule:
    """Draw a capsule whose middle is in the frame halfway between the first frame and the last."""

    def between(least: float, largest: float) -> float:
        return float(np.exp(random.uniform(np.log(least), np.log(largest))))

    def direction(angle: float) -> np.ndarray:
        return np.array([np.sin(angle), np.cos(angle)])

    ball = random.random() < _BALLS
    radius = between(_RADII[0] if not ball else 1.5, _RADII[1] if ball else 4.0)
    half = 0.0 if ball else between(*_LENGTHS) / 2
    angle, turn = random.uniform(0, 2 * np.pi), random.uniform(-_TURN, _TURN) / 2
    centre = random.uniform((0, 0), (height, width))
    way = between(*_MOTIONS) * direction(random.uniform(0, 2 * np.pi)) / 2
    first, last = (
        np.stack([middle - half * direction(turned), middle + half * direction(turned)])
        for middle, turned in ((centre - way, angle - turn), (centre + way, angle + turn))
    )
    return Capsule(first, last, radius, random.uniform(0, 255, 3))


def draw_capsules(frames: Tensor, times: Sequence[float], random: np.random.Generator) -> None:
    """Draw capsules over some of the triplets.

    Args:
        frames: (N, 3, 3, H, W), in levels of 255: first, middle and last frame of each triplet. They are changed.
        times: the times of the middle frames.
        random: the source of all random numbers.
    """
    height, width = frames.shape[-2:]
    for triplet, time in zip(frames, times, strict=True):
        count = int(random.integers(1, _MOST + 1)) if random.random() < _SHARE else 0
        for _ in range(count):
            capsule = random_capsule(random, height, width)
            colour = torch.tensor(capsule.colour, dtype=frames.dtype, device=frames.device).view(3, 1, 1)
            for frame, at in zip(triplet, (0.0, time, 1.0), strict=True):
                frame.lerp_(
                    colour.expand_as(frame), capsule.cover(at, height, width, frames.device).to(frame.dtype)
                )
