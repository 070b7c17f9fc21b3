"""What ends training."""

from __future__ import annotations


class TrainingError(Exception):
    """Training that cannot start or go on: the message says why, and what to do."""
