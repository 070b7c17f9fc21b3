"""Small things that move far are in the frames between, as far as the model can follow them (docs/media.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dain_core.runtime.engine import Interpolator

HEIGHT, WIDTH, X, Y = 128, 192, 80, 64
LIGHT = 0.9


def scene(x: float, ball: bool) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a ball of 12 pixels, or a rod of 2, at ``x`` before a soft pattern; and where it is."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    behind = 0.35 + 0.1 * np.sin(columns / 9) * np.cos(rows / 7)
    behind += 0.02 * np.random.default_rng(0).standard_normal(behind.shape)
    away = columns - x
    thing = away**2 + (rows - Y) ** 2 <= 36 if ball else (abs(away) <= 1) & (abs(rows - Y) < 40)
    return np.where(thing, LIGHT, behind), thing


@pytest.mark.parametrize(("ball", "step"), [(True, 20), (False, 12)], ids=["ball", "rod"])
def test_a_small_thing_is_there_in_the_frame_between(ball: bool, step: int) -> None:
    model = Interpolator.load("dain-refined", device="cpu", precision="fp32")
    first, second = (
        torch.tensor(scene(x, ball)[0][None, None].repeat(3, 1), dtype=torch.float32) for x in (X, X + step)
    )
    made = model.interpolate(first, second, [0.5])[0].mean(0).numpy()
    wanted, thing = scene(X + step / 2, ball)
    behind = scene(-99, ball)[0]
    assert (made - behind)[thing].mean() > 0.6 * (wanted - behind)[thing].mean()
