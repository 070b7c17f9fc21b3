"""Triplets from Vimeo-90K, or from folders of three or seven frames that have its structure."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dain_core.training.batch import Batch, TrainingDataError
from dain_core.training.footage.augment import augment
from dain_core.training.footage.pictures import read_picture

#: The names of the lists, and the number of frames in a sequence of each list.
LISTS = {"tri_trainlist.txt": 3, "sep_trainlist.txt": 7}
#: The number of triplets that are read ahead.
_AHEAD = 64


class Triplets:
    """A source of triplets from picture files: `sequences/<line of the list>/im1.png` and so on.

    Every round takes all lines of the list in a new order. From seven frames it takes two that are not neighbours, and
    one between them. A triplet depends only on the seed and on its number, so that the threads that read ahead have no
    influence on it.

    Args:
        folder: the folder that holds `tri_trainlist.txt` or `sep_trainlist.txt`.
        size: the height and width of the crops in pixels.
        device: the device of the batches.
        seed: the seed of all random numbers.

    Raises:
        TrainingDataError: the list is missing or empty. `sample` raises it if a frame cannot be read, is smaller than
            the crop, or differs in size from its neighbours.
    """

    def __init__(
        self, folder: Path, size: tuple[int, int], *, device: torch.device | str = "cpu", seed: int = 0
    ) -> None:
        names = [name for name in LISTS if (folder / name).is_file()]
        if not names:
            raise TrainingDataError(f"{folder} has no {' and no '.join(LISTS)}: name the folder that has one")
        self._folder, self._size, self._device, self._seed = folder, size, torch.device(device), seed
        self._length = LISTS[names[0]]
        lines = (folder / names[0]).read_text().split()
        if not lines:
            raise TrainingDataError(f"{folder / names[0]} is empty: each line must name a folder of frames")
        self._lines = lines
        self._given = 0
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="triplets")
        self._ahead: deque[Future[tuple[Tensor, float]]] = deque()

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._seed, "given": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seed, self._given = state["seed"], state["given"]
        self._ahead.clear()

    def sample(self, n: int) -> Batch:
        while len(self._ahead) < n + _AHEAD:
            self._ahead.append(self._pool.submit(self._read, self._seed, self._given + len(self._ahead)))
        read = [self._ahead.popleft().result() for _ in range(n)]
        rng = np.random.default_rng([self._seed, self._given, 1])
        self._given += n
        frames = torch.stack([frames for frames, _ in read]).to(self._device)
        time = torch.tensor([time for _, time in read]).to(self._device)
        return augment(Batch.of_frames(frames.float() / 255, time), rng)

    def _read(self, seed: int, number: int) -> tuple[Tensor, float]:
        """Read triplet `number`: its frames, (3, 3, H, W) uint8, and the time of the middle frame."""
        turn, place = divmod(number, len(self._lines))
        order = _order(seed, turn, len(self._lines))
        rng = np.random.default_rng([seed, number, 3])
        first, last = 1, 3
        if self._length > 3:
            last = int(rng.integers(3, self._length + 1))
            first = int(rng.integers(1, last - 1))
        middle = int(rng.integers(first + 1, last))
        folder = self._folder / "sequences" / self._lines[order[place]]
        paths = [folder / f"im{index}.png" for index in (first, middle, last)]
        frames = [read_picture(path)[:3] for path in paths]
        sizes = {tuple(frame.shape[1:]) for frame in frames}
        if len(sizes) > 1:
            raise TrainingDataError(
                f"the frames in {folder} are not of one size: remove this folder from the list"
            )
        height, width = frames[0].shape[1:]
        if height < self._size[0] or width < self._size[1]:
            raise TrainingDataError(
                f"the frames in {folder} are of {height}x{width}, smaller than the crop: choose a --crop that fits"
            )
        top, left = (
            int(rng.integers(0, have - want + 1))
            for have, want in zip((height, width), self._size, strict=True)
        )
        crop = (slice(None), slice(top, top + self._size[0]), slice(left, left + self._size[1]))
        return torch.stack([frame[crop] for frame in frames]), (middle - first) / (last - first)


@lru_cache(2)
def _order(seed: int, turn: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, turn, 2]).permutation(count)
