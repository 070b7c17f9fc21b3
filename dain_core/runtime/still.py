"""What stands still before a moving picture: subtitles, logos, the display of a game.

Flow is smooth, so the motion around a letter tears the letter. `stillness` finds what is the same in both frames and
has hard edges where all around moves. A repeating pattern that has moved by its period is the same in both frames, too,
and must move on: there, motion explains both frames as well as rest does. So a region counts as still only where motion
fails to explain many of its edges, by more than the flow may be off, and where the flows both ways agree. Where a small
thing flies over a picture at rest, it is the picture that must not stay: far around, much must have changed.

What a caller knows to stand still, a mask says. `filled` takes it out of a frame before the network sees it, so that it
does not disturb the motion behind it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SAME = 6 / 255  # the most by which two frames differ where nothing moves: what a codec leaves of a still edge
HARD = 0.2  # the least step of a hard edge, from pixel to pixel
UNEXPLAINED = 0.08  # the least by which a pixel lies outside of what motion leads to
CELL = 8  # pixels on a side of the cells in which motion and edges are counted
AROUND = 2  # cells on each side of one whose motion, or whose edges, count with its own
SLOWEST = 1.0  # pixels that the surroundings move, at least
DISAGREEMENT = 0.2  # of the motion: the most by which the flows both ways differ, beside half a pixel
SHARE = 0.04  # of still edges that motion must fail to explain. Of bricks in motion it is less than 0.01
CHANGED = 0.25  # of the pixels in a window of half the frame's height: less is no moving picture
FEWEST = 0.002  # of all pixels of the cells: a few pixels are chance


def stillness(first: Tensor, second: Tensor, flows: tuple[Tensor, Tensor]) -> Tensor:
    """Where the picture between two frames is what both of them show: 1 there, else 0, (1, 1, H, W).

    It takes about 250 operations a pixel, and memory for about thirty values a pixel.

    Args:
        first, second: frames, (1, 3, H, W), in [0, 1] or a little beyond.
        flows: from the first to the second and back, (1, 2, H, W) each, in pixels.
    """
    height, width = first.shape[2:]
    difference = (first - second).abs().amax(1, keepdim=True)
    same = difference < SAME
    there, back = (flow.float() for flow in flows)
    # What moves has changed. Where nothing has changed the flow says nothing about the surroundings.
    changed = (difference > 2 * SAME).float()
    cells = _cells(torch.cat((changed, changed * there, changed * back), 1))
    far = cells.shape[2] // 4
    moving, weight = _around(cells), _around(cells[:, :1]) + 1e-6
    there, back = moving[:, 1:3] / weight, moving[:, 3:] / weight
    distance = _length(there)
    steady = (
        (_around(cells[:, :1], far) > CHANGED)
        & (distance > SLOWEST)
        & (_length(back) > SLOWEST)
        & (_length(there + back) < DISAGREEMENT * distance + 0.5)
    )
    there, back = _pixels(torch.cat((there, back), 1), height, width, "bilinear").split(2, 1)

    one, two = first.mean(1, keepdim=True), second.mean(1, keepdim=True)
    low_one, high_one, low_two, high_two = *_range(one), *_range(two)
    edges = same & (torch.minimum(high_one - low_one, high_two - low_two) > HARD)
    moved_two, low_two, high_two, in_two = _sample((two, low_two, high_two), there)
    moved_one, low_one, high_one, in_one = _sample((one, low_one, high_one), back)
    # By the range around where motion leads to: flow is off by parts of a pixel, and an edge then by all of its step.
    beyond = torch.minimum(
        torch.maximum(one - high_two, low_two - one), torch.maximum(two - high_one, low_one - two)
    )
    unexplained = edges & (beyond > UNEXPLAINED) & (in_two > 0.5) & (in_one > 0.5)
    evidence, candidates = _around(_cells(torch.cat((unexplained, edges), 1).float())).split(1, 1)
    region = steady & (evidence > SHARE * candidates) & (evidence > FEWEST)
    worse = torch.minimum(_mean((one - moved_two).abs()), _mean((two - moved_one).abs()))
    kept = edges & (worse > 2 * SAME + _mean(difference))
    kept = kept.float() * _pixels(region.float(), height, width, "nearest")
    return F.max_pool2d(kept, 3, 1, 1) * same


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


def _cells(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, CELL, ceil_mode=True, count_include_pad=False)


def _around(cells: Tensor, reach: int = AROUND) -> Tensor:
    """The means over windows that reach so many cells far."""
    for axis in ((1, 0), (0, 1)):
        window, padding = (
            (1 + 2 * reach * axis[0], 1 + 2 * reach * axis[1]),
            (reach * axis[0], reach * axis[1]),
        )
        cells = F.avg_pool2d(cells, window, 1, padding, count_include_pad=False)
    return cells


def _pixels(cells: Tensor, height: int, width: int, mode: str) -> Tensor:
    smooth = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(cells, scale_factor=float(CELL), mode=mode, **smooth)[:, :, :height, :width]


def _mean(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 3, 1, 1, count_include_pad=False)


def _range(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of a pixel and those beside it."""
    return -F.max_pool2d(-values, 3, 1, 1), F.max_pool2d(values, 3, 1, 1)


def _length(flow: Tensor) -> Tensor:
    return torch.linalg.vector_norm(flow, dim=1, keepdim=True)


def _sample(planes: tuple[Tensor, ...], flow: Tensor) -> tuple[Tensor, ...]:
    """Planes (1, 1, H, W) where the flow leads to, as `sampled` has them, and whether that is within the frame."""
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    within = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return (*sampled(torch.cat(planes, 1), flow).split(1, 1), within[:, None].float())


def sampled(planes: Tensor, flow: Tensor) -> Tensor:
    """Planes (1, C, H, W), bilinear, where the flow (1, 2, H, W) leads to; beyond the frame its border goes on."""
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def _halved(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 2, ceil_mode=True, count_include_pad=False)
