"""What packets say without being decoded: times, where these start again, and what they carry for their pictures."""

from __future__ import annotations

import itertools
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import av.logging
import av.video.stream

from worker.media import captions, messages
from worker.media.errors import MediaError, damaged, exceeded
from worker.media.facts import Choice, Limits, usual_gap
from worker.media.opened import (
    GENERATE_PTS,
    HAS_TIMES,
    TIMELESS,
    codec_of,
    open_file,
    pictures_in,
    rate_of,
    video_stream,
)
from worker.media.order import PictureOrder
from worker.media.pieces import Stamp, shifts_of
from worker.media.stills import ZIP, Stills

# A packet of these codecs is a frame that is shown; others hide frames or pack several into a packet.
FRAME_PER_PACKET = {"av1", "dnxhd", "ffv1", "gif", "h264", "hevc", "mjpeg", "prores", "rawvideo", "vp9"}
PROGRESSIVE = {0, 1}  # AVFieldOrder: unknown, progressive. Fields may come in packets of their own.
BREAK = re.compile("partial file|ended prematurely")  # FFmpeg's words
MARKED_BYTES = 4096  # of a packet, at its beginning or its end, within which it tells what it carries
LEAST_MARKED = 40  # bytes of a packet that can carry anything for its picture
CAPTIONS, DOLBY_VISION = messages.KINDS[messages.CAPTIONS], "DOVI_RPU_BUFFER"
#: What packets of `messages.SOURCES` carry, by the bytes that it begins with.
MARKS = {
    **messages.KINDS,
    **{messages.in_mpeg2(mark): name for mark, name in messages.KINDS.items()},
    b"\xb5\x00\x3b\x00\x00\x08\x00": DOLBY_VISION,  # in AV1
}
#: A unit of HEVC that holds Dolby Vision's description of a picture, which comes last in its packet.
RPU = re.compile(rb"\x00\x00([\x00-\x0f].|\x01)\x7c\x01\x19[\x08-\x0f]", re.DOTALL)


@dataclass(frozen=True)
class Scan:
    """What the packets of the video stream say, in units of ``time_base``.

    ``exact`` where each of them is known to be one shown frame with a timestamp, ``disordered`` where the pictures
    are in another order than their timestamps.
    """

    stream: int
    time_base: Fraction
    pts: Sequence[int]  # increasing
    end: int
    exact: bool
    disordered: bool
    timeless: bool  # the file holds no times: frames are an even ``time_base`` apart
    timed: bool  # each packet tells when its picture is shown
    whole: bool  # each packet is known to be one shown frame with a time of its own
    breaks_off: bool  # the file ends in the midst of something
    marks: dict[str, int]  # names of side data that packets carry, and the stamps of the first that do
    messages: list[str]  # those of these that can be taken out of packets


def scan_packets(path: Path, limits: Limits, choice: Choice) -> Scan:
    """Walk through the packets, without decoding, up to the end or to where the file breaks off."""
    if pictures := pictures_in(path, limits, choice):
        return _scan_of(pictures)
    stamps = array("q")
    latest, lasting = None, 0  # when the last picture so far is shown, and how long
    begins_whole = breaks_off = False
    timed = True
    marks: dict[str, int] = {}
    readable: set[str] = set()
    with open_file(path, limits) as container, av.logging.Capture() as complaints:
        stream = video_stream(container, choice.stream)
        context = stream.codec_context
        timeless = container.format.name in TIMELESS
        if choice.rate and not timeless:
            raise MediaError("invalid-option", HAS_TIMES)
        exact = context.codec.canonical_name in FRAME_PER_PACKET and context.field_order in PROGRESSIVE
        order, codec = PictureOrder(stream), codec_of(stream)
        try:
            for number, packet in enumerate(container.demux(stream)):
                if number == 0:
                    begins_whole = packet.is_keyframe
                if not packet.size:  # the end
                    continue
                if codec in messages.SOURCES and packet.size > LEAST_MARKED:
                    found = _marks(packet, codec)
                    stamp = packet.dts if packet.pts is None else packet.pts
                    marks = dict.fromkeys(found, len(stamps) if stamp is None else stamp) | marks
                    if not readable.issuperset(found):
                        readable.update(map(messages.kind, messages.read(bytes(packet), codec)))
                if packet.is_discard:  # outside the edit list
                    order.add(packet, is_shown=False)
                    continue
                if limits.max_frames is not None and len(stamps) == limits.max_frames:
                    raise exceeded(f"more than {limits.max_frames} frames", f"{limits.max_frames} frames")
                if packet.pts is None or timeless:  # to be counted; the decoder will know the time
                    exact = timed = False
                    stamps.append(len(stamps) if timeless or packet.dts is None else packet.dts)
                    continue
                stamps.append(packet.pts)
                if latest is None or packet.pts > latest:
                    latest, lasting = packet.pts, packet.duration or 0
                order.add(packet, is_shown=True)
        except MemoryError:  # which PyAV makes an FFmpegError, too
            raise
        except av.FFmpegError:
            breaks_off = True  # what came before the break is the video
        unit = 1 / rate_of(stream, choice) if timeless else stream.time_base or Fraction(1, 25)
        pts = array("q", (stamp for stamp, _ in itertools.groupby(sorted(stamps))))
        if not pts:
            raise damaged("it holds no frames")
        # Pictures before the first whole one, in order of display, may lack what they refer to.
        whole = exact and len(pts) == len(stamps)
        exact = whole and begins_whole and stamps[0] == pts[0]
        length = lasting if pts[-1] == latest else 0
        end = pts[-1] + (length or usual_gap(pts, round(1 / (25 * unit))))
        agrees = order.agrees() if begins_whole else None  # what pictures before a key frame say is no order
        return Scan(
            stream=stream.index,
            time_base=unit,
            pts=pts,
            end=end,
            exact=exact and agrees is True,
            disordered=order.is_known and agrees is False,
            timeless=timeless,
            timed=timed,
            whole=whole and agrees is not False,
            breaks_off=(
                breaks_off or _is_cut_off(path) or any(map(BREAK.search, (text for _, _, text in complaints)))
            ),
            marks=marks,
            messages=sorted(readable),
        )


