"""Frames in which something stands still before a moving picture, as the mask of a caller says: subtitles, a logo.

`filled` takes it out of a frame before the network sees it, so that it does not disturb the motion behind it. What
stands still without a mask, `cuda_ext.stillness` finds.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def filled(image: Tensor, mask: Tensor) -> Tensor:
    """A frame (1, 3, H, W) with what lies around in place of what `mask` (1, 1, H, W) covers, smoothly."""
    weight = 1 - mask
    pyramid = [(image * weight, weight)]
    while max(pyramid[-1][1].shape[2:]) > 1:
        pyramid.append(tuple(_halved(level) for level in pyramid[-1]))  # type: ignore[arg-type]
    values, weight = pyramid.pop()
    result = values / weight.clamp(min=1e-6)
    for values, weight in reversed(pyramid):
        coarse = F.interpolate(result, values.shape[2:], mode="bilinear", align_corners=False)
        result = values + (1 - weight) * coarse
    return result


def covering(mask: Tensor) -> Tensor:
    """The pixels that any of `mask` (1, 1, H, W) touches, and those beside them: 1 there, else 0."""
    return F.max_pool2d((mask > 0).float(), 3, 1, 1)


def _halved(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 2, ceil_mode=True, count_include_pad=False)
