"""The ways to run a network, in one table: the first that suits a network and a device is chosen.

A new way (another runtime, say) is one more row of `BACKENDS` and a class with the methods of `Stages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dain_core.network.model import DAIN, ModelConfig
from dain_core.network.networks import Config, Network, build
from dain_core.network.refined import RefinedConfig, RefinedDAIN
from dain_core.runtime.backends.cpu import CpuStages
from dain_core.runtime.backends.fused.network import FusedDAIN
from dain_core.runtime.backends.fused.stages import FusedStages
from dain_core.runtime.backends.plain import PlainStages
from dain_core.runtime.backends.refined import RefinedStages
from dain_core.runtime.backends.stages import Stages
from dain_core.runtime.budget import Budget
from dain_core.runtime.memory import keep_freed_memory
from dain_core.weights.files import load_weights
from dain_core.weights.registry import Entry

__all__ = ["BACKENDS", "PRECISIONS", "Backend", "Source", "Stages", "backend_for"]

#: The dtypes that a network can run in. With fp8 only the convolution that is most of the work has eight bits, and
#: all else is float16.
PRECISIONS = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}


@dataclass(frozen=True)
class Source:
    """What a network's stages are made from.

    Attributes:
        entry: the model.
        exports: the folder of exported models, each in a folder of its name.
        provider: see `OnnxStages`.
    """

    entry: Entry
    exports: Path = Path("exports")
    provider: str = ""

    @property
    def config(self) -> Config:
        return self.entry.config

    def network(self) -> Network:
        """Make the network, with its weights; raises WeightsError if they cannot be read."""
        with torch.device("meta"):
            network = build(self.config)
        network.load_state_dict(load_weights(self.entry.weights, self.config), assign=True)
        return network


@dataclass(frozen=True)
class Backend:
    """One way to run a network.

    Attributes:
        name: for people.
        runtime: the program that runs it, "torch" or "onnxruntime".
        suits: whether it runs networks of a configuration on a device.
        make: the stages of a network, given the device, the precision and the memory to plan with.
    """

    name: str
    runtime: str
    suits: Callable[[Config, torch.device], bool]
    make: Callable[[Source, torch.device, str, Budget], Stages]


def _fused(source: Source, device: torch.device, precision: str, budget: Budget) -> Stages:
    model = source.network()
    assert isinstance(model, DAIN)
    return FusedStages(FusedDAIN(model.to(device), PRECISIONS[precision]), device, budget)


def _refined(source: Source, device: torch.device, precision: str, budget: Budget) -> Stages:
    model = source.network()
    assert isinstance(model, RefinedDAIN)
    return RefinedStages(model, device, PRECISIONS[precision], budget)


def _cpu(source: Source, device: torch.device, precision: str, budget: Budget) -> Stages:
    keep_freed_memory()
    return CpuStages(source.network().prepare(PRECISIONS[precision]), budget)


def _plain(source: Source, device: torch.device, precision: str, budget: Budget) -> Stages:
    stages = PlainStages(source.network().prepare(PRECISIONS[precision]).to(device))
    budget.join(stages)
    return stages


def _onnx(source: Source, device: torch.device, precision: str, budget: Budget) -> Stages:
    from dain_core.runtime.backends.onnx import OnnxStages  # its package may be missing

    return OnnxStages(source.exports / source.entry.name, source.entry, precision, source.provider, budget)


def _suits_fused(config: Config, device: torch.device) -> bool:
    return isinstance(config, ModelConfig) and device.type == "cuda" and FusedDAIN.supports(config, device)


def _suits_refined(config: Config, device: torch.device) -> bool:
    return isinstance(config, RefinedConfig) and _suits_fused(config.base, device)


BACKENDS = (
    Backend("fused", "torch", _suits_fused, _fused),
    Backend("refined", "torch", _suits_refined, _refined),
    Backend("cpu", "torch", lambda config, device: device.type == "cpu", _cpu),
    Backend("plain", "torch", lambda config, device: True, _plain),
    Backend("onnx", "onnxruntime", lambda config, device: device.type == "cpu", _onnx),
)


def backend_for(config: Config, device: torch.device, runtime: str = "torch") -> Backend:
    """The first of the `BACKENDS` of a runtime that suits."""
    return next(each for each in BACKENDS if each.runtime == runtime and each.suits(config, device))
