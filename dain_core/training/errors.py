"""The error that ends a training run."""

from __future__ import annotations

from dain_core.errors import DainCoreError


class TrainingError(DainCoreError):
    """Training cannot start or continue. The message says why and what to do."""
