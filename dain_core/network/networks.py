"""The table of all networks by name."""

from __future__ import annotations

from collections.abc import Mapping

from dain_core.network.model import CONFIGS, DAIN, ModelConfig
from dain_core.network.refined import RefinedConfig, RefinedDAIN

Config = ModelConfig | RefinedConfig
Network = DAIN | RefinedDAIN

#: The configurations of all networks by name.
NETWORKS: Mapping[str, Config] = {**CONFIGS, "dain-refined": RefinedConfig()}


def config_named(name: str) -> Config:
    """Return the configuration of the network called `name`.

    Raises:
        ValueError: there is no such network; the message lists the names.
    """
    if name not in NETWORKS:
        raise ValueError(f"no model is called {name!r}: choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build(config: Config) -> Network:
    """Make the network of a configuration, with untrained weights."""
    return RefinedDAIN(config) if isinstance(config, RefinedConfig) else DAIN(config)
