"""Triplets from video files, whose decoded frames are stored in the memory of the device."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dain_core.training.batch import Batch, TrainingDataError
from dain_core.training.footage.augment import augment
from dain_core.training.footage.pictures import VIDEOS, files
from dain_core.training.footage.stretches import GAPS, Span, Stretch, probe

#: The largest number of frames of a stretch; and the number of triplets after which the oldest stretch is replaced, if
#: not all videos fit into memory.
_STRETCH, _TURN = 128, 500
#: The number of stretches for each process from which on a process reads its own part of the videos only.
_OWN = 8
#: The number of places that compete for each crop. The probability of a place grows with the motion in it.
_CANDIDATES = 6


class Videos:
    """A source of triplets from video files.

    The first and the last frame of a triplet are two to six frames apart, and the middle frame is mostly half-way. No
    triplet has a cut or a repeated frame. The time of the middle frame follows from the measured motion, not from the
    numbers of the frames. Flow is given where it could be measured. Crops lie mostly where something moves. Half of
    them are larger than `size` and scaled down, by a factor of 2 at most. A triplet depends only on the seed and on the
    number of triplets before it, so that the threads that decode have no influence on it.

    Args:
        folder: the folder of the video files, which may be in subfolders.
        size: the height and width of the crops in pixels.
        device: the device that stores the frames and makes the batches.
        seed: the seed of all random numbers.
        part: (index, count) of this process among all processes of the run. If there are enough stretches, each process
            reads its own part of them.
        budget: the largest size of the decoded frames on the device in bytes. If the videos are larger, the source
            holds some stretches at a time and replaces them one by one.

    Raises:
        TrainingDataError: the folder has no video, or a video cannot be read or is smaller than the crops. `sample`
            raises it if no triplet is usable.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
        budget: int = 12 << 30,
    ) -> None:
        paths = files(folder, VIDEOS)
        if not paths:
            raise TrainingDataError(f"{folder} has no video in it: name the folder that has one")
        self._size, self._device, self._seed, self._given = size, torch.device(device), seed, 0
        self._pool = ThreadPoolExecutor(max(2, (os.cpu_count() or 2) // 2), thread_name_prefix="videos")
        self._spans = [span for path in paths for span in probe(path, size).parts(_STRETCH)]
        index, count = part
        if len(self._spans) >= _OWN * count:
            self._spans = self._spans[index::count]
        self._fits = sum(span.bytes for span in self._spans) <= budget
        most = len(self._spans) if self._fits else budget // max(span.bytes for span in self._spans)
        self._held = max(1, min(most, len(self._spans)))
        self._stretches: deque[Stretch] = deque()
        self._coming: deque[Future[Stretch]] = deque()
        self._turn = 0
        self._fill()

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._seed, "given": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        before = self._seed, self._turn
        self._seed, self._given = state["seed"], state["given"]
        self._turn = 0 if self._fits else self._given // _TURN
        if not self._fits and before != (self._seed, self._turn):
            self._stretches.clear()
            self._coming.clear()
            self._fill()

    @torch.no_grad()
    def sample(self, n: int) -> Batch:
        rng = np.random.default_rng([self._seed, self._given])
        while not self._fits and self._turn < self._given // _TURN:
            self._turn += 1
            self._stretches.popleft()
            self._fill()
        self._given += n
        share = np.cumsum([len(stretch.starts[2]) for stretch in self._stretches])
        if not share[-1]:
            raise TrainingDataError(
                "no triplet can be taken from these videos: their frames do not differ, or have cuts between them. "
                "Add other videos"
            )
        crops, times, flows = [], [], []
        for _ in range(n):
            gap, middle = _draw_gap(rng)
            scale = rng.uniform(1, 2) if rng.random() < 0.5 else 1.0
            places = []
            for _ in range(_CANDIDATES):
                stretch = self._stretches[int(np.searchsorted(share, rng.integers(share[-1]), side="right"))]
                places.append(stretch.place(rng, gap, self._size, scale))
            motion = np.array([place.motion for place in places]).clip(max=0.1) + 0.002
            chosen = places[rng.choice(_CANDIDATES, p=motion / motion.sum())]
            middle = middle if chosen.gap == gap else 1
            crops += chosen.cut(middle, self._size)
            times.append(chosen.time(middle))
            flows.append(chosen.flows(self._size))
        frames = torch.stack(crops).view(n, 3, 3, *self._size).float() / 255
        batch = Batch.of_frames(frames, torch.tensor(times).to(self._device))
        return augment(replace(batch, flows=torch.stack(flows)), rng)

    def _fill(self) -> None:
        """Complete the stretches in memory, and start to decode the next ones."""
        while len(self._stretches) + len(self._coming) < self._held + (0 if self._fits else 2):
            number = self._turn + len(self._stretches) + len(self._coming)
            self._coming.append(self._pool.submit(Stretch, self._span(number), self._device))
        while len(self._stretches) < self._held:
            self._stretches.append(self._coming.popleft().result())

    def _span(self, number: int) -> Span:
        """Return stretch `number` of the endless sequence, which takes all spans in a new order in every round."""
        round_, place = divmod(number, len(self._spans))
        order = np.random.default_rng([self._seed, round_, 1]).permutation(len(self._spans))
        return self._spans[order[place] if not self._fits else place]


def _draw_gap(rng: np.random.Generator) -> tuple[int, int]:
    """Choose the distances in frames from the first frame of a triplet to the last one and to the middle one."""
    if rng.random() < 0.8:
        half = int(rng.choice([1, 2, 3], p=[0.7, 0.22, 0.08]))
        return 2 * half, half
    gap = int(rng.integers(3, GAPS[-1] + 1))
    return gap, int(rng.integers(1, gap))
