"""How everything in a made scene lies and moves: drawn by numbers alone, for many scenes at once.

A scene is a background and up to OBJECTS objects, each flat and at its own depth, seen by a camera that pans (near
things by more than far ones), rolls and zooms. Time s runs from -0.5 (the first frame) to 0.5 (the last). Coordinates
are pixels from the frame's centre, x to the right and y down; an object's own are its canvas, [-1, 1] squared.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

OBJECTS = 12
#: In a scene with a figure the first objects are its pieces, each hanging from its parent by a joint: the body, the
#: head, then twice an arm's two halves and a leg's two halves.
PARENTS = (-1, 0, 0, 2, 0, 4, 0, 6, 0, 8)
BODY, HEAD = 0, 1
#: By piece, in lengths of the body: how long it is, and how far down its parent the joint is.
LENGTHS = np.array([1, 0.35, 0.5, 0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6])
JOINTS = np.array([0, 0, 0.08, 0.5, 0.08, 0.5, 1, 0.6, 1, 0.6])
#: The share of scenes in which objects and pans are five times as fast, as in a close-up of traffic.
_FAST = 0.3
#: The share of scenes with a close-up: something that reaches in from beyond the frame.
_CLOSE = 0.3
#: Half of a limb's length, in halves of its canvas (as shapes.py draws it).
LIMB = 0.7


@dataclass
class Layout:
    """N scenes of 1 + OBJECTS things, the background first. Fields without a note are (N, 1 + OBJECTS).

    Attributes:
        present: bool.
        figure: (N,) bool, whether the first objects are a figure's pieces.
        calm: (N,) bool, whether next to nothing moves.
        place, velocity: (..., 2), where the thing is at s = 0, and its own motion, pixels from first to last.
        angle, spin, growth: radians, radians and the logarithm of size from first to last.
        tilt: (..., 2), how it turns out of its plane, per pixel from first to last.
        size: (..., 2), half its canvas in pixels; a negative width mirrors it.
        disparity, slope: the inverse of depth in the frame's centre, and (..., 2) its change per pixel.
        ripple: (..., 2, 4), small waves of the surface: for x and for y (of the canvas) height, wave vector, phase.
        pan, pivot: (N, 2), the camera's motion as seen at the background, the point around which it rolls and zooms.
        roll, zoom: (N,).
    """

    present: Array
    figure: Array
    calm: Array
    place: Array
    velocity: Array
    angle: Array
    spin: Array
    growth: Array
    tilt: Array
    size: Array
    disparity: Array
    slope: Array
    ripple: Array
    pan: Array
    pivot: Array
    roll: Array
    zoom: Array

    def poses(self, times: Array) -> Array:
        """(N, T) times s -> (N, 1 + OBJECTS, T, 3, 3): homographies from canvas to pixels."""
        s = times[:, None, :]
        turn = similarity(
            self.place[:, :, None] + self.velocity[:, :, None] * s[..., None],
            self.angle[..., None] + self.spin[..., None] * s,
            np.exp(self.growth[..., None] * s),
        )
        tilt = self.tilt[:, :, None] * s[..., None]
        turn[..., 2, :2] = tilt
        turn[..., :2, :2] += turn[..., :2, 2:] * tilt[..., None, :]  # tilted first, then moved
        for piece, parent in enumerate(PARENTS):
            if parent >= 0:
                turn[self.figure, 1 + piece] = turn[self.figure, 1 + parent] @ turn[self.figure, 1 + piece]
        canvas = np.zeros((*self.size.shape[:2], 1, 3, 3))
        canvas[..., 0, 0] = self.size[..., :1]
        canvas[..., 1, 1] = self.size[..., 1:]
        canvas[..., 2, 2] = 1
        pieces = slice(1, 1 + len(PARENTS))
        canvas[self.figure, pieces, :, 0, 2] = LIMB * self.size[self.figure, pieces, :1]
        return self._camera(s) @ self._parallax(s) @ turn @ canvas

    def take(self, chosen: Array) -> Layout:
        """The scenes of these indices."""
        return Layout(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def _parallax(self, s: Array) -> Array:
        """What the camera's pan moves: each point by its inverse depth, so that a slanted plane shears."""
        plane = np.concatenate([self.slope, self.disparity[..., None]], -1) / self.disparity[:, :1, None]
        moved = np.zeros((*self.disparity.shape, s.shape[-1], 3, 3))
        moved[..., :2, :] = self.pan[:, None, None, :, None] * plane[:, :, None, None, :] * s[..., None, None]
        return moved + np.eye(3)

    def _camera(self, s: Array) -> Array:
        turned = similarity(
            self.pivot[:, None, None], self.roll[:, None, None] * s, np.exp(self.zoom[:, None, None] * s)
        )
        to_pivot = np.broadcast_to(np.eye(3), turned.shape).copy()
        to_pivot[..., :2, 2] = -self.pivot[:, None, None]
        return turned @ to_pivot


