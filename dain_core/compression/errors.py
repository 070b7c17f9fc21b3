"""The error of commands that make networks smaller."""

from __future__ import annotations

from dain_core.errors import DainCoreError


class CompressionError(DainCoreError):
    """A network cannot be pruned or tuned as asked. The message says what is wrong and what to do."""
