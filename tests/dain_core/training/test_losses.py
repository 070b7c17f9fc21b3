"""Losses: what they count, what they do not, and that halves of a batch average to the whole."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from dain_core.training.losses import census, charbonnier, depth_error, flow_error, laplacian, log_error

SIZES = [(2, 4), (4, 8), (8, 16), (16, 32), (32, 64)]
EXACT = torch.zeros(2)
TRUE = torch.ones(2, dtype=torch.bool)


def levels_of(flow: torch.Tensor) -> list[torch.Tensor]:
    """What a perfect network would say of a flow of 128x256."""
    return [F.adaptive_avg_pool2d(flow, size) for size in SIZES]


def test_equal_frames_cost_almost_nothing_and_every_band_counts() -> None:
    assert float(charbonnier(torch.zeros(1, 3, 8, 8))) == pytest.approx(1e-3)
    assert float(laplacian(torch.zeros(1, 3, 64, 64))) < 2.5e-3
    even = torch.full((1, 3, 64, 64), 0.1)
    checks = 0.1 * (-1.0) ** (torch.arange(64) + torch.arange(64)[:, None]).expand(1, 3, 64, 64)
    assert float(laplacian(even)) == pytest.approx(0.1, rel=0.05)  # the lowest band alone
    nothing = float(laplacian(torch.zeros(1, 3, 64, 64)))
    assert float(laplacian(checks)) == pytest.approx(
        0.1 / 16 + nothing, rel=0.1
    )  # the finest, which counts least


def test_the_logarithm_of_errors_cares_for_each_image_alike() -> None:
    off = torch.stack((torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.01))).requires_grad_()
    expected = (math.log(0.1**2) + math.log(0.01**2)) / 2
    loss = log_error(off)
    assert loss.item() == pytest.approx(expected, abs=0.02)
    loss.backward()
    assert off.grad is not None
    per_percent = (off.grad * off.detach()).sum(
        (1, 2, 3)
    )  # what the loss wins if an image's errors shrink by a part
    assert float(per_percent[1]) == pytest.approx(float(per_percent[0]), rel=0.03)
    assert math.isfinite(float(log_error(torch.zeros(1, 3, 8, 8))))


def test_losses_are_computed_in_float32() -> None:
    difference = torch.full((1, 3, 64, 64), 1e-3, dtype=torch.bfloat16)
    assert charbonnier(difference).dtype == laplacian(difference).dtype == torch.float32


def test_census_sees_structure_and_not_brightness() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 24, 24)
    inner = slice(4, -4)  # zeros around the image do not become brighter
    assert float(census(image, image)) == 0
    brighter = census((image + 0.1)[..., inner, inner], image[..., inner, inner])
    assert float(brighter) < 0.2 * float(census(image.flip(3), image))


def test_the_true_flow_costs_least() -> None:
    torch.manual_seed(0)
    flow = F.interpolate(4 * torch.randn(2, 2, 3, 3), size=(128, 256), mode="bilinear", align_corners=True)
    right, error = flow_error(levels_of(flow), flow, EXACT)
    wrong, larger = flow_error([level + 1 for level in levels_of(flow)], flow, EXACT)
    assert error.shape == (2,)
    assert float(error.max()) < 0.2
    assert float(larger.mean()) == pytest.approx(2**0.5, rel=0.1)
    assert float(right) < 0.3 * float(wrong)


def test_samples_without_truth_teach_nothing_and_halves_average_to_the_whole() -> None:
    torch.manual_seed(0)
    flow = torch.zeros(4, 2, 128, 256)
    levels = [torch.randn(4, 2, *size) for size in SIZES]
    log_depth, depth = torch.randn(4, 1, 128, 256), torch.rand(4, 1, 128, 256) + 0.5
    known = torch.tensor([True, True, True, False])
    flow[3], flow[1, :, :, :77] = torch.nan, torch.nan

    def both(part: slice) -> torch.Tensor:
        return torch.stack(
            (
                flow_error([level[part] for level in levels], flow[part], torch.zeros(4)[part])[0],
                depth_error(log_depth[part], depth[part], known[part]),
            )
        )

    halves = (both(slice(2)) + both(slice(2, 4))) / 2
    torch.testing.assert_close(both(slice(4)), halves)
    before = both(slice(4))
    for tensor in (*levels, log_depth):
        tensor[3] += 100
    for level in levels:
        level[1, ..., : int(level.shape[3] * 64 / 256)] += 100
    torch.testing.assert_close(both(slice(4)), before)
    levels[2][1, ..., -1] += 100
    assert both(slice(4))[0] > before[0] + 0.1


def test_what_is_partly_known_is_compared_with_what_is_known() -> None:
    flow = torch.full((1, 2, 128, 256), 8.0)
    exactly, _ = flow_error(levels_of(flow), flow, EXACT[:1])
    flow[..., 100:] = torch.nan  # a part of a cell at every level
    known = torch.full((1, 2, 128, 256), 8.0)
    partly, error = flow_error(levels_of(known), flow, EXACT[:1])
    assert 0.3 * exactly < partly < 0.45 * exactly and float(error) < 0.02


def test_no_more_is_asked_for_than_is_known() -> None:
    flow = torch.zeros(1, 2, 128, 256)
    near, far = ([torch.full((1, 2, *size), off).requires_grad_() for size in SIZES] for off in (0.6, 2.0))
    for levels, learns in ((near, False), (far, True)):
        loss, error = flow_error(levels, flow, torch.ones(1))
        loss.backward()
        assert (levels[-1].grad.abs().max() > 0) == learns  # type: ignore[union-attr]
        assert float(error.detach()) == pytest.approx(
            2**0.5 * float(levels[-1][0, 0, 0, 0].detach()), rel=0.01
        )


def test_a_smaller_power_cares_more_for_small_errors() -> None:
    flow = torch.zeros(1, 2, 128, 256)
    small, large = ([torch.full((1, 2, *size), error) for size in SIZES] for error in (0.5, 20.0))
    ratios = [
        float(flow_error(small, flow, EXACT[:1], power)[0] / flow_error(large, flow, EXACT[:1], power)[0])
        for power in (0.5, 0.75)
    ]
    assert ratios[0] > 1.5 * ratios[1]


def test_depth_matters_up_to_a_factor() -> None:
    torch.manual_seed(0)
    depth = F.interpolate(torch.rand(2, 1, 4, 4) + 0.5, size=(64, 64), mode="bilinear")
    exact = depth_error(depth.log(), depth, TRUE)
    doubled = depth_error((2 * depth).log(), depth, TRUE)
    turned = depth_error(-depth.log(), depth, TRUE)
    assert float(exact) == pytest.approx(0, abs=1e-5)
    assert float(doubled) == pytest.approx(0.25 * math.log(2), rel=1e-3)
    assert float(turned) > float(doubled)
