"""The source of made scenes, whose frames have exact flow and depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dain_core.training.batch import Batch
from dain_core.training.scenes.degrade import degrade
from dain_core.training.scenes.motion import Array, Layout, draw_layout
from dain_core.training.scenes.render import SceneBatch
from dain_core.training.scenes.surfaces import Surfaces

#: The number of moments over which a frame with motion blur is averaged, and the longest blur in pixels.
BLUR_SAMPLES = 10
BLUR_LENGTH = 30.0


class MadeScenes:
    """A source of made triplets: a moving camera sees flat objects at different depths before a background.

    The objects are pieces of pictures, cut out as blobs, polygons, thin strokes, bars, rings or figures with swinging
    limbs. They move, rotate, grow, tilt and ripple. A third of the scenes are nearly still. Some frames are blurred by
    motion, soft, noisy or compressed. A batch depends only on the seed and on the number of batches before it.

    Args:
        pictures: photographs, RGB (3, H, W), which give textures; and cut-outs, RGB and coverage (4, H, W), which are
            objects; uint8. Without photographs, procedural textures are made.
        size: the height and width of the frames in pixels, multiples of 16.
        device: the device of the batches.
        seed: the seed of all random numbers.
        speed: a factor for all speeds. It may be changed at any time.
        easy: the share of scenes with two objects at most, 0 to 1. It may be changed at any time.

    Raises:
        ValueError: `size` is not a multiple of 16.
    """

    def __init__(
        self,
        pictures: Sequence[Tensor],
        size: tuple[int, int],
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        speed: float = 1.0,
        easy: float = 0.0,
    ) -> None:
        if size[0] % 16 or size[1] % 16:
            raise ValueError(
                f"the sides of made frames must be multiples of 16, and {size[0]}x{size[1]} are not"
            )
        self.speed, self.easy = speed, easy
        self._size, self._device, self._seed, self._batches = size, torch.device(device), seed, 0
        once = torch.Generator().manual_seed(20190415)
        canvas = min(size) * 5 // 4
        self._surfaces = Surfaces(pictures, canvas, 48 if canvas > 128 else 12, once, self._device)
        self._noise = torch.Generator(self._device)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._seed, "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seed, self._batches = state["seed"], state["batches"]

    @torch.no_grad()
    def sample(self, n: int) -> Batch:
        rng = np.random.default_rng([self._seed, self._batches])
        self._noise.manual_seed(int(rng.integers(2**62)))
        self._batches += 1
        layout = draw_layout(rng, n, *self._size, speed=self.speed, easy=self.easy)
        layout = layout.take(np.argsort(-layout.present.sum(1), kind="stable"))  # most things first
        middle = np.where(rng.random(n) < 0.7, 0.5, rng.uniform(0.1, 0.9, n))
        times = np.stack([np.zeros(n), np.ones(n), middle], 1)
        scene = SceneBatch(rng, layout, self._surfaces, self._size, self._device)

        frames, top = scene.render(np.arange(n), times)
        blurred, moments = _shutters(rng, layout, times)
        if len(blurred):
            sharp, _ = scene.render(blurred, moments)
            chosen = torch.from_numpy(blurred).to(self._device)
            frames[chosen] = sharp.view(len(blurred), 3, 3, BLUR_SAMPLES, *self._size).mean(3)
        frames = degrade(frames, times, layout.calm, rng, self._noise)
        flows, depth = scene.truth(top)
        known = torch.ones(n, dtype=torch.bool, device=self._device)
        time = torch.from_numpy(middle).float().to(self._device, non_blocking=True)
        first, last, between = (frame.contiguous() for frame in frames.unbind(2))
        return Batch(first, between, last, time, flows, depth, known)


def _shutters(rng: np.random.Generator, layout: Layout, times: Array) -> tuple[Array, Array]:
    """Choose the scenes with motion blur.

    Returns:
        The indices of the scenes, and the times whose frames are averaged, (scenes, 3 * BLUR_SAMPLES).
    """
    ratio = layout.disparity / layout.disparity[:, :1]
    fastest = np.hypot(*np.moveaxis(layout.velocity + layout.pan[:, None] * ratio[..., None], -1, 0)).max(1)
    chosen = np.flatnonzero(rng.random(len(times)) < 0.2)
    shutter = np.minimum(rng.uniform(0.05, 0.4, len(chosen)), BLUR_LENGTH / np.maximum(fastest[chosen], 1))
    moments = (np.arange(BLUR_SAMPLES) + 0.5) / BLUR_SAMPLES - 0.5
    spread = times[chosen][:, :, None] + shutter[:, None, None] * moments
    return chosen, spread.reshape(len(chosen), 3 * BLUR_SAMPLES)
