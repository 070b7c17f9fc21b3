"""Every network that there is, by name."""

from __future__ import annotations

from collections.abc import Mapping

from dain_core.network.model import CONFIGS, DAIN, ModelConfig
from dain_core.network.refined import RefinedConfig, RefinedDAIN

Config = ModelConfig | RefinedConfig
Network = DAIN | RefinedDAIN

#: The configuration of every network.
NETWORKS: Mapping[str, Config] = {**CONFIGS, "dain-refined": RefinedConfig()}


def config_named(name: str) -> Config:
    """The configuration of the network called `name`; ValueError lists the names if there is none."""
    if name not in NETWORKS:
        raise ValueError(f"no model is called {name!r}: choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build(config: Config) -> Network:
    """The network of a configuration, untrained."""
    return RefinedDAIN(config) if isinstance(config, RefinedConfig) else DAIN(config)
