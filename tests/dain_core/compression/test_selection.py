"""Channels as the graph of a network has them, their importance, and the network without some of them."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dain_core.compression.channels import _RULES, Channels, trace
from dain_core.compression.errors import CompressionError
from dain_core.compression.importance import MEASURES, importance, learned
from dain_core.compression.selection import Pruning, choose, choose_widths, pruned, shortened
from dain_core.network.networks import Network, widths, with_widths
from dain_core.runtime.backends.fused.network import FusedDAIN
from dain_core.training.resident import Triplets
from tests.dain_core.compression.small import CONFIGS, SMALL, random_network


@pytest.fixture(scope="module", params=CONFIGS)
def known(request: pytest.FixtureRequest) -> tuple[Network, Channels]:
    config = CONFIGS[request.param]
    return random_network(config), trace(config)


@pytest.fixture
def traced(known: tuple[Network, Channels]) -> tuple[Network, Channels]:
    """A network that a test may change, and its channels."""
    network, channels = known
    return deepcopy(network), channels


@pytest.fixture(scope="module")
def small_channels() -> Channels:
    return trace(SMALL)


def _made(network: Any) -> tuple[Tensor, Tensor]:
    """A frame, and the flow both ways in hundreds of pixels."""
    torch.manual_seed(1)
    one, two = network.features(torch.rand(2, 3, 60, 63)).halves()
    motion = network.motion(one, two)
    frame = network.synthesise(one, two, motion, 0.4).output
    return frame, torch.cat(motion.flows) / 100


def _half(network: Network, channels: Channels) -> Pruning:
    """Random 16 of the 32 channels of each group."""
    chosen = random.Random(0)
    removed = {channel for group in channels.groups for channel in chosen.sample(sorted(group.channels), 16)}
    config = with_widths(network.config, dict.fromkeys({group.width for group in channels.groups}, 16))
    return Pruning(config, frozenset(removed))


@torch.no_grad()
def _without(network: Network, channels: Channels, removed: frozenset[int]) -> None:
    """Make every channel that is removed zero, where it is."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        dims = channels.dims.get(name, {})
        made = 1 if name.startswith("flow.up_") and tensor.dim() == 4 else 0
        gone = [index for index, channel in enumerate(dims.get(made, ())) if channel in removed]
        if not name.endswith("running_var"):
            tensor.index_fill_(made, torch.tensor(gone, dtype=torch.long), 0)


def test_a_pruned_network_is_the_network_with_these_channels_at_zero(
    traced: tuple[Network, Channels],
) -> None:
    network, channels = traced
    pruning = _half(network, channels)
    small = pruned(network, channels, pruning)
    assert small.config == pruning.config
    before = _made(network)
    _without(network, channels, pruning.removed)
    expected = _made(network)
    assert all((now - was).abs().mean() > 1e-4 for now, was in zip(expected, before, strict=True))
    torch.testing.assert_close(_made(small), expected, rtol=1e-3, atol=5e-5)


def test_every_width_of_a_network_can_be_pruned(traced: tuple[Network, Channels]) -> None:
    network, channels = traced
    unused = ("base.context", "base.kernel", "base.rectify")  # parts that `dain-refined` does not have
    expected = {name for name in widths(network.config) if not name.startswith(unused)}
    assert {group.width for group in channels.groups} == expected
    assert all(len(group.channels) == 32 for group in channels.groups)


def test_activations_are_known_to_every_pytorch() -> None:
    """PyTorch 2.11 does not tag them as pointwise."""
    assert {torch.ops.aten.leaky_relu, torch.ops.aten.leaky_relu_} <= _RULES.keys()


def test_multiplications_are_those_that_pytorch_counts(traced: tuple[Network, Channels]) -> None:
    network, channels = traced
    any_network: Any = network
    frame = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = any_network.features(frame)
        any_network.synthesise(features, features, any_network.motion(features, features), 0.5)
    assert channels.macs() == pytest.approx(counter.get_total_flops() / 2 / 64**2)
    small = pruned(network, channels, _half(network, channels))
    halved = dict.fromkeys({group.width for group in channels.groups}, 0.5)
    assert channels.macs(halved) == pytest.approx(trace(small.config).macs())


def test_what_is_added_is_one_group(small_channels: Channels) -> None:
    makers = {group.makers for group in small_channels.groups}
    assert ("context.stem.weight", "context.blocks.0.conv2.weight", "context.blocks.1.conv2.weight") in makers
    assert ("context.blocks.0.conv1.weight",) in makers


