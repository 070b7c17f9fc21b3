"""Opens training data: tells the kind of a folder by its files, and mixes several sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dain_core.training.batch import Batch, Source, TrainingDataError
from dain_core.training.footage.pictures import PICTURES, VIDEOS, files, load_pictures
from dain_core.training.footage.triplets import LISTS, Triplets
from dain_core.training.footage.videos import Videos
from dain_core.training.scenes.synthetic import MadeScenes

__all__ = [
    "Batch",
    "Mix",
    "MadeScenes",
    "Source",
    "TrainingDataError",
    "Triplets",
    "Videos",
    "open_source",
]

#: The name of the source that needs no files.
MADE = "scenes"


def open_source(
    data: Sequence[str],
    size: tuple[int, int],
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Source:
    """Open the sources that `data` names. Several sources become a `Mix`.

    Args:
        data: folders, or the word "scenes". A folder holds video files, pictures from which scenes are made, or a list
            of Vimeo-90K's triplets or septuplets. "scenes" stands for scenes made without pictures. Each item may end
            in "=SHARE", its share of the triplets; the default is 1.
        size: the height and width of the frames in pixels.
        device: the device on which the source makes its batches.
        seed: the seed of all random numbers.
        part: (index, count) of this process among all processes of the run. If there are enough videos, each process
            reads a part of them.

    Raises:
        TrainingDataError: a folder, a file or a share cannot be used; the message names it and says what to do.

    Example:
        ``open_source(["films", "scenes=0.5"], (256, 256)).sample(8)`` is a `Batch` of 8 triplets.
    """
    sources = []
    for index, text in enumerate(data):
        name, _, share = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            weight = float(share)
        except ValueError:
            raise TrainingDataError(f"{text!r}: the text after = must be a share, such as 0.3") from None
        if not 0 < weight < float("inf"):
            raise TrainingDataError(f"{text!r}: a share must be more than 0")
        sources.append((_open(name, size, torch.device(device), seed + 7919 * index, part), weight))
    if not sources:
        raise TrainingDataError(f"there is nothing to train on: name a folder, or {MADE!r}")
    return sources[0][0] if len(sources) == 1 else Mix(sources)


def _open(name: str, size: tuple[int, int], device: torch.device, seed: int, part: tuple[int, int]) -> Source:
    folder = Path(name)
    if name == MADE and not folder.exists():
        return MadeScenes([], size, device=device, seed=seed)
    if not folder.is_dir():
        raise TrainingDataError(f"{name} is not a folder: name one, or {MADE!r}")
    if any((folder / listed).is_file() for listed in LISTS):
        return Triplets(folder, size, device=device, seed=seed)
    videos, pictures = files(folder, VIDEOS), files(folder, PICTURES)
    if videos and pictures:
        raise TrainingDataError(
            f"{name} has both videos ({videos[0].name}) and pictures ({pictures[0].name}): "
            "put them into two folders, and name both"
        )
    if videos:
        return Videos(folder, size, device=device, seed=seed, part=part)
    if pictures:
        return MadeScenes(load_pictures(pictures), size, device=device, seed=seed)
    raise TrainingDataError(
        f"{name} has no videos, no pictures and none of {', '.join(LISTS)}: name a folder that has"
    )


class Mix:
    """A source that takes triplets from several sources, each by its share.

    Args:
        sources: pairs of a source and its weight. Weights are at least 0, and their sum is more than 0. The number of
            triplets of a source never differs by more than a few from its share of all triplets.
    """

    def __init__(self, sources: Sequence[tuple[Source, float]]) -> None:
        total = sum(weight for _, weight in sources)
        if not sources or min(weight for _, weight in sources) < 0 or total <= 0:
            raise ValueError("a mix needs sources, with weights of at least 0 that are not all 0")
        self._sources = [source for source, _ in sources]
        self._shares = [weight / total for _, weight in sources]
        self._given = [0] * len(sources)

    def sample(self, n: int) -> Batch:
        counts = [0] * len(self._sources)
        for _ in range(n):  # the next triplet comes from the source that is furthest behind its share
            so_far = sum(self._given) + 1
            behind = [share * so_far - given for share, given in zip(self._shares, self._given, strict=True)]
            chosen = behind.index(max(behind))
            counts[chosen] += 1
            self._given[chosen] += 1
        pairs = zip(self._sources, counts, strict=True)
        return Batch.join([source.sample(count) for source, count in pairs if count])

    def state_dict(self) -> dict[str, Any]:
        return {"given": list(self._given), "sources": [source.state_dict() for source in self._sources]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["sources"]) != len(self._sources):
            raise TrainingDataError(
                f"the run was trained on {len(state['sources'])} sources, and {len(self._sources)} are named now: "
                "name the same data, in the same order"
            )
        self._given = list(state["given"])
        for source, saved in zip(self._sources, state["sources"], strict=True):
            source.load_state_dict(saved)
