"""What stands still before a moving picture is told from what only looks the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import stillness
from dain_core.runtime.engine import Interpolator
from dain_core.runtime.still import covering, filled

HEIGHT, WIDTH = 128, 192


def textured(seed: int = 0) -> Tensor:
    """A picture that is larger than a frame, with detail of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.rand(1, 3, 200 // size, 320 // size, generator=generator) for size in (4, 8, 20)]
    return sum(F.interpolate(part, (200, 320), mode="bicubic") for part in parts).clamp(0, 3) / 3


def bricks(period: tuple[int, int] = (12, 24)) -> Tensor:
    """Bricks of many colours in light mortar, two pixels wide."""
    rows, columns = (size // step + 1 for size, step in zip((200, 320), period, strict=True))
    shades = torch.rand(1, 1, rows, columns, generator=torch.Generator().manual_seed(3)) * 0.3 + 0.2
    wall = F.interpolate(shades, scale_factor=[float(step) for step in period], mode="nearest")[
        ..., :200, :320
    ]
    wall[..., :: period[0], :] = wall[..., 1 :: period[0], :] = 0.8
    wall[..., :: period[1]] = wall[..., 1 :: period[1]] = 0.8
    return wall.expand(1, 3, -1, -1).clone()


def pan(picture: Tensor, x: int, y: int) -> list[Tensor]:
    """A camera that moves by (x, y) pixels over the picture: the frame before, in the middle, and after."""
    places = ((0, 0), (x // 2, y // 2), (x, y))
    return [picture[..., 20 + v : 20 + v + HEIGHT, 40 + u : 40 + u + WIDTH].clone() for u, v in places]


def flows(x: float, y: float) -> tuple[Tensor, Tensor]:
    there = torch.tensor([-float(x), -float(y)]).view(1, 2, 1, 1).expand(1, 2, HEIGHT, WIDTH)
    return there, -there


def letters() -> Tensor:
    """(1, 1, H, W): 1 in strokes that stand as those of text do."""
    mask = torch.zeros(1, 1, HEIGHT, WIDTH)
    for x in range(40, 150, 14):
        mask[..., 60:78, x : x + 3] = mask[..., 60:63, x : x + 10] = mask[..., 68:71, x : x + 8] = 1
    return mask


def written(frames: list[Tensor], level: float = 1.0) -> list[Tensor]:
    mask = letters()
    return [frame * (1 - mask) + level * mask for frame in frames]


def test_text_over_a_pan_is_found() -> None:
    first, _, second = written(pan(textured(), 10, 4))
    found, mask = stillness(first, second, flows(10, 4)), letters()
    assert float((found * mask).sum() / mask.sum()) > 0.9
    assert float((found * (1 - mask)).sum() / mask.sum()) < 0.02


@pytest.mark.parametrize("error", [0.0, 0.6])
@pytest.mark.parametrize("move", [(24, 0), (24, 12), (6, 12), (10, 0), (0, 24), (48, 0)])
def test_a_pattern_that_moves_by_its_period_moves(move: tuple[int, int], error: float) -> None:
    first, _, second = pan(bricks(), *move)
    assert float(((first - second).abs().amax(1) < 0.02).float().mean()) > 0.1  # much looks the same
    assert not stillness(first, second, flows(move[0] + error, move[1] - error)).any()


def test_a_camera_at_rest_and_a_slow_one_have_nothing_to_keep() -> None:
    first, _, second = written(pan(textured(), 0, 0))
    assert not stillness(first, second, flows(0, 0)).any()
    assert not stillness(first, second, flows(3, 0)).any()


def test_a_thing_that_flies_over_a_picture_at_rest_is_not_wiped_out() -> None:
    first, _, second = pan(bricks(), 0, 0)
    first[..., 50:74, 60:84], second[..., 50:74, 90:114] = 0.05, 0.05
    assert not stillness(first, second, flows(-30, 0)).any()


def test_flow_that_is_no_number_keeps_nothing() -> None:
    first, _, second = written(pan(textured(), 10, 4))
    broken = tuple(torch.full_like(flow, torch.nan) for flow in flows(10, 4))
    assert not stillness(first, second, broken).any()  # type: ignore[arg-type]


def test_what_a_mask_covers_is_filled_from_around() -> None:
    picture = torch.full((1, 3, 37, 53), 0.3)
    mask = torch.zeros(1, 1, 37, 53)
    mask[..., 10:20, 10:40] = 1
    spoilt = picture + mask
    torch.testing.assert_close(filled(spoilt, mask), picture)
    assert torch.equal(filled(spoilt, torch.zeros_like(mask)), spoilt)
    assert filled(spoilt, torch.ones_like(mask)).isfinite().all()
    assert int(covering(mask).sum()) == 12 * 32


def psnr(one: Tensor, two: Tensor) -> float:
    return float(-10 * torch.log10(((one - two) ** 2).mean()))


def test_memory_that_runs_out_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lite = Interpolator.load("dain-lite", device="cpu")
    failures, released = [torch.OutOfMemoryError(), RuntimeError("another fault")], []
    monkeypatch.setattr(lite._stages, "release", lambda: released.append(True))

    def short(*inputs: object) -> Tensor:
        if failures:
            raise failures.pop(0)
        return torch.ones(1, 1, 64, 64)

    monkeypatch.setattr("dain_core.runtime.engine.stillness", short)
    frame = lite.frame(torch.rand(1, 3, 64, 64))
    with pytest.raises(RuntimeError, match="another fault"):
        lite.pair(frame, frame)
    failures.append(torch.OutOfMemoryError())
    assert lite.pair(frame, frame).still.all() and released == [True, True]


def test_the_interpolator_keeps_text_and_all_the_more_what_a_mask_covers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, truth, second = written(pan(textured(), 16, 4))
    lite = Interpolator.load("dain-lite", device="cpu")
    [kept] = lite.interpolate(first, second, [0.5]).split(1)
    masked = lite.between(lite.pair(*(lite.frame(frame, letters()) for frame in (first, second))), 0.5)
    monkeypatch.setattr(
        "dain_core.runtime.engine.stillness", lambda one, two, flows: torch.zeros_like(one[:, :1])
    )
    [torn] = lite.interpolate(first, second, [0.5]).split(1)
    assert psnr(kept, truth) > psnr(torn, truth) + 1
    assert psnr(masked, truth) > psnr(kept, truth) + 3
    inside = np.asarray(letters()[0, 0] == 1)
    assert torch.equal(masked[0, :, inside], first[0, :, inside])
