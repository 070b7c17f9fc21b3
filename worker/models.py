"""The models that a worker has at hand."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dain_core.runtime.engine import Interpolator


class Models:
    """One model that is there from the start, and others once a job asks for them. What is loaded stays."""

    def __init__(self, load: Callable[[str], Interpolator], first: str) -> None:
        """`load` gives a model by its name, or by "auto" the one that suits the device."""
        self._load = load
        self.default = load(first)
        self._loaded = {self.default.model_name: self.default}

    @property
    def device(self) -> torch.device:
        """Where all of them run."""
        return self.default.device

    def named(self, name: str) -> Interpolator:
        """The model called so. Raises ValueError or WeightsError as `Interpolator.load` does."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]
