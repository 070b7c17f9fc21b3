"""Whether pictures follow each other as their timestamps say."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import Any

import av
import av.video.stream
from av.bitstream import BitStreamFilterContext

LOOK_AHEAD = 64  # packets that the filter of `PictureOrder` holds back


class PictureOrder:
    """Compares the order of pictures with the order of their timestamps.

    Pictures of H.264 and HEVC carry their own order, and a filter of FFmpeg makes timestamps of that. Pictures of other
    codecs with a frame in each packet are shown as they come.
    """

    def __init__(self, stream: av.video.stream.VideoStream) -> None:
        self.is_known = stream.codec_context.codec.canonical_name in (
            "h264",
            "hevc",
        )  # by the pictures themselves
        self._filter = BitStreamFilterContext("dts2pts", stream) if self.is_known else None
        self._first: list[bytes] = []  # packets
        self._sent = 0
        self._waiting: deque[int | None] = (
            deque()
        )  # stamps of packets without a place, None of those not shown
        self._near: list[
            tuple[int, int]
        ] = []  # a heap of places with their stamps, as far as order may change them
        self._latest: tuple[int, int] | None = None  # that left the heap
        self._agrees = True
        self._is_broken = False

    def add(self, packet: av.Packet[Any], is_shown: bool) -> None:
        """Take the next packet in the order of decoding. The packet is of no use afterwards."""
        self._waiting.append(packet.pts if is_shown else None)
        if self._filter and len(self._first) < LOOK_AHEAD:
            self._first.append(bytes(packet))
        self._send(packet)

    def agrees(self) -> bool | None:
        """Whether the two orders are the same; None where the pictures do not tell. Call this once, at the end."""
        # The filter looks ahead, and at the end of a stream it makes mistakes: it is given the beginning once more.
        for data in itertools.islice(itertools.cycle(self._first), 2 * LOOK_AHEAD):
            if self._waiting:
                self._send(av.Packet(data))
        if self._is_broken or self._waiting:
            return None
        for now in sorted(self._near):
            self._compare(now)
        return self._agrees

    def _send(self, packet: av.Packet[Any]) -> None:
        place, self._sent = self._sent, self._sent + 1
        if not self._filter:
            self._put(place)
            return
        packet.pts, packet.dts = None, place
        try:
            if not self._is_broken:
                for made in self._filter.filter(packet):
                    self._put(made.pts)
                    # Soon after a picture that it knows no place for, the filter may abort the process.
                    self._is_broken = made.pts is None and bool(self._waiting)
        except MemoryError:
            raise
        except av.FFmpegError:
            self._is_broken = True

    def _put(self, place: int | None) -> None:
        """Take the place of the next packet that has none yet."""
        stamp = self._waiting.popleft() if self._waiting else None
        if place is None or stamp is None:
            return
        if len(self._near) < LOOK_AHEAD:
            heapq.heappush(self._near, (place, stamp))
        else:
            self._compare(heapq.heappushpop(self._near, (place, stamp)))

    def _compare(self, now: tuple[int, int]) -> None:
        """Compare the first place of those that are near with the one before."""
        if self._latest and not (self._latest[0] <= now[0] and self._latest[1] < now[1]):
            self._agrees = False
        self._latest = now
