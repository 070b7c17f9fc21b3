"""The network for GPUs with tensor cores; `dain_core.model` is what it must equal."""

from dain_core.fused.network import FusedDAIN

__all__ = ["FusedDAIN"]
