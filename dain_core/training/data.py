"""Where training data come from: several sources mixed, and a folder told by what lies in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dain_core.training.batch import Batch, Source, TrainingDataError
from dain_core.training.footage.pictures import PICTURES, VIDEOS, files, load_pictures
from dain_core.training.footage.triplets import LISTS, Triplets
from dain_core.training.footage.videos import Videos
from dain_core.training.scenes.synthetic import Scenes

__all__ = [
    "Batch",
    "Mix",
    "Scenes",
    "Source",
    "TrainingDataError",
    "Triplets",
    "Videos",
    "open_source",
]

#: Names the source that needs no file.
MADE = "scenes"


def open_source(
    data: Sequence[str],
    size: tuple[int, int],
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Source:
    """The source that was named; of several names, their mix.

    Args:
        data: folders: of video files, of pictures (from which scenes are made), or with a list of Vimeo-90K's triplets
            or septuplets. What it is, its files tell. Or "scenes": made from nothing. Each may end in "=SHARE" of the
            triplets (else 1).
        size: height and width of the frames.
        part: which of how many processes asks: each reads its own part of many videos.

    Raises:
        TrainingDataError: names the folder or file that is wrong, and the way out.
    """
    sources = []
    for index, text in enumerate(data):
        name, _, share = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            weight = float(share)
        except ValueError:
            raise TrainingDataError(f"{text!r}: after the = there should be a share, such as 0.3") from None
        if not 0 < weight < float("inf"):
            raise TrainingDataError(f"{text!r}: a share is more than 0")
        sources.append((_open(name, size, torch.device(device), seed + 7919 * index, part), weight))
    if not sources:
        raise TrainingDataError(f"there is nothing to train on: name a folder, or {MADE!r}")
    return sources[0][0] if len(sources) == 1 else Mix(sources)


def _open(name: str, size: tuple[int, int], device: torch.device, seed: int, part: tuple[int, int]) -> Source:
    folder = Path(name)
    if name == MADE and not folder.exists():
        return Scenes([], size, device=device, seed=seed)
    if not folder.is_dir():
        raise TrainingDataError(f"{name} is no folder: name one, or {MADE!r}")
    if any((folder / listed).is_file() for listed in LISTS):
        return Triplets(folder, size, device=device, seed=seed)
    videos, pictures = files(folder, VIDEOS), files(folder, PICTURES)
    if videos and pictures:
        raise TrainingDataError(
            f"{name} has both videos ({videos[0].name}) and pictures ({pictures[0].name}): "
            "put them into folders of their own, and name both"
        )
    if videos:
        return Videos(folder, size, device=device, seed=seed, part=part)
    if pictures:
        return Scenes(load_pictures(pictures), size, device=device, seed=seed)
    raise TrainingDataError(
        f"{name} has no videos, no pictures and none of {', '.join(LISTS)}: name a folder that has"
    )


class Mix:
    """Several sources, each with its share of the triplets. Shares hold exactly in the long run."""

    def __init__(self, sources: Sequence[tuple[Source, float]]) -> None:
        total = sum(weight for _, weight in sources)
        if not sources or min(weight for _, weight in sources) < 0 or total <= 0:
            raise ValueError("a mix needs sources, with weights of at least 0 that are not all 0")
        self._sources = [source for source, _ in sources]
        self._shares = [weight / total for _, weight in sources]
        self._given = [0] * len(sources)

    def sample(self, n: int) -> Batch:
        counts = [0] * len(self._sources)
        for _ in range(n):  # each goes to the source that is furthest behind its share
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
                f"the run was trained on {len(state['sources'])} sources, and now there are "
                f"{len(self._sources)}: name the same data, in the same order"
            )
        self._given = list(state["given"])
        for source, saved in zip(self._sources, state["sources"], strict=True):
            source.load_state_dict(saved)
