"""Draws a bank of shapes that cut objects out of their textures. A shape is a canvas of distances from its outline."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

#: The shares of the kinds of shapes among objects that are neither cut-outs nor pieces of figures.
SHARES = {"blob": 0.32, "polygon": 0.22, "strokes": 0.2, "bars": 0.07, "noise": 0.12, "ring": 0.07}


class Shapes:
    """Shapes as signed distances from their outlines.

    Args:
        canvas: the width and height S of a canvas in pixels.
        per_kind: the number of shapes of each kind.
        generator: the source of random numbers.
        device: the device that stores the shapes.

    Attributes:
        distances: (shapes, S, S), float16, negative inside, in units of half a canvas.
        kinds: the indices of the shapes of each kind. The kinds are those of SHARES, "limb" and "body" (a thin and a
            thick bar along x, from -0.7 to 0.7), and "whole" (the whole canvas).
    """

    def __init__(self, canvas: int, per_kind: int, generator: torch.Generator, device: torch.device) -> None:
        kinds: dict[str, Callable[[_Draw], Tensor]] = {
            "blob": _blobs,
            "polygon": _polygons,
            "strokes": _strokes,
            "bars": _bars,
            "noise": _noise,
            "ring": _rings,
            "limb": partial(_limbs, low=0.05, high=0.2),
            "body": partial(_limbs, low=0.15, high=0.4),
        }
        draw = _Draw(per_kind, canvas, generator, device)
        self.kinds = {name: range(i * per_kind, (i + 1) * per_kind) for i, name in enumerate(kinds)}
        self.kinds["whole"] = range(len(kinds) * per_kind, len(kinds) * per_kind + 1)
        whole = torch.maximum(draw.x.abs(), draw.y.abs()) - 0.97
        shapes = [make(draw).clamp(-1, 1).half() for make in kinds.values()]
        self.distances = torch.cat([*shapes, whole.half()])


class _Draw:
    """The tools for drawing `count` shapes of a kind: the points of a canvas, and random numbers for each shape."""

    def __init__(self, count: int, canvas: int, generator: torch.Generator, device: torch.device) -> None:
        self.count, self.canvas, self._generator, self._device = count, canvas, generator, device
        line = (torch.arange(canvas, device=device) + 0.5) * (2 / canvas) - 1
        self.x, self.y = line.view(1, 1, -1), line.view(1, -1, 1)

    def uniform(self, low: float, high: float) -> Tensor:
        """Draw a number for each shape, (count, 1, 1), with a uniform distribution."""
        return low + (high - low) * torch.rand(self.count, 1, 1, generator=self._generator).to(self._device)

    def log_uniform(self, low: float, high: float) -> Tensor:
        """Draw a number for each shape, (count, 1, 1), whose logarithm has a uniform distribution."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def full(self, value: float) -> Tensor:
        """Return canvases that are filled with `value`, (count, S, S)."""
        return self.x.new_full((self.count, self.canvas, self.canvas), value)

    def noise(self, cells: int) -> Tensor:
        """Draw smooth noise, (count, S, S), with about `cells` x `cells` hills."""
        coarse = torch.randn(self.count, 1, cells, cells, generator=self._generator).to(self._device)
        return F.interpolate(coarse, size=self.canvas, mode="bicubic", align_corners=False)[:, 0]

    def turned(self) -> tuple[Tensor, Tensor]:
        """Return the points of the canvas, x and y, rotated by a random angle for each shape."""
        angle = self.uniform(0, 2 * math.pi)
        return (
            self.x * angle.cos() + self.y * angle.sin(),
            self.y * angle.cos() - self.x * angle.sin(),
        )


def _blobs(draw: _Draw) -> Tensor:
    """Draw ellipses whose radius varies along the outline."""
    x, y = draw.turned()
    y = y * draw.uniform(1, 2)
    angle = torch.atan2(y, x)
    radius = torch.full_like(angle, 0.62)
    for wave in range(2, 7):
        swing = draw.uniform(-0.3, 0.3) / wave
        radius = radius + swing * torch.cos(wave * angle + draw.uniform(0, 2 * math.pi))
    return (torch.hypot(x, y) - radius) * 0.85  # a varying radius overestimates distances


