"""The ways to run a network, in one table: the first that suits a network and a device is chosen.

A new way (another runtime, say) is one more row of `BACKENDS` and a class with the methods of `Stages`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dain_core.network.model import DAIN, ModelConfig
from dain_core.network.networks import NETWORKS, Config, Network, build, is_narrowed
from dain_core.network.refined import RefinedConfig, RefinedDAIN
from dain_core.runtime.backends import int8
from dain_core.runtime.backends.cpu import CpuStages
from dain_core.runtime.backends.fused.network import FusedDAIN
from dain_core.runtime.backends.fused.stages import FusedStages
from dain_core.runtime.backends.mixed import convert_blocks
from dain_core.runtime.backends.plain import PlainStages
from dain_core.runtime.backends.refined import RefinedStages
from dain_core.runtime.backends.stages import BackendError, Stages
from dain_core.runtime.budget import Budget
from dain_core.runtime.calibration import load_calibration, place_of
from dain_core.runtime.devices import fastest_on_cpu
from dain_core.runtime.memory import keep_freed_memory
from dain_core.weights.files import load_weights
from dain_core.weights.registry import Entry

__all__ = ["BACKENDS", "PRECISIONS", "Backend", "Source", "Stages", "backend_for", "eight_bit_blocks"]

log = logging.getLogger("dain.engine")

#: The dtypes that a network can run in. In those of eight bits only convolutions are computed, and not all of them: see
#: `eight_bit_blocks`.
PRECISIONS = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
    "int8": torch.int8,
}


def eight_bit_blocks(precision: str, config: Config) -> tuple[str, ...]:
    """Return the blocks, as a network names its parts, that "fp8" or "int8" computes in eight bits if nobody chooses.

    docs/compression.md says what they cost. It is too much in the flow of the official network and in what is pruned of
    it. On a GPU flow and kernels have no eight bits at all.
    """
    if precision == "fp8":
        return FusedDAIN.eight_bit_blocks(config) if isinstance(config, ModelConfig) else ()
    with torch.device("meta"):
        names = [name for name, _ in build(config).named_children()]
    kept = "flow" if is_narrowed(config, NETWORKS["dain"]) else ""
    return tuple(name for name in names if name != kept)


@dataclass(frozen=True)
class Source:
    """What a network's stages are made from.

    Attributes:
        entry: the model.
        exports: the folder of exported models, each in a folder of its name.
        provider: see `OnnxStages`.
        eight_bits: the blocks that the precisions "fp8" and "int8" compute in eight bits, all others being as in
            the next wider precision of the device; None is `eight_bit_blocks`.
        blocks: on a CPU, the precision of each block by name, if they differ.
    """

    entry: Entry
    exports: Path = Path("exports")
    provider: str = ""
    eight_bits: Collection[str] | None = None
    blocks: Mapping[str, str] | None = None

    @property
    def config(self) -> Config:
        return self.entry.config

    def network(self) -> Network:
        """Make the network, with its weights; raises WeightsError if they cannot be read."""
        with torch.device("meta"):
            network = build(self.config)
        network.load_state_dict(load_weights(self.entry.weights, self.config), assign=True)
        return network

    def quantised(self, precision: str) -> tuple[Network, tuple[str, ...]]:
        """Make the network, with the ranges of its activations; return it, and its blocks of eight bits.

        Raises:
            CalibrationError: the model is not calibrated.
            BackendError: one of `eight_bits` is no block of the network.
            WeightsError: the weights cannot be read.
        """
        network = self.network()
        load_calibration(self.entry).apply(network)
        names = [name for name, _ in network.named_children()]
        if unknown := set(self.eight_bits or ()) - set(names):
            raise BackendError(
                f"{self.entry.name} has no block {min(unknown)!r} to compute in eight bits: it has {', '.join(names)}"
            )
        chosen = eight_bit_blocks(precision, self.config) if self.eight_bits is None else self.eight_bits
        return network, tuple(name for name in names if name in chosen)


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
    if precision == "fp8":
        model, blocks = _fused_eight_bits(source)
        return FusedStages(FusedDAIN(model.to(device), torch.float16, blocks), device, budget)
    network = source.network()
    assert isinstance(network, DAIN)
    return FusedStages(FusedDAIN(network.to(device), PRECISIONS[precision]), device, budget)


def _fused_eight_bits(source: Source) -> tuple[DAIN, Collection[str]]:
    """The network, and its blocks of eight bits."""
    assert isinstance(source.config, ModelConfig)
    possible = FusedDAIN.eight_bit_blocks(source.config)
    if unable := set(source.eight_bits or ()) - set(possible):
        raise BackendError(
            f"{source.entry.name} has no block {min(unable)!r} that fp8 can compute: choose of {', '.join(possible)}"
        )
    if "context" in (source.eight_bits or ()) and "rectify" not in (source.eight_bits or ()):
        raise BackendError(
            "fp8 computes the block context only where it computes rectify, which sees it: name both"
        )
    if source.eight_bits is None and not place_of(source.entry).is_file():
        log.warning(
            "%s is not calibrated: fp8 computes one convolution in eight bits. `dain compress quantise` helps",
            source.entry.name,
        )
        network: Network = source.network()
        chosen: tuple[str, ...] = ("rectify",)
    else:
        network, chosen = source.quantised("fp8")
    assert isinstance(network, DAIN)
    return network, [name for name in chosen if name in possible]


def _refined(source: Source, device: torch.device, precision: str, budget: Budget) -> Stages:
    model = source.network()
    assert isinstance(model, RefinedDAIN)
    if precision == "fp8":
        log.warning("%s has no form in fp8: it computes in fp16", source.entry.name)
    dtype = torch.float16 if precision == "fp8" else PRECISIONS[precision]
    return RefinedStages(model, device, dtype, budget)


def _cpu(source: Source, device: torch.device, precision: str, budget: Budget) -> Stages:
    keep_freed_memory()
    if source.blocks is not None:
        return CpuStages(_mixed(source, source.blocks), budget)
    if precision == "int8":
        network, blocks = source.quantised(precision)
        network.prepare(PRECISIONS[fastest_on_cpu()])
        int8.quantise(network, blocks)
        return CpuStages(network, budget)
    return CpuStages(source.network().prepare(PRECISIONS[precision]), budget)


def _mixed(source: Source, precisions: Mapping[str, str]) -> Network:
    """The network with a precision for each of its blocks, on a CPU."""
    network, blocks = source.quantised("int8") if source.eight_bits else (source.network(), ())
    network.prepare(torch.float32)
    convert_blocks(network, {name: PRECISIONS[each] for name, each in precisions.items() if each != "int8"})
    int8.quantise(network, blocks)
    return network


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
    return (
        isinstance(config, RefinedConfig) and device.type == "cuda" and RefinedStages.supports(config, device)
    )


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
