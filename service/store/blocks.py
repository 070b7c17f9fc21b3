"""Hashes of a large file's blocks: its parts are checked without reading all of it.

They lie beside the file as `<key>.blocks`, the SHA-256 of each block in order, 32 bytes each. Their own hash is on
record with the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from service.store import Store, StoreDamaged

BLOCK_BYTES = 8 * 2**20
DIGEST_BYTES = 32


def put_blocks(store: Store, path: Path, key: str, step: Callable[[], None]) -> str | None:
    """Put the hashes of the blocks of the scratch file `path`, which is to lie under `key`, beside it.

    Returns their hash; None where the file is small enough to be fetched whole. `step` is called after each block.
    """
    if path.stat().st_size <= store.whole_bytes:
        return None
    hashes = path.with_name("blocks")
    with path.open("rb") as file, hashes.open("wb") as written:
        while block := file.read(BLOCK_BYTES):
            written.write(hashlib.sha256(block).digest())
            step()
    return store.put(hashes, _beside(key), step=step).sha256


def read(
    store: Store, key: str, blocks_sha256: str, size_bytes: int, first: int, stop: int
) -> Iterator[bytes]:
    """The bytes from `first` up to `stop` of the file `key`, of `size_bytes`, piece by piece, each of them checked.

    Raises:
        StoreMissing: the file is gone.
        StoreDamaged: the next piece is not what was put there.
    """
    with store.fetch(_beside(key), sha256=blocks_sha256) as path:
        hashes = path.read_bytes()
    with store.reader(key) as read_at:
        for start in range(first - first % BLOCK_BYTES, stop, BLOCK_BYTES):
            block = read_at(start, min(start + BLOCK_BYTES, size_bytes))
            place = start // BLOCK_BYTES * DIGEST_BYTES
            if hashlib.sha256(block).digest() != hashes[place : place + DIGEST_BYTES]:
                raise StoreDamaged(key, f"has other contents than were put there, from byte {start} on")
            yield block[max(first - start, 0) : stop - start]


def _beside(key: str) -> str:
    return f"{key}.blocks"