def _polygons(draw: _Draw) -> Tensor:
    """Draw intersections of three to eight half planes: triangles, boxes, rhombs, cut-off corners."""
    edges = draw.uniform(3, 9).floor()
    turn, uneven = draw.uniform(0, 2 * math.pi), draw.uniform(0, 0.8)
    distance = draw.full(-9)
    for edge in range(8):
        angle = turn + (edge + uneven * draw.uniform(-0.5, 0.5)) * 2 * math.pi / edges
        beyond = draw.x * angle.cos() + draw.y * angle.sin() - draw.uniform(0.3, 0.75)
        distance = torch.where(edge < edges, torch.maximum(distance, beyond), distance)
    return torch.maximum(distance, torch.hypot(draw.x, draw.y) - 0.95)


def _strokes(draw: _Draw) -> Tensor:
    """Draw one to six straight strokes: wires, branches, legs.

    A stroke starts at the end of the stroke before it, or anywhere.
    """
    width, connected = draw.log_uniform(0.008, 0.1), draw.uniform(0, 1) < 0.6
    strokes = draw.uniform(1, 7).floor()
    start = draw.uniform(-0.8, 0.8), draw.uniform(-0.8, 0.8)
    distance = draw.full(9)
    for stroke in range(6):
        end = draw.uniform(-0.85, 0.85), draw.uniform(-0.85, 0.85)
        each = _from_segment(draw.x, draw.y, start, end) - width * draw.uniform(0.6, 1.2)
        distance = torch.where(stroke < strokes, torch.minimum(distance, each), distance)
        elsewhere = draw.uniform(-0.8, 0.8), draw.uniform(-0.8, 0.8)
        start = (
            torch.where(connected, end[0], elsewhere[0]),
            torch.where(connected, end[1], elsewhere[1]),
        )
    return distance


def _limbs(draw: _Draw, low: float, high: float) -> Tensor:
    """Draw bars with round ends that get thinner towards one end. Their half widths lie between `low` and `high`."""
    along = ((draw.x + 0.7) / 1.4).clamp(0, 1)
    radius = draw.log_uniform(low, high) * (1 - along * draw.uniform(0, 0.5))
    return torch.hypot(draw.x - draw.x.clamp(-0.7, 0.7), draw.y) - radius


def _bars(draw: _Draw) -> Tensor:
    """A fence or a grid: what is behind it shows between its bars."""
    x, y = draw.turned()
    period = draw.log_uniform(0.12, 0.7)
    width = period * draw.uniform(0.06, 0.4)
    across = ((x / period) - (x / period).round()).abs() * period - width / 2
    along = ((y / period) - (y / period).round()).abs() * period - width / 2
    grid = draw.uniform(0, 1) < 0.4
    bars = torch.where(grid, torch.minimum(across, along), across)
    return torch.maximum(bars, torch.maximum(draw.x.abs(), draw.y.abs()) - 0.96)


def _rings(draw: _Draw) -> Tensor:
    """Draw outlines of ellipses."""
    x, y = draw.turned()
    return (torch.hypot(x, y * draw.uniform(1, 1.8)) - 0.8).abs() - draw.log_uniform(0.015, 0.12)


def _noise(draw: _Draw) -> Tensor:
    """Draw the regions in which smooth noise is above a threshold: foliage, clouds, splashes."""
    height = draw.noise(5) + 0.5 * draw.noise(11) + 0.2 * draw.noise(23)
    slope = torch.stack(torch.gradient(height, spacing=2 / draw.canvas, dim=(1, 2))).norm(dim=0)
    distance = (draw.uniform(-0.2, 0.5) - height) / slope.clamp(min=0.5)
    return torch.maximum(distance, torch.hypot(draw.x, draw.y) - 0.95)


def _from_segment(x: Tensor, y: Tensor, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """Return the distance of points from the straight line between `start` and `end`."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = (((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy + 1e-6)).clamp(0, 1)
    return torch.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
