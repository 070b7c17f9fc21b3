"""Paints the surfaces of the things in made scenes: for each thing a canvas of colour and coverage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dain_core.training.scenes.atlas import LEVELS, Atlas
from dain_core.training.scenes.motion import BODY, HEAD, PARENTS, Array, Layout
from dain_core.training.scenes.shapes import SHARES, Shapes

#: The number of canvases that are painted at a time, which bounds the memory.
_CHUNK = 64


class Surfaces:
    """Paints canvases: textures from pictures, cut out by shapes.

    Args:
        pictures: see `Atlas`.
        canvas: the width and height of an object's canvas in pixels.
        shapes_per_kind: the number of shapes of each kind; see `Shapes`.
        generator: the source of random numbers of procedural pictures and of shapes.
        device: the device of the canvases.
    """

    def __init__(
        self,
        pictures: Sequence[Tensor],
        canvas: int,
        shapes_per_kind: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self._device = device
        self._atlas = Atlas(pictures, generator, device)
        self._shapes = Shapes(canvas, shapes_per_kind, generator, device)
        self._canvas = canvas

    def backgrounds(self, rng: np.random.Generator, layout: Layout, size: tuple[int, int]) -> Tensor:
        """Paint the backgrounds of N scenes: (N, 3, height, width), RGB in [0, 1], opaque.

        Args:
            rng: the source of random numbers.
            layout: the layouts of the scenes.
            size: the height and width of the canvases in pixels.
        """
        n = len(layout.present)
        pictures = rng.choice(self._atlas.textures, n)
        half = layout.size[:, 0]
        # The coarsest level is the last one that still covers the canvas.
        fitting = np.log2((self._atlas.sizes[pictures, 0] / (2 * half)).min(1).clip(1)).astype(np.int64)
        levels = rng.integers(0, fitting.clip(0, LEVELS - 1) + 1)
        affine = _placed(rng, half, self._atlas.sizes[pictures, levels], np.ones(n, bool))
        levels, affine = _defocused(rng, levels, affine, np.ones(n, bool))
        texture = self._texture(pictures, levels, affine, size)
        gain, offset = _colours(rng, np.full(n, 0.03))
        return _coloured(texture, self._move(gain), self._move(offset))[..., :3].permute(0, 3, 1, 2)

    def objects(self, rng: np.random.Generator, layout: Layout, rows: Array, slots: Array) -> Tensor:
        """Paint M objects: premultiplied RGBA in [0, 1], (M, 4, canvas, canvas).

        Args:
            rng: the source of random numbers.
            layout: the layouts of the scenes. The sizes of cut-outs are set in it.
            rows, slots: the scene of each object, and its index in the scene, (M,).
        """
        m = len(rows)
        piece = np.where(layout.figure[rows] & (slots <= len(PARENTS)), slots - 1, -1)
        pictures, cutout = self._choose_pictures(rng, rows, piece)
        whole = self._atlas.sizes[pictures, 0]
        half = layout.size[rows, slots]
        proportions = np.sign(half) * whole / whole.max(1, keepdims=True)
        half = np.where(cutout[:, None], np.abs(half).max(1, keepdims=True) * proportions, half)
        layout.size[rows, slots] = half
        fitting = np.rint(np.log2((whole / (2 * np.abs(half))).max(1).clip(1))).astype(np.int64)
        levels = np.where(cutout, fitting.clip(0, LEVELS - 1), rng.integers(0, 4, m))
        affine = _placed(rng, half, self._atlas.sizes[pictures, levels], ~cutout)
        levels, affine = _defocused(rng, levels, affine, ~cutout)
        shapes = self._choose_shapes(rng, cutout, piece)
        sharp = rng.random(m) < 0.8
        softness = np.where(sharp, rng.uniform(0.9, 1.6, m), np.exp(rng.uniform(0.4, 2.1, m)))
        steepness = np.sqrt(np.abs(half).prod(1)) / softness
        opacity = np.where(rng.random(m) < 0.94, 1, rng.uniform(0.6, 1, m))
        large = np.abs(half).max(1) > 0.4 * layout.size[rows, 0].max(1)
        colours = _colours(rng, np.where(large, 0.4, 0.1))
        looks = [self._move(values) for values in (shapes, steepness, opacity, *colours)]

        canvases = torch.empty(m, self._canvas, self._canvas, 4, device=self._device)
        for start in range(0, m, _CHUNK):
            part = slice(start, start + _CHUNK)
            texture = self._texture(pictures[part], levels[part], affine[part], (self._canvas, self._canvas))
            shape, steep, opaque, gain, offset = (values[part] for values in looks)
            distance = self._shapes.distances[shape].float()
            coverage = (0.5 - distance * steep.view(-1, 1, 1)).clamp_(0, 1).mul_(opaque.view(-1, 1, 1))
            torch.mul(_coloured(texture, gain, offset), coverage[..., None], out=canvases[part])
        return canvases.permute(0, 3, 1, 2)

    def _choose_pictures(self, rng: np.random.Generator, rows: Array, piece: Array) -> tuple[Array, Array]:
        """Choose the picture of each thing; return also whether it is a cut-out.

        All pieces of a figure have the same texture in half of the figures. `piece` is the index of the piece, or -1.
        """
        m, scenes = len(rows), 1 + int(rows.max(initial=0))
        cutout = (rng.random(m) < (0.4 if self._atlas.cutouts else 0)) & (piece < 0)
        clothes, alike = rng.choice(self._atlas.textures, scenes)[rows], (rng.random(scenes) < 0.5)[rows]
        pictures = np.where((piece >= 0) & alike, clothes, rng.choice(self._atlas.textures, m))
        pictures[cutout] = rng.choice(self._atlas.cutouts or [0], cutout.sum())
        return pictures, cutout

    def _choose_shapes(self, rng: np.random.Generator, cutout: Array, piece: Array) -> Array:
        """Choose the shape of each thing. `piece` is the index of the piece of a figure, or -1."""
        kinds = [self._shapes.kinds[name] for name in (*SHARES, "body", "limb", "whole")]
        body, limb, whole = range(len(SHARES), len(kinds))
        chosen = rng.choice(len(SHARES), len(piece), p=list(SHARES.values()))
        chosen[piece > HEAD] = limb
        chosen[piece == BODY] = body
        chosen[piece == HEAD] = list(SHARES).index("blob")
        chosen[cutout] = whole
        starts, counts = np.array([(kind.start, len(kind)) for kind in kinds]).T
        return starts[chosen] + rng.integers(0, counts[chosen])

    def _texture(self, pictures: Array, levels: Array, affine: Array, size: tuple[int, int]) -> Tensor:
        """Sample textures, (M, height, width, 4), by affine maps from canvas to picture, (M, 2, 3)."""
        height, width = size
        u = (torch.arange(width, device=self._device) + 0.5) * (2 / width) - 1
        v = ((torch.arange(height, device=self._device) + 0.5) * (2 / height) - 1)[:, None]
        to_x, to_y = self._move(affine).view(-1, 2, 3, 1, 1).unbind(1)
        x = torch.addcmul(to_x[:, 1] * v + to_x[:, 2], to_x[:, 0], u)
        y = torch.addcmul(to_y[:, 1] * v + to_y[:, 2], to_y[:, 0], u)
        return self._atlas.sample(pictures, levels, x, y)

    def _move(self, values: Array) -> Tensor:
        tensor = torch.from_numpy(values)
        return (tensor.float() if tensor.is_floating_point() else tensor).to(self._device, non_blocking=True)


def _placed(rng: np.random.Generator, half: Array, picture: Array, anywhere: Array) -> Array:
    """Draw affine maps from canvas to picture, (M, 2, 3), at a scale of about one pixel for one pixel.

    Args:
        rng: the source of random numbers.
        half: half of the sizes of the canvases, (M, 2), in pixels.
        picture: the sizes of the pictures, (M, 2), in pixels.
        anywhere: (M,), bool. Where it is False, the whole picture covers the canvas except for a narrow margin.
    """
    m = len(half)
    scale = rng.uniform(0.7, 1.15, m)
    angle = np.where(rng.random(m) < 0.7, rng.normal(0, 0.1, m), rng.uniform(0, 2 * np.pi, m))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    affine = np.zeros((m, 2, 3))
    affine[:, :, :2] = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1) * half[:, None]
    room = (picture / 2 - np.abs(half)).clip(0)
    affine[:, :, 2] = picture / 2 + rng.uniform(-1, 1, (m, 2)) * room
    exact = np.zeros((m, 2, 3))
    exact[:, 0, 0], exact[:, 1, 1] = picture[:, 0] / 1.94, picture[:, 1] / 1.94
    exact[:, :, 2] = picture / 2
    return np.where(anywhere[:, None, None], affine, exact)


def _defocused(rng: np.random.Generator, levels: Array, affine: Array, allowed: Array) -> tuple[Array, Array]:
    """Put some of the pictures out of focus: move them to a coarser level, and change the affine maps accordingly."""
    blurred = (rng.random(len(levels)) < 0.15) & allowed
    coarser = np.minimum(levels + blurred * rng.integers(1, 3, len(levels)), LEVELS - 1)
    return coarser, affine * 0.5 ** (coarser - levels)[:, None, None]


def _colours(rng: np.random.Generator, flat_share: Array) -> tuple[Array, Array]:
    """Draw the gain and the offset of colours, (M, 3) each.

    `flat_share`, (M,), is the probability that a thing loses most of its texture.
    """
    m = len(flat_share)
    flat = rng.random((m, 1)) < flat_share[:, None]
    gain = np.exp(rng.normal(0, 0.12, (m, 1)) + rng.normal(0, 0.06, (m, 3)))
    gain = np.where(flat, 0.2 * gain, gain)
    offset = np.where(flat, rng.uniform(0, 0.8, (m, 3)), rng.normal(0, 0.04, (m, 3)))
    return gain, offset


def _coloured(texture: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Change the colours of premultiplied textures, (M, H, W, 4), in place. The coverage stays."""
    gain, offset = (values.view(-1, 1, 1, 3) for values in (gain, offset))
    texture[..., :3] = torch.addcmul(texture[..., :3] * gain, texture[..., 3:], offset)
    return texture
