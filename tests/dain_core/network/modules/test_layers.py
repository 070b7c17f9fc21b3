"""Layers that see the first of their input's channels only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dain_core.network.modules.layers import SlackConv2d, SlackConvTranspose2d


@pytest.mark.parametrize(
    ("slack", "plain"),
    [
        (SlackConv2d(5, 4, 3, 2, padding=2, dilation=2), nn.Conv2d(5, 4, 3, 2, padding=2, dilation=2)),
        (SlackConvTranspose2d(5, 4, 4, 2, padding=1), nn.ConvTranspose2d(5, 4, 4, 2, padding=1)),
    ],
    ids=["convolution", "transposed"],
)
def test_further_channels_change_nothing(slack: nn.Module, plain: nn.Module) -> None:
    torch.manual_seed(0)
    plain.load_state_dict(slack.state_dict())
    x, further = torch.randn(2, 5, 9, 12), torch.randn(2, 3, 9, 12)
    expected, found = plain(x), slack(torch.cat((x, further), 1))
    torch.testing.assert_close(found, expected)
    (expected**2).sum().backward()
    (found**2).sum().backward()
    for one, other in zip(slack.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
