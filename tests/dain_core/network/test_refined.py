"""DAIN refined at the intermediate time: what it begins as, and what must hold whatever it has learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dain_core.network import refined
from dain_core.network.model import CONFIGS
from dain_core.network.modules.layers import upsample
from dain_core.network.modules.refinement import sample
from dain_core.network.refined import RefinedConfig, RefinedDAIN

#: Narrow, and of three levels, so that a test takes a moment.
SMALL = RefinedConfig(
    base=replace(
        CONFIGS["dain-lite"],
        flow_pyramid=(16,) * 6,
        flow_dense=(16,) * 5,
        flow_dense_fine=(16,) * 5,
        flow_refine=(16,) * 6,
        depth_stem=16,
    ),
    context=(16, 16, 16),
    refine=(16, 16, 16),
    residuals=(1, 1, 1),
    matched=2,
    rectify=(16, 16),
)


def network(seed: int = 0, config: RefinedConfig = SMALL) -> RefinedDAIN:
    torch.manual_seed(seed)
    return RefinedDAIN(config).eval()


def taught(seed: int = 0, config: RefinedConfig = SMALL) -> RefinedDAIN:
    """One whose silent layers have something to say."""
    model = network(seed, config)
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    return model


def frames(height: int, width: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    coarse = torch.rand(2, 1, 3, height // 8 + 2, width // 8 + 2)
    first, second = (
        torch.nn.functional.interpolate(image, (height, width), mode="bicubic").clamp(0, 1)
        for image in coarse
    )
    return first, second


#: Without kernels, and without the finest level of the flow.
LEAN = replace(SMALL, kernels=2, base=replace(SMALL.base, flow_finest=3))


@pytest.mark.parametrize(
    ("config", "time"), [(SMALL, 0.5), (SMALL, 0.3), (SMALL, torch.full((1, 1, 1, 1), 0.8)), (LEAN, 0.4)]
)
def test_untrained_it_is_the_projected_flow_sampled_bilinearly(
    config: RefinedConfig, time: float | Tensor
) -> None:
    model, (first, second) = network(config=config), frames(64, 96)
    with torch.inference_mode():
        one, two = model.features(torch.cat((first, second))).halves()
        motion = model.motion(one, two)
        flows = model.projected(one, two, motion, time)
        made = model.synthesise(one, two, motion, time)
        expected = (1 - time) * sample(first, flows[:, :2]) + time * sample(second, flows[:, 2:])
    torch.testing.assert_close(made.output, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(made.flows, flows, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(64, 96), (70, 101), (33, 47), (8, 8)])
def test_frames_of_any_size(size: tuple[int, int]) -> None:
    with torch.inference_mode():
        made = taught()(*frames(*size), 0.4)
    assert made.output.shape == (1, 3, *size) and made.output.isfinite().all()
    assert made.flows.shape == (1, 4, *size) and made.share.shape == (1, 1, *size)


def test_equal_frames_give_that_frame_before_rectification() -> None:
    """Kernels neither brighten nor darken: of a flat picture nothing but it can come."""
    flat = torch.full((1, 3, 64, 64), 0.37)
    with torch.inference_mode():
        made = taught()(flat, flat, 0.5)
    torch.testing.assert_close(made.blend, flat, atol=1e-4, rtol=0)


def test_every_time_of_a_batch_is_its_own() -> None:
    model, (first, second) = taught(), frames(64, 64)
    times = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
    with torch.inference_mode():
        both = model(first.repeat(2, 1, 1, 1), second.repeat(2, 1, 1, 1), times).output
        alone = torch.cat([model(first, second, float(time)).output for time in times])
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=0)
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_a_lean_network_is_a_part_of_the_whole_one() -> None:
    whole, lean = taught(), network(config=LEAN)
    own = whole.state_dict()
    lean.load_state_dict({name: own[name] for name in lean.state_dict()})
    assert len(lean.state_dict()) < len(own)
    with torch.inference_mode():
        one, two = whole.features(torch.cat(frames(64, 64))).halves()
        levels = whole.flow.both_ways(one.pyramid, two.pyramid)
        torch.testing.assert_close(lean.flow.both_ways(one.pyramid, two.pyramid), levels[:4])
        flow = lean.motion(one, two).flows[0]
    torch.testing.assert_close(flow, 20 * upsample(levels[3][:1], 8))
    with pytest.raises(ValueError, match="kernels cannot be 3: choose 4, or 2 for none"):
        replace(SMALL, kernels=3)


@pytest.mark.parametrize("config", [SMALL, LEAN])
def test_all_that_should_learn_gets_a_gradient(config: RefinedConfig) -> None:
    model, (first, second) = taught(config=config), frames(64, 64)
    made = model(first, second, 0.5)
    loss = made.output.sum() + sum(step.flows.sum() + step.logit.sum() for step in made.steps)
    loss.backward()
    without = [
        name
        for part in (model.context, model.refine, model.rectify)
        for name, weight in part.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert not without


def test_sampling_is_the_same_with_and_without_a_gradient() -> None:
    torch.manual_seed(0)
    image, flow = torch.rand(2, 5, 9, 13), 4 * torch.randn(2, 2, 9, 13)
    free = sample(image, flow, 0.5)
    learning = sample(image.requires_grad_(), flow, 0.5)
    torch.testing.assert_close(free, learning)


@pytest.mark.parametrize("rows", [160, 288])
def test_bands_make_the_whole_frame(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the flow leads far up and down, out of a band and out of the frame."""
    monkeypatch.setattr(refined, "REACH", 64)  # enough for two levels, so that the flow leads farther
    model = taught()
    first, second = frames(475, 38)
    down = 100 * torch.linspace(0, 20, 475).sin().view(1, 1, -1, 1).expand(1, 1, 475, 38)
    flows = torch.cat((0 * down, down, 0 * down, -down), 1)
    monkeypatch.setattr(model, "projected", lambda *_: flows)
    with torch.inference_mode():
        one, two = model.features(torch.cat((first, second))).halves()
        motion = model.motion(one, two)
        expected = model.synthesise(one, two, motion, 0.3)
        assert expected.flows[:, 1::2].abs().max() > 90
        made = model.in_bands(one, two, motion, 0.3, rows)
    torch.testing.assert_close(made, expected.output, atol=2e-5, rtol=0)
