"""The network for GPUs with tensor cores; `dain_core.network.model` is what it must equal."""

from dain_core.runtime.backends.fused.network import FusedDAIN

__all__ = ["FusedDAIN"]
