"""What the tests of launches share: the limits of every architecture, and the convolutions of every model."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from cuda_ext import reference
from dain_core.network.model import CONFIGS, DAIN, ModelConfig
from dain_core.runtime.backends.fused import FusedDAIN
from dain_core.runtime.backends.fused.layers import SliceConv2d

#: Architecture -> bytes of shared memory that a block may have, as the CUDA Programming Guide lists them
#: (cudaDevAttrMaxSharedMemoryPerBlockOptin).
SHARED_MEMORY = {
    "7.5": 65_536,
    "8.0": 166_912,
    "8.6": 101_376,
    "8.9": 101_376,
    "9.0": 232_448,
    "10.0": 232_448,
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
    """The fused network of a model, without weights."""
    with torch.device("meta"):
        return FusedDAIN(DAIN(ModelConfig.named(name)), dtype)


@functools.cache
def convolutions(name: str, dtype: torch.dtype) -> list[Convolution]:
    """Every different convolution of a model."""
    found = {}
    for module in fused(name, dtype).modules():
        if isinstance(module, SliceConv2d):
            groups, rows, columns = module.weight.shape[:3]
            wide, itemsize = module.out_dtype == torch.float32, module.weight.element_size()
            layer = (16 * groups, module.out_channels, rows, columns, module.dilation, itemsize, wide)
            found[layer] = Convolution(*layer)
    return list(found.values())
