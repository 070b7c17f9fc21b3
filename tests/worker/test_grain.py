"""New frames have the grain of those around them, at every brightness, and the same wherever they are made."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.worker.conftest import Interpolate, MakeVideo, decoded
from worker import grain

SIZE = (192, 256)


def scene(most: int = 255) -> Tensor:
    """A smooth picture from dark to bright."""
    coarse = torch.rand(1, 1, 5, 7, generator=torch.Generator().manual_seed(4))
    smooth = functional.interpolate(coarse, size=SIZE, mode="bicubic")[0, 0]
    return (smooth * 0.6 + 0.2).clamp(0.1, 0.9) * most


def fine(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


def coarse(seed: int) -> Tensor:
    return functional.avg_pool2d(fine(seed)[None], 3, 1, 1)[0] * 3


def deviation(plane: Tensor | np.ndarray, below: Tensor) -> list[float]:
    rest = torch.as_tensor(plane).float() - below
    return [float(band.std()) for band in grain._bands(rest)]


@pytest.mark.parametrize("kind", [fine, coarse])
@pytest.mark.parametrize(("strength", "depth"), [(2.0, 8), (6.0, 8), (12.0, 10)])
def test_deviation_is_even_in_both_bands(kind: Callable[[int], Tensor], strength: float, depth: int) -> None:
    most, dtype = 2**depth - 1, torch.uint8 if depth == 8 else torch.int16
    below = scene(most)
    first, second = ((below + strength * kind(seed)).round().clamp(0, most).to(dtype) for seed in (1, 2))
    blend = ((first.float() + second.float()) / 2).round().to(dtype)
    wanted = (grain.measure([first], depth) + grain.measure([second], depth)) / 2
    [made] = grain.add([blend], wanted, depth, 3, Fraction(1, 2))
    before, after = deviation(first, below), deviation(made, below)
    assert deviation(blend, below)[0] < 0.8 * before[0]
    assert after == pytest.approx(before, rel=0.06)


def test_grain_that_is_only_in_the_dark_stays_there() -> None:
    below = torch.linspace(0.1, 0.9, SIZE[1]).repeat(SIZE[0], 1) * 255
    strength = 6 * (below < 100)
    first, second = ((below + strength * fine(seed)).round().byte() for seed in (1, 2))
    wanted = grain.measure([first], 8).lerp(grain.measure([second], 8), 0.5)
    [made] = grain.add([((first.float() + second) / 2).round().byte()], wanted, 8, 0, Fraction(1, 2))
    dark, bright = below[0] < 80, below[0] > 150
    assert deviation(made[:, dark], below[:, dark])[0] == pytest.approx(
        deviation(first[:, dark], below[:, dark])[0], rel=0.1
    )
    assert deviation(made[:, bright], below[:, bright])[0] < 0.6


def test_a_clean_picture_and_a_tiny_one_stay_what_they_are() -> None:
    for picture in (scene().round().byte(), torch.full((9, 5), 40, dtype=torch.uint8)):
        [made] = grain.add([picture], grain.measure([picture], 8), 8, 0, Fraction(1, 3))
        assert torch.equal(made, picture)


def test_frames_do_not_depend_on_segments_and_have_grain_of_their_own(
    video: MakeVideo, interpolated: Interpolate, tmp_path: Path
) -> None:
    below = "geq=lum='60+X/2+20*sin(Y/9)':cb=128:cr=128"
    noise = f"color=gray:size=192x128:rate=25:duration=0.32,{below},noise=alls=14:allf=t,format=yuv420p"
    source = video("grain.mkv", "-f", "lavfi", "-i", noise, "-c:v", "ffv1")
    results = []
    for length in (1000, 4):
        results.append(
            decoded(interpolated(source, segment_frames=length, factor=3, quality=0, grain="keep"), "yuv420p")
        )
    assert np.array_equal(*results)
    deviations, plain = map(fine_deviations, (results[0], decoded(interpolated(source, factor=3), "yuv420p")))
    assert min(deviations) > 0.93 * max(deviations)
    assert plain[1] < 0.8 * plain[0]
    assert len({frame.tobytes() for frame in results[0][:-2]}) == len(results[0]) - 2


def fine_deviations(frames: list[np.ndarray]) -> list[float]:
    """Of frames of 192x128, without the last, which is shown several times."""
    planes = [torch.tensor(frame[: 192 * 128].reshape(128, 192)).float() for frame in frames[:-2]]
    return [float(grain._bands(plane)[0].std()) for plane in planes]
