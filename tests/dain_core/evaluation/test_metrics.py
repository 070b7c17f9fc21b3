from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import structural_similarity

from dain_core.evaluation.metrics import interpolation_error, psnr, ssim


def test_psnr_of_a_known_error() -> None:
    black = torch.zeros(1, 3, 4, 4)
    assert psnr(black, black + 0.1) == pytest.approx(20)
    assert psnr(black, black) == math.inf


def test_interpolation_error_counts_levels() -> None:
    black = torch.zeros(1, 3, 4, 4)
    assert interpolation_error(black, black + 3 / 255) == pytest.approx(3)


def test_ssim_is_the_published_one() -> None:
    torch.manual_seed(0)
    truth = torch.rand(1, 3, 24, 31)
    image = (truth + 0.1 * torch.randn_like(truth)).clamp(0, 1)
    expected = structural_similarity(
        image[0].double().numpy(),
        truth[0].double().numpy(),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(image, truth) == pytest.approx(expected, abs=1e-6)
    assert ssim(truth, truth) == pytest.approx(1)


def test_ssim_of_a_tiny_image_is_refused() -> None:
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.zeros(1, 3, 8, 40), torch.zeros(1, 3, 8, 40))
