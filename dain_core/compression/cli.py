"""``dain compress``: a model that takes less time, and what it loses by that."""

from __future__ import annotations

import click

from dain_core.options import LateGroup

COMMANDS = {
    "adapt": (
        "dain_core.compression.adapt",
        "adapt",
        "Train a model to lose less in eight bits, if it loses much.",
    ),
    "prune": (
        "dain_core.compression.prune",
        "prune",
        "Remove the channels that matter least, and train what is left.",
    ),
    "quantise": (
        "dain_core.compression.quantise",
        "quantise",
        "Calibrate a model for eight bits on real frames.",
    ),
}


@click.group(cls=LateGroup, late=COMMANDS)
def compress() -> None:
    """Make a model faster, at a measured loss."""
