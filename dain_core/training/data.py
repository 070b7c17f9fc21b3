"""Where training data come from: several sources mixed, and a folder told by what lies in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dain_core.training.batch import Batch, Source, TrainingDataError
from dain_core.training.synthetic import Scenes

__all__ = ["Batch", "Mix", "Scenes", "Source", "TrainingDataError"]


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
