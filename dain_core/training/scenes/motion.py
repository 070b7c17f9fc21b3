"""Draws random layouts: the places and the motion of all things in many made scenes at once.

A scene is a background and up to OBJECTS objects. Each thing is flat and has its own depth. The camera pans (near
things move more than far things), rolls and zooms. The time s runs from -0.5 (first frame) to 0.5 (last frame).
Coordinates are pixels from the centre of the frame; x points right, y points down. The canvas of a thing has its own
coordinates, [-1, 1] in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: The largest number of objects in a scene.
OBJECTS = 12
#: The parents of the pieces of a figure. In a scene with a figure the first objects are its pieces: the body, the head,
#: both halves of two arms, both halves of two legs. A joint connects each piece with its parent.
PARENTS = (-1, 0, 0, 2, 0, 4, 0, 6, 0, 8)
BODY, HEAD = 0, 1
#: For each piece its length, and the distance from its parent's start to the joint, both in lengths of the body.
LENGTHS = np.array([1, 0.35, 0.5, 0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6])
JOINTS = np.array([0, 0, 0.08, 0.5, 0.08, 0.5, 1, 0.6, 1, 0.6])
#: The share of scenes whose objects and pans are five times as fast, as in a close-up of traffic.
_FAST = 0.3
#: The share of scenes with a close-up: a large object that reaches into the frame from outside.
_CLOSE = 0.3
#: Half of the length of a limb, in halves of its canvas; shapes.py draws it so.
LIMB = 0.7


@dataclass
class Layout:
    """The layouts of N scenes with 1 + OBJECTS things each. The first thing is the background.

    In the shapes below, "..." stands for (N, 1 + OBJECTS). Changes are those from the first frame to the last one.

    Attributes:
        present: whether the thing exists, (...), bool.
        figure: whether the first objects are the pieces of a figure, (N,), bool.
        calm: whether nearly nothing moves, (N,), bool.
        place, velocity: the place of the thing at s = 0, and the change of its place, (..., 2), in pixels.
        angle, spin: the angle at s = 0, and its change, (...), in radians.
        growth: the change of the logarithm of the size, (...).
        tilt: the change of the rotation out of the plane, (..., 2), per pixel.
        size: half of the width and height of the canvas, (..., 2), in pixels. A negative width mirrors the thing.
        disparity, slope: the inverse depth at the centre of the frame, (...), and its change per pixel, (..., 2).
        ripple: small waves of the surface, (..., 2, 4): for x and for y of the canvas height, wave vector and phase.
        pan: the motion of the background that the camera causes, (N, 2), in pixels.
        pivot: the point around which the camera rolls and zooms, (N, 2), in pixels.
        roll, zoom: the change of the camera's angle in radians, and of the logarithm of its scale, (N,).
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
        """Return the homographies from canvas to pixels, (N, 1 + OBJECTS, T, 3, 3), at the times s, (N, T)."""
        s = times[:, None, :]
        turn = similarity(
            self.place[:, :, None] + self.velocity[:, :, None] * s[..., None],
            self.angle[..., None] + self.spin[..., None] * s,
            np.exp(self.growth[..., None] * s),
        )
        tilt = self.tilt[:, :, None] * s[..., None]
        turn[..., 2, :2] = tilt
        turn[..., :2, :2] += turn[..., :2, 2:] * tilt[..., None, :]  # the tilt comes before the move
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
        """Return the scenes with the indices `chosen`."""
        return Layout(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def _parallax(self, s: Array) -> Array:
        """Return the motion that the pan causes, as matrices.

        A point moves in proportion to its inverse depth. A slanted plane therefore shears.
        """
        plane = np.concatenate([self.slope, self.disparity[..., None]], -1) / self.disparity[:, :1, None]
        moved = np.zeros((*self.disparity.shape, s.shape[-1], 3, 3))
        moved[..., :2, :] = self.pan[:, None, None, :, None] * plane[:, :, None, None, :] * s[..., None, None]
        return moved + np.eye(3)

    def _camera(self, s: Array) -> Array:
        """Return the motion that the camera's roll and zoom cause, as matrices."""
        turned = similarity(
            self.pivot[:, None, None], self.roll[:, None, None] * s, np.exp(self.zoom[:, None, None] * s)
        )
        to_pivot = np.broadcast_to(np.eye(3), turned.shape).copy()
        to_pivot[..., :2, 2] = -self.pivot[:, None, None]
        return turned @ to_pivot


def similarity(place: Array, angle: Array, scale: Array) -> Array:
    """Return matrices (..., 3, 3) that scale, then rotate, then move.

    Args:
        place: the move, (..., 2).
        angle: the rotation in radians, (...).
        scale: the factor, (...).
    """
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
    """Draw the layouts of `n` scenes.

    Args:
        rng: the source of random numbers.
        n: the number of scenes.
        height, width: the size of the frames in pixels.
        speed: a factor for all speeds.
        easy: the share of scenes with two objects at most and no figure, 0 to 1.
    """
    objects = (n, 1 + OBJECTS)
    # Sizes and speeds below are for frames of about 256x352. In some batches all things are smaller.
    unit = (height * width) ** 0.5 / 300 * rng.uniform(0.5, 1.1)
    simple = rng.random(n) < easy
    figure = (rng.random(n) < 0.2) & ~simple
    present = _present(rng, n, figure, simple)

    depth_behind = rng.uniform(1.6, 3.2, n)
    depth = depth_behind[:, None] * np.exp(-rng.uniform(0.08, 1.6, objects))
    depth[:, 0] = depth_behind
    nearer = np.where(present, depth_behind[:, None] / depth, 1).max(1)
    slope = rng.normal(0, 0.15, (*objects, 2)) / (width / 2)
    slope[:, 0, 1] = rng.uniform(0, 0.7, n) / (height / 2)  # the ground is nearer at the lower border

    place = rng.uniform(-0.55, 0.55, (*objects, 2)) * (width, height)
    size = np.exp(rng.uniform(np.log(12), np.log(200), objects))[..., None] * [unit, unit]
    size *= np.exp(rng.normal(0, 0.2, size.shape))
    size[..., 0] *= rng.choice([-1, 1], objects)
    angle = rng.normal(0, 0.35, objects)

    hurry = np.where(rng.random(n) < _FAST, 5.0, 1.0) * speed * unit
    own = rng.random(objects) > 0.22  # the other objects move only with the camera
    own[:, 0] = False
    fastest = np.minimum(90 * unit, 2.5 * np.abs(size).sum(-1))  # a few times its own size at most
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
    """Draw velocities (..., 2) in all directions. Most speeds are near `median`; a few are many times larger.

    Args:
        rng: the source of random numbers.
        shape: the shape of the result without its last dimension.
        median: the median speed.
        most: the largest speed.
    """
    speed = np.minimum(median * np.exp(rng.normal(0, 1.1, shape)), most)
    direction = rng.uniform(0, 2 * np.pi, shape)
    return np.stack([speed * np.cos(direction), 0.8 * speed * np.sin(direction)], -1)


def _half(rng: np.random.Generator, deviation: float, shape: tuple[int, ...]) -> Array:
    """Draw numbers of which half are 0 and the others have a normal distribution."""
    return rng.normal(0, deviation, shape) * (rng.random(shape) < 0.5)


def _present(rng: np.random.Generator, n: int, figure: Array, simple: Array) -> Array:
    """Draw which things exist; see `Layout.present`."""
    count = np.where(rng.random(n) < 0.07, 0, rng.geometric(0.27, n))
    count = np.where(figure, len(PARENTS) + rng.integers(0, 3, n), count)
    count = np.where(simple, np.minimum(count, 2), np.minimum(count, OBJECTS))
    return np.arange(1 + OBJECTS) <= count[:, None]


def _draw_close_ups(rng: np.random.Generator, layout: Layout, chosen: Array, unit: float) -> None:
    """Turn the first object of the chosen scenes into a close-up: large, fast, nearest and mostly outside the frame."""
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
    """Arrange the pieces of figures: bars that swing at their joints, in one plane that moves as a whole."""
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
    # All pieces have one depth. Tiny differences determine which piece covers which.
    before = 1 + 1e-4 * rng.permuted(np.tile(np.arange(pieces), (n, 1)), axis=1)
    layout.disparity[rows, columns] = layout.disparity[chosen, 1:2] * before
    layout.slope[rows, columns] = layout.slope[chosen, 1:2]


def _draw_ripples(rng: np.random.Generator, layout: Layout, unit: float) -> None:
    """Make a quarter of the surfaces ripple, never so much that a surface folds."""
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
    """Slow the calm scenes down until they are nearly at rest. A part of them rests entirely."""
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
