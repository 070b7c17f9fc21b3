"""A network that trains in a moment, and triplets to train it on; what runs in processes of its own as well."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from dain_core.network.model import ModelConfig
from dain_core.training.batch import Batch, Source
from dain_core.training.config import TrainConfig
from dain_core.training.loop import train
from dain_core.training.ranks import Ranks

TINY = ModelConfig(
    flow_pyramid=(4, 6, 8, 8, 8, 8),
    flow_dense=(8, 8, 6, 6, 4),
    flow_dense_fine=(8, 8, 6, 6, 4),
    flow_refine=(8, 8, 8, 6, 6, 4),
    depth_stem=8,
    depth_widths=(2, 3, 4),
    depth_narrow=4,
    depth_wide=6,
    context_width=4,
    kernel_widths=(4, 6, 8, 8, 8, 8),
    rectify_width=8,
)


class Slides:
    """Smooth pictures that slide by whole pixels, so that all is known of them; of every other one it is not told."""

    def __init__(self, size: tuple[int, int], device: torch.device, seed: int) -> None:
        self._size = size
        self._device = device
        self._random = torch.Generator().manual_seed(seed)

    def sample(self, n: int) -> Batch:
        h, w = self._size
        coarse = torch.rand(n, 3, h // 8, w // 8 + 2, generator=self._random)
        wide = F.interpolate(coarse, size=(h, w + 16), mode="bilinear", align_corners=False)
        step = int(torch.randint(0, 4, (), generator=self._random))
        first, middle, last = (wide[..., 8 + k * step :][..., :w] for k in (1, 0, -1))
        flow = torch.tensor([2.0 * step, 0.0, -2.0 * step, 0.0]).view(1, 4, 1, 1)
        supervised = torch.arange(n) % 2 == 0
        return Batch(
            first.contiguous(),
            middle.contiguous(),
            last.contiguous(),
            time=torch.full((n,), 0.5),
            flows=torch.where(supervised.view(n, 1, 1, 1), flow, torch.nan).expand(n, 4, h, w).contiguous(),
            depth=torch.ones(n, 2, h, w),
            supervised=supervised,
        ).to(self._device)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self._random.get_state().tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._random.set_state(torch.tensor(state["random"], dtype=torch.uint8))


def slides(config: TrainConfig, ranks: Ranks) -> Source:
    return Slides(config.crop, ranks.device, ranks.seed(config.seed))


def settings(out: Path, **changes: Any) -> TrainConfig:
    """A run of a few steps of the tiny network."""
    defaults: dict[str, Any] = {
        "data": ("slides",),
        "out": str(out),
        "network": TINY,
        "init": None,
        "steps": 4,
        "batch": 2,
        "crop": (64, 64),
        "precision": "fp32",
        "log_every": 1,
        "save_every": 100,
    }
    return TrainConfig(**(defaults | changes))


class Deadly(Slides):
    """Kills its process when it is asked for the last of so many batches."""

    left = 0

    def sample(self, n: int) -> Batch:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(n)


def deadly(config: TrainConfig, ranks: Ranks) -> Source:
    source = Deadly(config.crop, ranks.device, ranks.seed(config.seed))
    source.left = 6
    return source


def train_quietly(config: TrainConfig) -> None:
    """For processes of their own."""
    torch.set_num_threads(1)
    train(config, slides, device="cpu")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(TrainConfig.from_json(sys.stdin.read()), deadly, device="cpu")
