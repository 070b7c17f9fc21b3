"""Frames as cameras and codecs leave them."""

from __future__ import annotations

import numpy as np
import torch

from dain_core.training.scenes.degrade import compress, degrade, soften


def test_degrading_spares_the_middle_frame_noise() -> None:
    frames = torch.full((16, 3, 3, 32, 32), 0.5)
    times = np.tile([0.0, 1.0, 0.5], (16, 1))
    generator = torch.Generator().manual_seed(0)
    seen = degrade(frames, times, np.ones(16, bool), np.random.default_rng(2), generator)
    deviation = seen.std(dim=(3, 4)).amax(1)
    assert deviation[:, 2].max() < 1e-3
    assert (deviation[:, :2].amin(1) > 2e-3).float().mean() > 0.5
    assert not torch.equal(seen[:, :, 0], seen[:, :, 1])


def test_softening_and_compressing_can_be_nothing() -> None:
    x = torch.arange(32) / 31
    frames = torch.stack([x.expand(32, 32), x[:, None].expand(32, 32), 0.5 + 0 * x.expand(32, 32)])
    frames = frames[None, :, None].expand(1, 3, 2, 32, 32).contiguous()
    assert torch.equal(soften(frames, torch.zeros(1)), frames)
    assert (soften(frames, torch.ones(1)) - frames).abs().max() > 1e-3
    # Colour loses half of its resolution whatever the step.
    torch.testing.assert_close(compress(frames, torch.tensor([1e-5])), frames, atol=0.03, rtol=0)
    assert (compress(frames, torch.tensor([0.1])) - frames).abs().mean() > 0.005
