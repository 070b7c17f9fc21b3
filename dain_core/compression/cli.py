"""``dain compress``: a model that takes less time, and what it loses by that."""

from __future__ import annotations

import click

from dain_core.compression.adapt import adapt
from dain_core.compression.prune import prune
from dain_core.compression.quantise import quantise


@click.group()
def compress() -> None:
    """Make a model faster, at a measured loss."""


compress.add_command(adapt)
compress.add_command(prune)
compress.add_command(quantise)
