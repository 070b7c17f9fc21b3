"""The error of exports."""

from __future__ import annotations

from dain_core.errors import DainCoreError


class ExportError(DainCoreError):
    """A network cannot be exported, or an export cannot be used: the message says why."""