def _marks(packet: av.Packet[Any], codec: str) -> set[str]:
    """What a packet says, at its beginning or its end, that it carries for its picture."""
    data = memoryview(packet)
    head = bytes(data[:MARKED_BYTES])
    found = {name for mark, name in MARKS.items() if mark in head}
    if codec == "hevc" and RPU.search(bytes(data[-MARKED_BYTES:])):
        found.add(DOLBY_VISION)
    return found


def _is_cut_off(path: Path) -> bool:
    """Whether the header of an AVI file tells of more bytes than there are. One that was never closed tells of none."""
    with path.open("rb") as file:
        head = file.read(12)
    told = 8 + int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and head[8:] == b"AVI " and path.stat().st_size < told < 1 << 32


def restarts(path: Path, choice: Choice) -> dict[int, list[tuple[int, int]]]:
    """Where the timestamps of a transport or program stream start again, as `Restarts` is stored."""
    stamps: list[Stamp] = []
    with open_file(path, Limits()) as container:
        picture = video_stream(container, choice.stream).index
        kept = [s for s in container.streams if s.type in ("video", "audio", "subtitle") and s.codec_context]
        places = dict.fromkeys((s.index for s in kept), 0)
        try:
            for packet in container.demux(kept):
                if packet.size and (dts := packet.dts if packet.dts is not None else packet.pts) is not None:
                    index = packet.stream.index
                    if (
                        packet.pos is not None and packet.pos >= 0
                    ):  # parts of what a packet of the file holds have none
                        places[index] = packet.pos
                    pts = dts if packet.pts is None else packet.pts
                    stamps.append(Stamp(index, places[index], dts, pts, packet.duration or 0))
        except MemoryError:  # which PyAV makes an FFmpegError, too
            raise
        except av.FFmpegError:
            pass  # a file cut off: what came before the cut is the video
    return shifts_of(stamps, picture)


def messages_in(path: Path, choice: Choice) -> dict[str, Any]:
    """The closed captions, and what describes pictures wherever it changes, with the clock that their times are of.

    Both are in the order in which they are shown. Where ``in_order`` is true, times are the numbers of frames.
    """
    with open_file(path, Limits()) as container:
        stream = video_stream(container, choice.stream)
        codec, timeless = codec_of(stream), container.format.name in TIMELESS
        unit = 1 / rate_of(stream, choice) if timeless else stream.time_base or Fraction(1, 25)
        if codec == "mpeg2video":
            container.flags |= GENERATE_PTS  # which is exact: its packets tell their order
        said = None if timeless else _said_by_packets(container, stream)
    if in_order := said is None:
        with open_file(path, Limits()) as container:
            said = _said_by_frames(container, video_stream(container, choice.stream))
    said.sort(key=lambda each: each[0])
    heard = [(time, b"".join(map(captions.triplets, several))) for time, several in said]
    others = (
        (time, messages.together(each for each in several if not each.startswith(messages.CAPTIONS)))
        for time, several in said
    )
    return {
        "captions": messages.packed([(time, triplets) for time, triplets in heard if triplets]),
        "described": messages.packed(
            [next(same) for _, same in itertools.groupby(others, key=lambda each: each[1])]
        ),
        "time_base": unit,
        "in_order": in_order,
    }


Said = list[tuple[int, list[bytes]]]  # times, in ticks, and the messages of a picture


def _said_by_packets(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> Said | None:
    """What each packet says; None where packets do not tell when their pictures are shown."""
    said, codec = [], codec_of(stream)
    with _up_to_a_break():
        for packet in container.demux(stream):
            time = packet.dts if packet.pts is None and codec == "mpeg2video" else packet.pts
            if packet.size and time is None:
                return None
            if packet.size and time is not None:
                said.append((time, messages.read(bytes(packet), codec)))
    return said


def _said_by_frames(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Said:
    """What the packet of each frame says, of a video that is decoded to know their order."""
    said: list[list[bytes]] = []
    context = stream.codec_context
    context.copy_opaque = True
    context.thread_type = "AUTO"
    with _up_to_a_break():
        for packet in container.demux(stream):
            packet.opaque = messages.read(bytes(packet), codec_of(stream))
            with suppress(av.error.InvalidDataError):
                frames: list[Any] = packet.decode()  # whose annotations say nothing of what is opaque
                said += (frame.opaque or [] for frame in frames)
    return list(enumerate(said))


@contextmanager
def _up_to_a_break() -> Iterator[None]:
    """A file may be cut off: what came before the cut is the video."""
    try:
        yield
    except MemoryError:  # which PyAV makes an FFmpegError, too
        raise
    except av.FFmpegError:
        pass


def _scan_of(pictures: Stills) -> Scan:
    unit = Fraction(1, math.lcm(*(time.denominator for time in pictures.times)))
    *pts, end = (int(time / unit) for time in pictures.times)
    return Scan(
        stream=0,
        time_base=unit,
        pts=pts,
        end=end,
        exact=True,
        disordered=False,
        timeless=pictures.container == ZIP,
        timed=True,
        whole=True,
        breaks_off=pictures.breaks_off,
        marks={},
        messages=[],
    )
