"""Triplets out of video files, whose frames wait decoded in the device's memory."""

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

#: Frames of a stretch, and triplets after which, where not all videos fit into memory, the oldest stretch goes.
_STRETCH, _TURN = 128, 500
#: So many stretches for each process and it reads its own alone: that takes time and memory.
_OWN = 8
#: Places looked at for each crop; the more something moves there the likelier it is taken.
_CANDIDATES = 6


class Videos:
    """A source of triplets out of video files.

    Neighbours are two to six frames apart, the middle mostly half-way; no triplet has a cut or a repeated frame in
    it. A middle frame's time is what the motion tells, not what the numbers of the frames do. Flow is given where it
    could be measured. Crops lie mostly where something moves; half of them are larger and scaled down, by 2 at most.
    What is drawn depends on the seed and the number of triplets before, whatever the threads that decode do meanwhile.

    Args:
        folder: of video files, in it or in folders in it.
        size: height and width of the crops.
        part: which of how many processes reads them; see `_OWN`.
        budget: bytes of decoded frames to hold on the device. Where the videos take more, stretches of them take turns.

    Raises:
        TrainingDataError: no video is there, or one cannot be read, or is smaller than the crops.
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
            raise TrainingDataError(f"{folder} has no video in it: name the folder that has")
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
                "no two neighbouring frames of these videos differ without a cut: add others"
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
        """Has as many stretches as memory holds, and the next ones being decoded."""
        while len(self._stretches) + len(self._coming) < self._held + (0 if self._fits else 2):
            number = self._turn + len(self._stretches) + len(self._coming)
            self._coming.append(self._pool.submit(Stretch, self._span(number), self._device))
        while len(self._stretches) < self._held:
            self._stretches.append(self._coming.popleft().result())

    def _span(self, number: int) -> Span:
        """All of them in turn, in another order every round."""
        round_, place = divmod(number, len(self._spans))
        order = np.random.default_rng([self._seed, round_, 1]).permutation(len(self._spans))
        return self._spans[order[place] if not self._fits else place]


def _draw_gap(rng: np.random.Generator) -> tuple[int, int]:
    """How many frames later the last one is than the first, and the middle one."""
    if rng.random() < 0.8:
        half = int(rng.choice([1, 2, 3], p=[0.7, 0.22, 0.08]))
        return 2 * half, half
    gap = int(rng.integers(3, GAPS[-1] + 1))
    return gap, int(rng.integers(1, gap))
