"""What the tests of launches share: the limits of every architecture, and the convolutions of every model."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from cuda_ext import reference
from dain_core.network.model import CONFIGS, DAIN, ModelConfig
from dain_core.runtime.backends.fused import FusedDAIN
from dain_core.runtime.backends.fused.layers import EIGHT_BITS, SliceConv2d
from dain_core.runtime.calibration import Calibration

#: Architecture -> bytes of shared memory that a block may have, as the CUDA Programming Guide lists them
#: (cudaDevAttrMaxSharedMemoryPerBlockOptin).
SHARED_MEMORY = {
    "7.5": 65_536,
    "8.0": 166_912,
    "8.6": 101_376,
    "8.7": 166_912,
    "8.9": 101_376,
    "9.0": 232_448,
    "10.0": 232_448,
    "11.0": 232_448,
    "12.0": 101_376,
}

#: Models that the fused network runs.
MODELS = [name for name in CONFIGS if FusedDAIN.supports(ModelConfig.named(name), torch.device("cpu"))]


@dataclass(frozen=True)
class Convolution:
    """A layer as `convolve_into` sees it. `itemsize`: bytes of an input element; `wide`: the result is float32."""

    inputs: int
    outputs: int
    rows: int
    columns: int
    dilation: int
    itemsize: int
    wide: bool

    @property
    def hopper_weight(self) -> torch.Size:
        """The shape of the weight as it is packed for compute capability 9.0."""
        weight = torch.empty((self.outputs, self.inputs, self.rows, self.columns), device="meta")
        return reference.pack_weight_hopper(weight, self.itemsize).shape


@functools.cache
def fused(name: str, dtype: torch.dtype) -> FusedDAIN:
    """The fused network of a model, without weights; for `EIGHT_BITS` with as many of them as can be."""
    config = ModelConfig.named(name)
    blocks = FusedDAIN.eight_bit_blocks(config) if dtype == EIGHT_BITS else ()
    with torch.device("meta"):
        network = DAIN(config)
        calibrate(network)
        return FusedDAIN(network, torch.float16 if dtype == EIGHT_BITS else dtype, blocks)


def calibrate(network: DAIN) -> None:
    """Have every convolution think that it sees numbers from -1 to 1."""
    names = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    Calibration("any", "", "none", 0, dict.fromkeys(names, (-1.0, 1.0)), {}).apply(network)


@functools.cache
def convolutions_of_frames(
    name: str, dtype: torch.dtype, height: int, width: int
) -> list[tuple[Convolution, int, int]]:
    """Every convolution that two frames and what lies between them need, with the height and width of its map."""
    network, found = fused(name, dtype), []

    def note(module: SliceConv2d, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append((convolution_of(module), *inputs[0].shape[2:]))

    layers = [module for module in network.modules() if isinstance(module, SliceConv2d)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    with torch.inference_mode(), torch.device("meta"):
        first, second = (network.features(torch.empty(1, 3, height, width)) for _ in range(2))
        network.synthesise(first, second, network.motion(first, second), torch.empty(()))
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(found))


@functools.cache
def convolutions(name: str, dtype: torch.dtype) -> list[Convolution]:
    """Every different convolution of a model."""
    layers = [module for module in fused(name, dtype).modules() if isinstance(module, SliceConv2d)]
    return list(dict.fromkeys(convolution_of(layer) for layer in layers))


def convolution_of(layer: SliceConv2d) -> Convolution:
    groups, rows, columns = layer.weight.shape[:3]
    wide, itemsize = layer.out_dtype == torch.float32, layer.weight.element_size()
    return Convolution(16 * groups, layer.out_channels, rows, columns, layer.dilation, itemsize, wide)