def test_the_fused_form_of_a_pruned_network_makes_its_frame(small_channels: Channels) -> None:
    network = random_network(SMALL)
    small = pruned(network, small_channels, _half(network, small_channels))
    expected, _ = _made(small)
    assert FusedDAIN.supports(small.config, torch.device("cpu"))  # type: ignore[arg-type]
    fused = FusedDAIN(small, torch.float32)  # type: ignore[arg-type]
    torch.manual_seed(1)
    both = torch.rand(2, 3, 60, 63)
    frames = [frame.contiguous(memory_format=torch.channels_last) for frame in both.split(1)]
    one, two = (fused.features(frame) for frame in frames)
    made = fused.synthesise(one, two, fused.motion(one, two), torch.tensor(0.4))
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_channel_that_nothing_sees_does_not_matter(traced: tuple[Network, Channels], measure: str) -> None:
    """Its weights are as large as those of others: their size says nothing of that."""
    network, channels = traced
    name = "rectify.head.weight"
    state = dict(network.named_parameters())
    unseen = channels.dims[name][1][3]
    torch.manual_seed(2)
    batch = Triplets(*torch.rand(3, 1, 3, 64, 64), torch.full((1, 1, 1, 1), 0.5))
    with torch.no_grad():
        for other, dims in channels.dims.items():
            if unseen in dims.get(1, ()):
                state[other][:, list(dims[1]).index(unseen)] = 0
    known = importance(network, channels, measure, [batch])
    group = next(group for group in channels.groups if unseen in group.channels)
    assert (known[unseen] > 0) == (measure == "weight")
    assert sum(known[channel] > 0 for channel in group.channels) > 20
    assert {name.partition(".")[0] for name in learned(network)} == {
        name for name, _ in network.named_children() if "flow" not in name and "depth" not in name
    } | ({"flow", "depth"} if "kernels" in dict(network.named_children()) else set())


def test_the_least_important_channels_for_their_work_go(small_channels: Channels) -> None:
    channels = small_channels
    flat = {channel: 1.0 for group in channels.groups for channel in group.channels}
    (group,) = (group for group in channels.groups if group.width == "flow_refine.2")
    spare = frozenset(sorted(group.channels)[5:21])
    pruning = choose(SMALL, channels, flat | dict.fromkeys(spare, 0.0), 0.999)
    assert (pruning.config, pruning.removed) == (with_widths(SMALL, {"flow_refine.2": 16}), spare)
    assert trace(pruning.config).macs() < 0.999 * channels.macs()
    half = choose(SMALL, channels, flat, 0.5)
    assert trace(half.config).macs() <= 0.5 * channels.macs() and {*widths(half.config).values()} == {16, 32}


def test_no_more_goes_than_needs_to(small_channels: Channels) -> None:
    """The step that reaches the goal may save so much that earlier ones are taken back."""
    channels = small_channels
    known = {channel: 1e9 for group in channels.groups for channel in group.channels}
    for group in channels.groups:
        if group.width in ("flow_dense.0", "rectify_width"):
            known |= dict.fromkeys(group.channels, 1e-6 if group.width == "flow_dense.0" else 1.0)
    goal = channels.macs({"rectify_width": 0.5}) / channels.macs()
    assert choose(SMALL, channels, known, goal).config == with_widths(SMALL, {"rectify_width": 16})


def test_given_widths_keep_the_most_important_channels(traced: tuple[Network, Channels]) -> None:
    network, channels = traced
    known = {channel: float(channel) for group in channels.groups for channel in group.channels}
    name = "rectify.0" if "rectify.0" in widths(network.config) else "rectify_width"
    target = {**widths(network.config), name: 16}
    pruning = choose_widths(network.config, channels, known, target)
    assert widths(pruning.config) == target
    for group in channels.groups:
        gone = group.channels & pruning.removed
        assert gone == (set(sorted(group.channels)[:16]) if group.width == name else set())
    with pytest.raises(CompressionError, match=f"{name} cannot be 48: it is 32 before"):
        choose_widths(network.config, channels, known, {**target, name: 48})
    with pytest.raises(CompressionError, match=f"{name} cannot be pruned: leave it at 32"):
        choose_widths(network.config, channels, {}, target)


def test_a_shorter_network_has_the_first_blocks_and_the_same_widths() -> None:
    deep = random_network(replace(CONFIGS["dain-refined"], residuals=(2,) * 5))
    target = replace(CONFIGS["dain-refined"], base=replace(SMALL, flow_scale=2), rectify=(16,) * 4)
    made = shortened(deep, target)
    assert made.config == replace(target, rectify=(32,) * 4)
    assert all(torch.equal(value, deep.state_dict()[name]) for name, value in made.state_dict().items())
    # Flow at half the size is a quarter of it.
    assert trace(made.config).macs() < 0.8 * trace(deep.config).macs()
    with pytest.raises(CompressionError, match="has no refine.blocks.0.trunk.2.conv1.0.weight"):
        shortened(deep, replace(target, residuals=(3,) * 5))
    with pytest.raises(CompressionError, match="has no refine.blocks.1.stem.0.weight such.*leave matched"):
        shortened(deep, replace(target, matched=2))
    with pytest.raises(CompressionError, match="the widths are those of a dain, the model is none"):
        shortened(deep, SMALL)


def test_a_width_without_importance_stays(small_channels: Channels) -> None:
    channels = small_channels
    known = {channel: 1.0 for group in channels.groups for channel in group.channels if "rect" in group.width}
    assert choose(SMALL, channels, known, 0.9).config == with_widths(SMALL, {"rectify_width": 16})
    with pytest.raises(
        CompressionError, match="for every width that can be pruned, .*% of the .*not 10%.*--keep"
    ):
        choose(SMALL, channels, known, 0.1)
