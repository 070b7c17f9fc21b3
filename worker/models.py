"""The models that a worker has at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dain_core.runtime.engine import Interpolator


class Models:
    """One model that is there from the start, and others once a job asks for them. What is loaded stays.

    Args:
        load: gives a model by its name, or by "auto" the one that suits the device.
        first: the model to load now; it is the default.
        names: every model that there is.
    """

    def __init__(self, load: Callable[[str], Interpolator], first: str, names: Sequence[str] = ()) -> None:
        self._load, self.names = load, names
        self.default = load(first)
        self._loaded = {self.default.model_name: self.default}

    @property
    def device(self) -> torch.device:
        """Where all models run."""
        return self.default.device

    def named(self, name: str) -> Interpolator:
        """The model called `name`. Raises UnknownModelError or WeightsError as `Interpolator.load` does."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]
