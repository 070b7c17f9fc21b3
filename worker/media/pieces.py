"""Where the timestamps of a file start again, from the timestamps of its packets. See `worker.media.restarts`."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import NamedTuple


class Stamp(NamedTuple):
    """A packet's stream, its place in the file in bytes, and its times in ticks of the stream's clock."""

    stream: int
    position: int
    dts: int
    pts: int
    length: int


def shifts_of(stamps: Iterable[Stamp], picture: int) -> dict[int, list[tuple[int, int]]]:
    """The shifts of all streams, by the restarts of stream ``picture``; empty where it has none.

    ``stamps`` are those of all packets in the order of the file; all streams have the same clock. A piece begins where
    the picture's decode times go back. It follows the piece before it without a gap in the picture.

        >>> shifts_of([Stamp(0, 0, 0, 0, 10), Stamp(0, 1, 10, 10, 10), Stamp(0, 2, 0, 0, 10)], 0)
        {0: [(2, 20)]}
    """
    streams: dict[int, list[Stamp]] = {}
    for stamp in stamps:
        streams.setdefault(stamp.stream, []).append(stamp)
    pieces: list[list[Stamp]] = []
    for stamp in streams.get(picture, []):
        if not pieces or stamp.dts < pieces[-1][-1].dts:
            pieces.append([])
        pieces[-1].append(stamp)
    shifts = [0]
    for before, after in zip(pieces, pieces[1:], strict=False):
        end = max(stamp.pts + stamp.length for stamp in before)
        shifts.append(shifts[-1] + end - min(stamp.pts for stamp in after))
    if len(pieces) < 2:
        return {}
    begins = [piece[0].position for piece in pieces[1:]]
    return {stream: _shifts(packets, begins, shifts) for stream, packets in streams.items()}


def _shifts(packets: list[Stamp], begins: list[int], shifts: list[int]) -> list[tuple[int, int]]:
    """Where one stream comes into each piece: (number of the packet, ticks to add more than before)."""
    found: list[tuple[int, int]] = []
    piece, latest = 0, packets[0].dts
    for number, packet in enumerate(packets):
        # Sound may come before the picture that begins the piece: then it is known by going back itself.
        goes_back = packet.dts < latest
        now = max(piece, bisect.bisect_right(begins, packet.position), min(piece + goes_back, len(begins)))
        if now > piece:
            found.append((number, shifts[now] - shifts[piece]))
        piece, latest = now, packet.dts
    return found
