"""Footage that is stored, as decoded, in the memory of the device that learns from it.

A network that is cheap to train needs hundreds of triplets a second, and the host cannot cut out so many. A hundred
short clips have about ten gigabytes of 8-bit frames. A GPU stores them all and cuts out the crops itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.training.batch import TrainingDataError
from dain_core.training.capsules import draw_capsules

#: A frame whose longer side has more pixels is halved.
_LONGEST = 1920
#: The side in pixels of the blocks in which brightness is stored. It serves to find motion and cuts.
_BLOCK = 16
#: Thresholds of the mean difference of neighbouring frames, in levels of 255. There is a cut above the first one, if
#: the difference is also more than four times the clip's median. A frame is repeated below the second one, if the
#: clip's median is more than four times this threshold.
_CUT, _TWICE = 12.0, 0.12
#: The largest mean difference between the ends of a triplet, in levels of 255. Triplets above it are not used.
_TOO_FAR = 40.0
#: The numbers of frames from the first frame of a triplet to the last one, and their shares.
_SPANS = ((2, 0.32), (3, 0.15), (4, 0.30), (6, 0.14), (8, 0.09))
#: The share of triplets of an even span whose middle frame is always taken. Of the others any frame is, so that nearly
#: half of all triplets are not at their middle.
_MIDDLES = 0.2
#: The share of triplets whose crop moves, and its largest motion from first to last, down and across, in pixels.
_PANS, _PAN = 0.4, (112, 128)
#: The number of places that compete for a triplet in 70 % of the cases. The place with the largest motion wins.
_CANDIDATES = 5


@dataclass(frozen=True)
class Clip:
    """One decoded video.

    Attributes:
        frames: (T, 3, H, W), uint8 RGB.
        brightness: the mean green of blocks, (T, H / 16, W / 16), float32, in levels of 255, on the host.
        breaks: the indices i for which a cut or a repeated frame lies between frames i and i + 1.
        step: the distance in frames that counts as one step. It is more than 1 for recordings with many frames a
            second, whose neighbours hardly differ.
    """

    frames: Tensor
    brightness: np.ndarray
    breaks: np.ndarray
    step: int


@dataclass(frozen=True)
class Triplets:
    """A batch of N triplets.

    Attributes:
        first, middle, last: the frames, (N, 3, h, w), float32 RGB in [0, 1].
        time: the time of the middle frame, (N, 1, 1, 1), in (0, 1); the first frame is at 0, the last at 1.
    """

    first: Tensor
    middle: Tensor
    last: Tensor
    time: Tensor


def read_clip(path: Path) -> Clip | None:
    """Decode a video with OpenCV. Return None if it has fewer than three frames or cannot be read."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            break
        if max(frame.shape[:2]) > _LONGEST:
            frame = cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).transpose(2, 0, 1))
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    capture.release()
    if len(frames) < 3:
        return None
    stacked = torch.from_numpy(np.stack(frames))
    rows, columns = (side // _BLOCK for side in stacked.shape[-2:])
    means = [
        frame[1, : rows * _BLOCK, : columns * _BLOCK].float().view(rows, _BLOCK, columns, _BLOCK).mean((1, 3))
        for frame in stacked
    ]
    brightness = torch.stack(means).numpy()
    change = np.abs(np.diff(brightness, axis=0)).mean((1, 2))
    usual = float(np.median(change))
    cut = (change > _CUT) & (change > 4 * usual)
    twice = (change < _TWICE) & (usual > 4 * _TWICE)
    return Clip(stacked, brightness, np.flatnonzero(cut | twice), max(1, round(rate / 30)))


class ResidentFootage:
    """Clips in the memory of a device. `sample` cuts batches of triplets out of them.

    Args:
        paths: the video files.
        crop: the height and width of the triplets in pixels.
        device: the device that stores the clips.
        seed: the seed of all random numbers.

    Raises:
        TrainingDataError: no video can be used.
    """

    def __init__(self, paths: Sequence[Path], crop: tuple[int, int], device: torch.device, seed: int) -> None:
        with ThreadPoolExecutor() as pool:
            clips = [clip for clip in pool.map(read_clip, paths) if clip is not None]
        self._crop = crop
        self._random = np.random.default_rng(seed)
        self._device = device
        self._clips = [
            Clip(clip.frames.to(device), clip.brightness, clip.breaks, clip.step)
            for clip in clips
            if clip.frames.shape[0] > 2 and min(clip.frames.shape[-2:]) >= 128
        ]
        if not self._clips:
            raise TrainingDataError(
                "none of the videos can be used: each has fewer than three frames, frames smaller than 128 pixels, or "
                "cannot be read. Name a folder with other videos (--data)"
            )
        counts = np.sqrt([min(len(clip.frames) / clip.step, 240) for clip in self._clips])
        self._shares = counts / counts.sum()

    def __len__(self) -> int:
        return len(self._clips)

    def sample(self, count: int) -> Triplets:
        """Return a batch of `count` random triplets, augmented; small things fly over some of them."""
        parts = [self._triplet() for _ in range(count)]
        frames = torch.stack([frames for frames, _ in parts])
        moments = [time for _, time in parts]
        draw_capsules(frames, moments, self._random)
        times = torch.tensor(moments, device=self._device).view(-1, 1, 1, 1)
        first, middle, last = self._coloured(frames).unbind(1)
        return Triplets(first, middle, last, times)

    def _triplet(self) -> tuple[Tensor, float]:
        """Cut out one triplet: frames (3, 3, h, w), transposed and mirrored at random, and the time of the middle."""
        random = self._random
        turned = random.random() < 0.25
        height, width = self._crop[::-1] if turned else self._crop
        while True:
            clip = self._clips[random.choice(len(self._clips), p=self._shares)]
            span, middle = self._moments(clip)
            if span * clip.step >= len(clip.frames):
                continue
            wanted = _CANDIDATES if random.random() < 0.7 else 1
            places = [self._place(clip, span, height, width) for _ in range(wanted)]
            motion, start, top, left, tall, wide = max(places)
            if 0 <= motion < _TOO_FAR:
                break
        down, across = self._pan(clip, span, (top, left), (tall, wide))
        frames = torch.stack([
            clip.frames[start + at * clip.step, :, top + at * down :, left + at * across :][..., :tall, :wide]
            for at in (0, middle, span)
        ]).float()  # fmt: skip
        if (tall, wide) != (height, width):
            frames = F.interpolate(
                frames, (height, width), mode="bilinear", antialias=True, align_corners=False
            )
        time = middle / span
        if random.random() < 0.5:
            frames, time = frames.flip(0), 1 - time
        if turned:
            frames = frames.transpose(2, 3)
        mirrored = [dim for dim, share in ((3, 0.5), (2, 0.3)) if random.random() < share]
        return (frames.flip(mirrored) if mirrored else frames), time

    def _moments(self, clip: Clip) -> tuple[int, int]:
        """Draw the steps from the first frame to the last frame and to the middle frame."""
        spans, shares = zip(*_SPANS, strict=True)
        span = int(self._random.choice(spans, p=shares))
        if span % 2 == 0 and self._random.random() < _MIDDLES:
            return span, span // 2
        return span, int(self._random.integers(1, span))

    def _pan(self, clip: Clip, span: int, corner: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Draw how far the crop moves in a step, down and across, in pixels. Most crops do not move.

        A moving crop acts like a panning camera: everything in the clip moves faster.
        """
        if self._random.random() > _PANS:
            return 0, 0
        steps = []
        for at, side, whole, most in zip(corner, size, clip.frames.shape[-2:], _PAN, strict=True):
            least, largest = -min(at, most) // span + 1, min(whole - side - at, most) // span
            steps.append(int(self._random.integers(least, largest + 1)) if least < largest else 0)
        return steps[0], steps[1]

    def _place(self, clip: Clip, span: int, height: int, width: int) -> tuple[float, int, int, int, int, int]:
        """Draw a moment and a crop, and measure the motion there.

        Returns:
            The motion in levels of 255, or -1 if there is a cut or a repeated frame; the index of the first frame; and
            top, left, height and width of the crop.
        """
        random = self._random
        total, _, tall, wide = clip.frames.shape
        largest = min(tall / height, wide / width)
        scale = min(largest, float(random.choice((1.0, 1.5, 2.0)))) if largest > 1 else largest
        tall_crop, wide_crop = int(height * scale), int(width * scale)
        top, left = (int(random.integers(0, free + 1)) for free in (tall - tall_crop, wide - wide_crop))
        start = int(random.integers(0, total - span * clip.step))
        end = start + span * clip.step
        if np.any((clip.breaks >= start) & (clip.breaks < end)):
            return -1.0, start, top, left, tall_crop, wide_crop
        rows = slice(top // _BLOCK, (top + tall_crop) // _BLOCK)
        columns = slice(left // _BLOCK, (left + wide_crop) // _BLOCK)
        change = np.abs(clip.brightness[end, rows, columns] - clip.brightness[start, rows, columns])
        return float(change.mean()), start, top, left, tall_crop, wide_crop

    def _coloured(self, frames: Tensor) -> Tensor:
        """Scale frames (N, 3, 3, h, w) from [0, 255] to [0, 1], and change brightness and colours of each triplet."""
        n = len(frames)
        random = torch.from_numpy(self._random.random((n, 3)).astype(np.float32)).to(self._device)
        gain, gamma = 0.75 + 0.35 * random[:, 0], 0.8 + 0.45 * random[:, 1]
        shape = (n, 1, 1, 1, 1)
        bright = (frames / 255 * gain.view(shape)).clamp(0, 1).pow(gamma.view(shape))
        order = [
            list(self._random.permutation(3)) if self._random.random() < 0.3 else [0, 1, 2] for _ in range(n)
        ]
        index = torch.tensor(order, device=self._device).view(n, 1, 3, 1, 1).expand_as(bright)
        bright = bright.gather(2, index)
        # Only the ends get noise. The mean of both ends is then the best guess where nothing else differs.
        noise = torch.where(random[:, 2] < 0.15, 0.1 * random[:, 2], 0.0).view(shape)
        ends = bright[:, ::2]
        bright[:, ::2] = (ends + noise * torch.randn_like(ends)).clamp(0, 1)
        return bright
