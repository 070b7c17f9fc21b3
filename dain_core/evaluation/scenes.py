"""Made scenes as a clip to evaluate on. Their true frames and their depth are known exactly."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dain_core.evaluation.clips import Sample, Selection
from dain_core.evaluation.depth import DepthPicture
from dain_core.training.scenes.synthetic import MadeScenes

#: The height and width of the frames in pixels.
SIZE = (256, 384)

_SEED = 20190616  # the scenes are always the same, and training with another seed does not see them
_AT_ONCE = 8


class MadeClip:
    """`count` made triplets whose true frame is at time 0.5, and the depth of their first frames."""

    name = "made scenes"

    def __init__(self, count: int, device: str) -> None:
        source = MadeScenes([], SIZE, device=device, seed=_SEED)
        self._triplets: list[tuple[Tensor, ...]] = []
        while len(self._triplets) < count:
            batch = source.sample(_AT_ONCE)
            for index in torch.nonzero(batch.time == 0.5).flatten().tolist():
                frames = (
                    _bytes(frame[index : index + 1]) for frame in (batch.first, batch.middle, batch.last)
                )
                self._triplets.append((*frames, batch.depth[index, 0].cpu()))
        del self._triplets[count:]

    def samples(self, selection: Selection) -> Iterator[Sample]:
        """Give the chosen samples; see `Clip.samples`."""
        for index in selection.places(len(self._triplets)):
            first, middle, last = (
                selection.prepare(frame, f"{self.name} {index}") for frame in self._triplets[index][:3]
            )
            yield Sample(self.name, f"{index}", None, True, first, last, (0.5,), (middle,))

    def pictures(self) -> Iterator[DepthPicture]:
        """Give the first frame of each triplet with its depth."""
        for index, (first, _, _, depth) in enumerate(self._triplets):
            yield DepthPicture(self.name, f"{index}", first, depth)


def _bytes(frame: Tensor) -> Tensor:
    return (frame * 255).round().byte().cpu()
