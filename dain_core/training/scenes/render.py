"""Renders made scenes: frames at any time, and their true flow and depth."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.training.scenes.motion import Array, Layout
from dain_core.training.scenes.surfaces import Surfaces

#: The size of a background's canvas in pixels, relative to the frame. The canvas covers 1.25 frames.
_BACKGROUND = 1.6
#: The number of fixed-point steps that invert a ripple. Each step divides the error by six at least.
_STEPS = 5


class SceneBatch:
    """N scenes that are painted together, from back to front.

    Rank 0 is the background, and rank r is the r-th thing before it. A canvas is sampled bilinearly once for each
    pixel, since a canvas has no detail that is finer than a pixel.

    Args:
        rng: the source of random numbers for the surfaces.
        layout: the layouts, sorted by their number of things, most things first. The things of one rank then belong to
            the first scenes, and are painted together without a copy.
        surfaces: paints the canvases.
        size: the height and width of the frames in pixels.
        device: the device of the frames.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        layout: Layout,
        surfaces: Surfaces,
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._layout, self._size, self._device = layout, size, device
        things = layout.present.sum(1)
        self._members = [int((things > rank).sum()) for rank in range(things.max())]
        #: The index of the thing at each rank, (N, ranks).
        far_to_near = np.where(layout.present, layout.disparity, np.inf).argsort(1, kind="stable")
        self._order = far_to_near[:, : len(self._members)]
        ranks = range(1, len(self._members))
        rows = np.concatenate([np.arange(self._members[rank]) for rank in ranks] or [np.arange(0)])
        slots = np.concatenate([self._order[: self._members[rank], rank] for rank in ranks] or [np.arange(0)])
        background = surfaces.backgrounds(
            rng, layout, (int(size[0] * _BACKGROUND), int(size[1] * _BACKGROUND))
        )
        objects = surfaces.objects(rng, layout, rows, slots)
        self._canvases = [background, *objects.split(self._members[1:])]
        self._x = torch.arange(size[1], device=device) + 0.5 - size[1] / 2
        self._y = (torch.arange(size[0], device=device) + 0.5 - size[0] / 2)[:, None]

    def render(self, chosen: Array, times: Array) -> tuple[Tensor, Tensor]:
        """Paint some of the scenes.

        Args:
            chosen: the indices of the scenes, ascending.
            times: the times of the frames, (len(chosen), T), in [0, 1].

        Returns:
            The frames, (len(chosen), 3, T, H, W), in [0, 1]; and the rank of the visible thing at the first two times,
            (len(chosen), 2, H, W), int64.
        """
        height, width = self._size
        n, moments = times.shape
        layout, ranks = self._layout.take(chosen), len(self._members)
        things = np.arange(n)[:, None], self._order[chosen]
        to_canvas = np.linalg.inv(layout.poses(times - 0.5))[things]
        maps = self._move(to_canvas.reshape(n, ranks, moments, 9).transpose(3, 0, 1, 2))
        ripples = self._move(layout.ripple[things].reshape(n, ranks, 8).transpose(2, 0, 1))
        s = self._move(times - 0.5)[..., None, None]
        picked = None if n == len(self._order) else torch.from_numpy(chosen).to(self._device)
        frames = torch.empty(0)
        top = torch.zeros(n, 2, height, width, dtype=torch.int64, device=self._device)
        for rank, members in enumerate(self._members):
            m = int((chosen < members).sum())
            if not m:
                break
            u, v = _project(maps[:, :m, rank, :, None, None], self._x, self._y)
            du, dv = _waves(ripples[:, :m, rank, None, None, None], u, v)
            grid = torch.empty(m, moments, height, width, 2, device=self._device)
            torch.addcmul(u, du, s[:m], out=grid[..., 0])
            torch.addcmul(v, dv, s[:m], out=grid[..., 1])
            canvas = self._canvases[rank] if picked is None else self._canvases[rank][picked[:m]]
            seen = F.grid_sample(
                canvas,
                grid.view(m, moments * height, width, 2),
                padding_mode="zeros" if rank else "reflection",
                align_corners=False,
            ).view(m, -1, moments, height, width)
            if rank == 0:
                frames = seen
                continue
            torch.addcmul(seen[:, :3], frames[:m], 1 - seen[:, 3:], out=frames[:m])
            top[:m].masked_fill_(seen[:, 3, :2] > 0.5, rank)
        return frames, top

    def truth(self, top: Tensor) -> tuple[Tensor, Tensor]:
        """Return the true flow and depth at the times 0 and 1, as `Batch.flows` and `Batch.depth`.

        Args:
            top: the rank of the visible thing at the times 0 and 1, (N, 2, H, W), int64.
        """
        n, ranks = self._order.shape
        layout, things = self._layout, (np.arange(n)[:, None], self._order)
        poses = layout.poses(np.tile([-0.5, 0.5, 0.0], (n, 1)))[things]
        ripple = layout.ripple[things].reshape(n, ranks, 8)
        centre = poses[..., :2, 2] / poses[..., 2:, 2]
        scene = torch.arange(n, device=self._device).view(n, 1, 1) * ranks
        flows: list[Tensor] = []
        depths: list[Tensor] = []
        for here, there, s in ((0, 1, -0.5), (1, 0, 0.5)):
            moved = centre[:, :, here] - centre[:, :, 2]
            slope = layout.slope[things]
            disparity = layout.disparity[things] - (slope * moved).sum(-1)
            back, forth = np.linalg.inv(poses[:, :, here]), poses[:, :, there]
            table = np.concatenate(
                [
                    back.reshape(n, ranks, 9),
                    forth.reshape(n, ranks, 9),
                    ripple,
                    slope,
                    disparity[..., None],
                ],
                -1,
            )
            rows = self._move(table.reshape(n * ranks, -1).T)
            each = rows.index_select(1, (scene + top[:, here]).flatten()).view(-1, *top[:, here].shape)
            flows += self._flow(each[:9], each[9:18], each[18:26], s)
            plane = each[28] + each[26] * self._x + each[27] * self._y
            depths.append(1 / plane.clamp(min=0.05))
        return torch.stack(flows, 1), torch.stack(depths, 1)

    def _flow(self, back: Tensor, forth: Tensor, ripple: Tensor, s: float) -> tuple[Tensor, Tensor]:
        """Return how far the surface point at each pixel moves from time s to time -s: x and y, (N, H, W), in pixels.

        Args:
            back: nine rows, the homography from pixels to canvas at time s.
            forth: nine rows, the homography from canvas to pixels at time -s.
            ripple: eight rows, see `Layout.ripple`.
            s: -0.5 or 0.5.
        """
        u, v = _project(back, self._x, self._y)
        du, dv = _waves(ripple, u, v)
        point_u, point_v = u + s * du, v + s * dv
        u, v = point_u, point_v
        for _ in range(_STEPS):
            du, dv = _waves(ripple, u, v)
            u, v = point_u + s * du, point_v + s * dv
        x, y = _project(forth, u, v)
        return x - self._x, y - self._y

    def _move(self, values: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).float().to(self._device, non_blocking=True)


def _project(matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Apply homographies, given as nine rows, to points. A matrix product in TF32 would be too inexact here."""
    a, b, c, d, e, f, g, h, i = matrix
    scale = 1 / torch.addcmul(h * y + i, g, x)
    return torch.addcmul(b * y + c, a, x) * scale, torch.addcmul(e * y + f, d, x) * scale


def _waves(ripple: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far ripples, given as eight rows, move points of the canvas in a unit of time."""
    first, second = (
        height * torch.sin(torch.addcmul(to_v * v + phase, to_u, u))
        for height, to_u, to_v, phase in ripple.view(2, 4, *ripple.shape[1:])
    )
    return first, second