def similarity(place: Array, angle: Array, scale: Array) -> Array:
    """(..., 2), (...), (...) -> (..., 3, 3): scaled, turned, then moved."""
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = np.cos(angle) * scale
    matrix[..., 1, 0] = np.sin(angle) * scale
    matrix[..., 0, 1] = -matrix[..., 1, 0]
    matrix[..., :2, 2] = place
    matrix[..., 2, 2] = 1
    return matrix


def draw_layout(
    rng: np.random.Generator, n: int, height: int, width: int, *, speed: float = 1, easy: float = 0
) -> Layout:
    """N scenes.

    Args:
        speed: what every speed is multiplied with.
        easy: share of scenes with two objects at most, none of them a figure.
    """
    objects = (n, 1 + OBJECTS)
    # Sizes and speeds below are for frames of about 256x352; in some batches all is smaller.
    unit = (height * width) ** 0.5 / 300 * rng.uniform(0.5, 1.1)
    simple = rng.random(n) < easy
    figure = (rng.random(n) < 0.2) & ~simple
    present = _present(rng, n, figure, simple)

    depth_behind = rng.uniform(1.6, 3.2, n)
    depth = depth_behind[:, None] * np.exp(-rng.uniform(0.08, 1.6, objects))
    depth[:, 0] = depth_behind
    nearer = np.where(present, depth_behind[:, None] / depth, 1).max(1)
    slope = rng.normal(0, 0.15, (*objects, 2)) / (width / 2)
    slope[:, 0, 1] = rng.uniform(0, 0.7, n) / (height / 2)  # the ground comes nearer towards the lower border

    place = rng.uniform(-0.55, 0.55, (*objects, 2)) * (width, height)
    size = np.exp(rng.uniform(np.log(12), np.log(200), objects))[..., None] * [unit, unit]
    size *= np.exp(rng.normal(0, 0.2, size.shape))
    size[..., 0] *= rng.choice([-1, 1], objects)
    angle = rng.normal(0, 0.35, objects)

    hurry = np.where(rng.random(n) < _FAST, 5.0, 1.0) * speed * unit
    own = rng.random(objects) > 0.22  # the rest moves with the camera alone
    own[:, 0] = False
    fastest = np.minimum(90 * unit, 2.5 * np.abs(size).sum(-1))  # no further than a few times its own size
    velocity = speeds(rng, objects, 6 * hurry[:, None], fastest) * own[..., None]
    spin = own * np.where(rng.random(objects) < 0.1, rng.normal(0, 0.5, objects), _half(rng, 0.06, objects))
    layout = Layout(
        present=present,
        figure=figure,
        calm=rng.random(n) < 0.35,
        place=place,
        velocity=velocity,
        angle=angle,
        spin=spin,
        growth=own * _half(rng, 0.06, objects),
        tilt=own[..., None] * _half(rng, 4e-4 / unit, (*objects, 2)),
        size=size,
        disparity=1 / depth,
        slope=slope / depth[..., None],
        ripple=np.zeros((*objects, 2, 4)),
        pan=speeds(rng, (n,), 5 * hurry, 100 * unit / nearer) * (rng.random((n, 1)) > 0.15),
        pivot=rng.uniform(-0.3, 0.3, (n, 2)) * (width, height),
        roll=_half(rng, 0.02 * speed, (n,)),
        zoom=_half(rng, 0.03 * speed, (n,)),
    )
    layout.place[:, 0], layout.angle[:, 0] = 0, 0
    layout.size[:, 0] = width * 0.625, height * 0.625  # a quarter larger than the frame
    _draw_close_ups(rng, layout, (rng.random(n) < _CLOSE) & ~figure & ~simple, unit)
    _draw_figures(rng, layout, unit)
    _draw_ripples(rng, layout, unit)
    _calm(rng, layout)
    return layout


def speeds(
    rng: np.random.Generator, shape: tuple[int, ...], median: float | Array, most: float | Array
) -> Array:
    """Velocities (..., 2) of all directions, mostly near the median, now and then many times that."""
    speed = np.minimum(median * np.exp(rng.normal(0, 1.1, shape)), most)
    direction = rng.uniform(0, 2 * np.pi, shape)
    return np.stack([speed * np.cos(direction), 0.8 * speed * np.sin(direction)], -1)


def _half(rng: np.random.Generator, deviation: float, shape: tuple[int, ...]) -> Array:
    """Half of them 0, the others normally distributed."""
    return rng.normal(0, deviation, shape) * (rng.random(shape) < 0.5)


