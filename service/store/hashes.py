"""Hashes of files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from service.store import nothing

BLOCK_BYTES = 2**20


def hash_file(path: Path, step: Callable[[], None] = nothing) -> str:
    """The SHA-256 of a file's content, in hex; `step` is called after each block."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            step()
    return digest.hexdigest()
