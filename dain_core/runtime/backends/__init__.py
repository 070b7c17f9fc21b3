"""The ways to run a network, in one table: the first that suits a network and a device is chosen.

A new way (another runtime, say) is one more row of `BACKENDS` and a class with the methods of `Stages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dain_core.network.model import DAIN, ModelConfig
from dain_core.network.networks import Config, Network
from dain_core.network.refined import RefinedConfig, RefinedDAIN
from dain_core.runtime.backends.cpu import CpuStages
from dain_core.runtime.backends.fused.network import FusedDAIN
from dain_core.runtime.backends.fused.stages import FusedStages
from dain_core.runtime.backends.plain import PlainStages
from dain_core.runtime.backends.refined import RefinedStages
from dain_core.runtime.backends.stages import Stages
from dain_core.runtime.budget import Budget
from dain_core.runtime.memory import keep_freed_memory

__all__ = ["BACKENDS", "Backend", "Stages", "backend_for"]


@dataclass(frozen=True)
class Backend:
    """One way to run a network.

    Attributes:
        name: for people.
        suits: whether it runs networks of a configuration on a device.
        make: the stages of a network, given the device, the dtype and the memory to plan with. The network is of no
            other use afterwards.
    """

    name: str
    suits: Callable[[Config, torch.device], bool]
    make: Callable[[Network, torch.device, torch.dtype, Budget], Stages]


def _fused(model: Network, device: torch.device, dtype: torch.dtype, budget: Budget) -> Stages:
    assert isinstance(model, DAIN)
    return FusedStages(FusedDAIN(model.to(device), dtype), device, budget)


def _refined(model: Network, device: torch.device, dtype: torch.dtype, budget: Budget) -> Stages:
    assert isinstance(model, RefinedDAIN)
    return RefinedStages(model, device, dtype, budget)


def _cpu(model: Network, device: torch.device, dtype: torch.dtype, budget: Budget) -> Stages:
    keep_freed_memory()
    return CpuStages(model.prepare(dtype), budget)


def _plain(model: Network, device: torch.device, dtype: torch.dtype, budget: Budget) -> Stages:
    stages = PlainStages(model.prepare(dtype).to(device))
    budget.join(stages)
    return stages


def _suits_fused(config: Config, device: torch.device) -> bool:
    return isinstance(config, ModelConfig) and device.type == "cuda" and FusedDAIN.supports(config, device)


def _suits_refined(config: Config, device: torch.device) -> bool:
    return isinstance(config, RefinedConfig) and _suits_fused(config.base, device)


BACKENDS = (
    Backend("fused", _suits_fused, _fused),
    Backend("refined", _suits_refined, _refined),
    Backend("cpu", lambda config, device: device.type == "cpu", _cpu),
    Backend("plain", lambda config, device: True, _plain),
)


def backend_for(config: Config, device: torch.device) -> Backend:
    """The first of `BACKENDS` that suits."""
    return next(backend for backend in BACKENDS if backend.suits(config, device))
