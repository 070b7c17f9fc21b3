"""The models that can be loaded by name: those that come with the project, and a folder of a user's own weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dain_core.errors import DainCoreError
from dain_core.network.networks import NETWORKS, Config, kind_of
from dain_core.weights.files import (
    SHIPPED,
    WeightsError,
    config_in,
    expected_shapes,
    model_of,
    read_shapes,
    shipped_path,
)

#: What a model of a user's own may be called.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RESERVED = frozenset({"auto", *SHIPPED})


class UnknownModelError(DainCoreError, ValueError):
    """There is no model of that name: the message lists the names that there are."""


@dataclass(frozen=True)
class Entry:
    """A model that can be loaded.

    Attributes:
        name: what jobs call it.
        config: the configuration of its network.
        weights: the name of shipped weights, or the path of a file.
    """

    name: str
    config: Config
    weights: str | Path

    @property
    def network(self) -> str:
        """The name of its network; of one with other widths, that of its kind."""
        named = (name for name, config in NETWORKS.items() if config == self.config)
        return next(named, kind_of(self.config))

    @property
    def path(self) -> Path:
        return shipped_path(self.weights) if isinstance(self.weights, str) else self.weights


def registry(folder: Path | None = None) -> Mapping[str, Entry]:
    """All models by name: the shipped ones, then NAME.safetensors of `folder`, such as `dain train` made.

    Only the files' headers are read: they say which network the weights are of.

    Raises:
        WeightsError: there is no such folder, or a file of it cannot be served: its name is taken or none for a model,
            its weights fit no network, or an int8 weight has no scale that fits it.
    """
    entries = {name: Entry(name, NETWORKS[name], name) for name in SHIPPED}
    if folder is None:
        return entries
    if not folder.is_dir():
        raise WeightsError(f"there is no folder {folder} of models: make it, or name another")
    for path in sorted(folder.glob("*.safetensors")):
        entries[path.stem] = _entry_of(path)
    return entries


def named(name: str, models: Mapping[str, Entry]) -> Entry:
    """The model of `models` called `name`; raises UnknownModelError if there is none."""
    if name not in models:
        raise UnknownModelError(f"no model is called {name!r}: choose one of {', '.join(models)}")
    return models[name]


def _entry_of(path: Path) -> Entry:
    name = path.stem
    if name in RESERVED:
        raise WeightsError(
            f"{path} cannot be served: {name} is the name of a model that comes with the project. Rename it"
        )
    if not NAME.fullmatch(name):
        raise WeightsError(
            f"{path} cannot be served under its name: use up to 64 small letters, digits, dots, dashes and underscores"
        )
    shapes, config = read_shapes(path), config_in(path)
    if config is None:
        config = NETWORKS.get(model_of(shapes) or "")
    if config is None or expected_shapes(config) != shapes:
        raise WeightsError(
            f"{path} holds the weights of no network that this version knows: `dain weights verify {path}` says more"
        )
    return Entry(name, config, path)