def _present(rng: np.random.Generator, n: int, figure: Array, simple: Array) -> Array:
    count = np.where(rng.random(n) < 0.07, 0, rng.geometric(0.27, n))
    count = np.where(figure, len(PARENTS) + rng.integers(0, 3, n), count)
    count = np.where(simple, np.minimum(count, 2), np.minimum(count, OBJECTS))
    return np.arange(1 + OBJECTS) <= count[:, None]


def _draw_close_ups(rng: np.random.Generator, layout: Layout, chosen: Array, unit: float) -> None:
    """Makes the first object of the chosen scenes a large and fast one before all others, much of it out of sight."""
    n, frame = int(chosen.sum()), 1.6 * layout.size[chosen, 0]
    side, length = rng.uniform(0, 2 * np.pi, n), np.exp(rng.uniform(np.log(80), np.log(320), (n, 1))) * unit
    layout.present[chosen, 1] = True
    layout.size[chosen, 1] = length * np.exp(rng.normal(0, 0.25, (n, 2)))
    towards = np.stack([np.cos(side), np.sin(side)], -1)
    layout.place[chosen, 1] = towards * (rng.uniform(0.3, 0.6, (n, 1)) * frame / 2 + 0.6 * length)
    layout.velocity[chosen, 1] = speeds(rng, (n,), 35 * unit, 150 * unit)
    layout.disparity[chosen, 1] = 1.1 * np.where(layout.present, layout.disparity, 0)[chosen].max(1)
    layout.spin[chosen, 1] *= 0.2


def _draw_figures(rng: np.random.Generator, layout: Layout, unit: float) -> None:
    """Sets the pieces of figures: bars that swing in their joints, in one plane that moves as a whole."""
    chosen = np.flatnonzero(layout.figure)
    n, pieces = len(chosen), len(PARENTS)
    rows, columns = chosen[:, None], np.arange(1, 1 + pieces)[None]
    body = np.exp(rng.uniform(np.log(25), np.log(140), (n, 1))) * unit
    layout.size[rows, columns] = (body * LENGTHS / (2 * LIMB))[..., None]
    rest = np.array([np.pi / 2, np.pi, 0.3, -0.2, -0.3, 0.2, 0.2, 0.2, -0.2, -0.2])
    layout.angle[rows, columns] = rest + rng.normal(0, 0.45, (n, pieces)) * (columns != 1)
    swing = np.minimum(np.exp(rng.normal(np.log(0.2), 0.9, (n, 1))), 1.2)
    layout.spin[rows, columns[:, 1:]] = rng.normal(0, 1, (n, pieces - 1)) * swing
    layout.growth[rows, columns[:, 1:]] = 0
    layout.tilt[rows, columns] = 0
    layout.velocity[rows, columns[:, 1:]] = 0
    layout.place[rows, columns[:, 1:], 0] = body * JOINTS[1:]
    layout.place[rows, columns[:, 1:], 1] = 0
    # All at one depth, but for a hair that says which piece is before which.
    before = 1 + 1e-4 * rng.permuted(np.tile(np.arange(pieces), (n, 1)), axis=1)
    layout.disparity[rows, columns] = layout.disparity[chosen, 1:2] * before
    layout.slope[rows, columns] = layout.slope[chosen, 1:2]


def _draw_ripples(rng: np.random.Generator, layout: Layout, unit: float) -> None:
    """Lets a quarter of the surfaces bend; never so much that a surface folds."""
    shape = layout.disparity.shape
    size = np.abs(layout.size)
    length = size.mean(-1) * rng.uniform(0.6, 3, shape)
    length[:, 0] = rng.uniform(60, 300, shape[0]) * unit
    bending = rng.random(shape) < 0.25
    bending[layout.figure, 1 : 1 + len(PARENTS)] = False
    for axis in (0, 1):
        height = np.minimum(np.abs(rng.normal(0, 2.5, shape)) * unit + 0.2, length / 22) * bending
        direction = rng.uniform(0, 2 * np.pi, shape)
        wave = np.stack([np.cos(direction), np.sin(direction)], -1) * size * (2 * np.pi / length)[..., None]
        layout.ripple[:, :, axis, 0] = height / size[..., axis]
        layout.ripple[:, :, axis, 1:3] = wave
        layout.ripple[:, :, axis, 3] = rng.uniform(0, 2 * np.pi, shape)


def _calm(rng: np.random.Generator, layout: Layout) -> None:
    """Brings the calm scenes nearly to rest, a part of them altogether."""
    n = len(layout.calm)
    factor = np.where(rng.random(n) < 0.4, 0, rng.uniform(0, 0.15, n))
    factor = np.where(layout.calm, factor, 1)
    for motion in (
        layout.velocity,
        layout.spin,
        layout.growth,
        layout.tilt,
        layout.pan,
        layout.roll,
        layout.zoom,
    ):
        motion *= factor.reshape(-1, *(1,) * (motion.ndim - 1))
    layout.ripple[..., 0] *= factor[:, None, None]
