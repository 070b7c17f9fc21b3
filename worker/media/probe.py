"""What is in a video file. Only a process in the sandbox runs this: see `worker.media.sandbox`.

``python -m worker.media.probe QUESTION FILE`` prints one JSON object. Questions are "probe", which is answered by
``{"video": facts}``, "picture", which is answered by ``{"picture": the first frame}``, "times", which is answered by
``{"times": …}``, "restarts", which is answered by ``{"restarts": shifts}``, and "messages", which is answered by
``{"messages": …}``. Any other answer is ``{"error": {"type": slug, "detail": sentence}}``.
"""

from __future__ import annotations

import argparse
import ctypes
import heapq
import io
import itertools
import json
import math
import re
import struct
import sys
from array import array
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.audio.stream
import av.container
import av.logging
import av.subtitles.stream  # which PyAV imports late: each fork would
import av.video.stream
from av.bitstream import BitStreamFilterContext
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from service.jobs.notes import Note
from worker.media import captions, messages, sandbox
from worker.media.confinement import confine
from worker.media.errors import EXPORT_AGAIN, TAKEN, MachineError, MediaError, damaged, exceeded, unreadable
from worker.media.facts import (
    DEFAULT_CHOICE,
    MAX_PIXELS,
    AudioInfo,
    Choice,
    Limits,
    OtherInfo,
    SubtitleInfo,
    VideoInfo,
    color_matrix,
    is_rgb,
    usual_gap,
)
from worker.media.moments import packed
from worker.media.picture import jpeg
from worker.media.pieces import Stamp, shifts_of
from worker.media.stills import WEBP, ZIP, Stills

LIBRARIES = (Path(json.__file__).parents[1], Path(av.__file__).parents[1])

PICTURE_WIDTH = 320  # of the first frame, at most
RGB, BT709, SRGB = 0, 1, 13  # in the code points of ITU-T H.273
LINEAR = ("exr",)  # codecs of pictures whose samples are light as such
DEFAULT_RATE = 25  # frames a second of what holds no times
GENERATE_PTS = 1  # AVFMT_FLAG_GENPTS, which PyAV sets
VIEW_ID = 29  # AVFrameSideDataType, unknown to PyAV
OPAQUE = 255  # of alpha in 8 bits
JPEG_RANGE = 2  # AVColorRange: black is 0 and white the highest code

# A packet of these codecs is a frame that is shown; others hide frames or pack several into a packet.
TIMELESS = sandbox.TIMELESS.split(",")
FRAME_PER_PACKET = {"av1", "dnxhd", "ffv1", "gif", "h264", "hevc", "mjpeg", "prores", "rawvideo", "vp9"}
LOOK_AHEAD = 64  # packets that the filter of `_PictureOrder` holds back
FIELD_ORDERS = {2: "tff", 5: "tff", 3: "bff", 4: "bff"}  # AVFieldOrder -> which field is shown first
PROGRESSIVE = {0, 1}  # AVFieldOrder: unknown, progressive. Fields may come in packets of their own.
PICTURE_SIZE = re.compile(r"Picture size (\d+x\d+) is invalid")  # FFmpeg's words
BREAK = re.compile("partial file|ended prematurely")  # FFmpeg's words, too
NOT_A_FILM = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails


CHROMA_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")  # FFmpeg's, from 1 on
CHROMA_LOCATION = re.compile(rf"[(, ]({'|'.join(CHROMA_LOCATIONS)})\)")
STREAM_LINE = re.compile(r" *Stream #0:(\d+)\D")
DATA_TAG = re.compile(r": Data: .*\((\S{4}) / 0x")
MASTERING = struct.Struct("=22i")  # AVMasteringDisplayMetadata: ten fractions and two flags
STEREO = {
    1: "side by side",
    2: "top and bottom",
    3: "frame alternate",
    4: "checkerboard",
    5: "side by side (quincunx subsampling)",
    6: "interleaved lines",
    7: "interleaved columns",
}  # AVStereo3DType
INVERTED = ", right view first"
TIMECODE = re.compile(r"\d\d:\d\d:\d\d[:;.]\d\d", re.ASCII)
#: Side data that may not come through, and that the result says so of.
NOTABLE = {
    *(SideData.A53_CC, SideData.AFD, SideData.AMBIENT_VIEWING_ENVIRONMENT, SideData.DOVI_METADATA),
    *(
        SideData.DOVI_RPU_BUFFER,
        SideData.DYNAMIC_HDR_PLUS,
        SideData.DYNAMIC_HDR_VIVID,
        SideData.FILM_GRAIN_PARAMS,
    ),
    *(SideData.ICC_PROFILE, SideData.SPHERICAL),
}


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
DOLBY_VISION_PROFILE = re.compile(r"DOVI configuration record: .*profile: (\d+).*compatibility id: (\d+)")
SYNONYMS = (("hearing_impaired", "captions"), ("visual_impaired", "descriptions"))
LANGUAGE = re.compile(r"-[a-z]{3}$")  # behind the name of a tag
#: Tags about the file itself, as its writer left them.
TECHNICAL = re.compile(
    "major_brand|minor_version|compatible_brands|creation_time|modification_date|duration|encoder|software|timecode|"
    r"wmfsdk.*|isvbr|deviceconformancetemplate|metadata\w+|has[a-z]+|canseektoend|audiodelay|\w+size|last\w+|"
    r"\w*uid|\w*umid|product_\w+|company_name|application_platform|toolkit_version|operational_pattern_ul|_.*"
)


ONE_VIEW = Note.of(
    "one-view", "The video is a spatial one, with a view for each eye: the result has the base view alone."
)
ONE_PICTURE = (
    "The file is a single picture, and nothing lies between. Send two or more pictures in a ZIP archive."
)
HAS_TIMES = "source_fps is for files that hold no times. This one has its own: leave source_fps out."
CLIPPED = Note.of(
    "light-clipped",
    "The pictures hold light as such. They are shown as sRGB: what is brighter than white is white.",
)
TURNED = Note.of(
    "side-data-dropped",
    "Not all pictures say by EXIF that they are turned the same way: all are turned as the first is.",
)
BREAKS_OFF = Note.of(
    "file-truncated",
    "The file breaks off before its end: what there is of it is taken.",
)


def _open(path: Path, limits: Limits) -> av.container.InputContainer:
    """Open the file with the demuxers that strangers' files may reach; MediaError where it is none of theirs."""
    if path.stat().st_size == 0:
        raise unreadable("it is empty")
    options = {"protocol_whitelist": sandbox.PROTOCOLS, "format_whitelist": sandbox.FORMATS}
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as messages:
        try:
            container = av.open(sandbox.url(path), options=options, metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            _check_size(messages, limits)
            if any("whitelist" in text for _, _, text in messages):
                detail = f"The file is in a format that is not accepted. {TAKEN} {EXPORT_AGAIN}"
                raise MediaError("unsupported-format", detail) from error
            raise unreadable("its contents are not those of a video, or are cut off") from error
    container.flags &= ~GENERATE_PTS  # a guessed timestamp must not pass for an exact one
    return container


def _video_stream(
    container: av.container.InputContainer, chosen: int | None = None
) -> av.video.stream.VideoStream:
    """The largest moving picture, or stream `chosen`; MediaError where there is none."""
    films = [s for s in container.streams.video if not s.disposition & NOT_A_FILM and s.codec_context]
    if not films:
        detail = "The file has no moving picture that can be decoded. Send one that has, as MP4 (H.264)."
        raise MediaError("no-video-stream", detail)
    if chosen is None:  # the still picture that an AVIF sequence begins with is as large as the sequence
        return max(films, key=lambda stream: (stream.frames != 1, stream.width * stream.height))
    for stream in films:
        if stream.index == chosen:
            return stream
    there = ", ".join(f"{s.index} ({_codec(s)}, {s.width}x{s.height})" for s in films)
    detail = f"Stream {chosen} of the file is no moving picture that can be decoded. There is {there}."
    raise MediaError("no-video-stream", detail)


def _rate(stream: av.video.stream.VideoStream, choice: Choice) -> Fraction:
    """How many frames a second a stream without times has: as it is chosen, or as the pictures say, or else 25."""
    return Fraction(choice.rate or stream.guessed_rate or DEFAULT_RATE)


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


def _scan(path: Path, limits: Limits, choice: Choice) -> Scan:
    """Walk through the packets, without decoding, up to the end or to where the file breaks off."""
    if pictures := _pictures(path, limits, choice):
        return _scan_of(pictures)
    stamps = array("q")
    latest, lasting = None, 0  # when the last picture so far is shown, and how long
    begins_whole = breaks_off = False
    timed = True
    marks: dict[str, int] = {}
    readable: set[str] = set()
    with _open(path, limits) as container, av.logging.Capture() as complaints:
        stream = _video_stream(container, choice.stream)
        context = stream.codec_context
        timeless = container.format.name in TIMELESS
        if choice.rate and not timeless:
            raise MediaError("invalid-option", HAS_TIMES)
        exact = context.codec.canonical_name in FRAME_PER_PACKET and context.field_order in PROGRESSIVE
        order, codec = _PictureOrder(stream), _codec(stream)
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
        unit = 1 / _rate(stream, choice) if timeless else stream.time_base or Fraction(1, 25)
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


class _PictureOrder:
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


def _restarts(path: Path, choice: Choice) -> dict[int, list[tuple[int, int]]]:
    """Where the timestamps of a transport or program stream start again, as `Restarts` is stored."""
    stamps: list[Stamp] = []
    with _open(path, Limits()) as container:
        picture = _video_stream(container, choice.stream).index
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


def _messages(path: Path, choice: Choice) -> dict[str, Any]:
    """The closed captions, and what describes pictures wherever it changes, with the clock that their times are of.

    Both are in the order in which they are shown. Where ``in_order`` is true, times are the numbers of frames.
    """
    with _open(path, Limits()) as container:
        stream = _video_stream(container, choice.stream)
        codec, timeless = _codec(stream), container.format.name in TIMELESS
        unit = 1 / _rate(stream, choice) if timeless else stream.time_base or Fraction(1, 25)
        if codec == "mpeg2video":
            container.flags |= GENERATE_PTS  # which is exact: its packets tell their order
        said = None if timeless else _said_by_packets(container, stream)
    if in_order := said is None:
        with _open(path, Limits()) as container:
            said = _said_by_frames(container, _video_stream(container, choice.stream))
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
    said, codec = [], _codec(stream)
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
            packet.opaque = messages.read(bytes(packet), _codec(stream))
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


def _pictures(path: Path, limits: Limits, choice: Choice) -> Stills | None:
    """The pictures that the file is made of; None where it is an ordinary video."""
    found = Stills.find(path, Fraction(choice.rate or DEFAULT_RATE))
    if found and found.container == WEBP and choice.rate:
        raise MediaError("invalid-option", HAS_TIMES)
    if found and limits.max_frames is not None and len(found.times) - 1 > limits.max_frames:
        raise exceeded(f"{len(found.times) - 1} pictures", f"{limits.max_frames} pictures")
    return found


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


def _first_picture(pictures: Stills, limits: Limits) -> av.container.InputContainer:
    """The first picture as a video of one frame."""
    if pictures.size and pictures.size[0] * pictures.size[1] > limits.max_pixels:
        size = "x".join(map(str, pictures.size))
        raise exceeded(f"frames of {size} pixels", f"{limits.max_pixels} pixels a frame")
    av.logging.set_level(av.logging.ERROR)
    try:
        return av.open(io.BytesIO(pictures.first), "r", format=pictures.demuxer)
    except (av.FFmpegError, ValueError) as error:
        raise unreadable("its first picture is damaged, or is not what its name says") from error


def _film(
    container: av.container.InputContainer, limits: Limits, choice: Choice
) -> av.video.stream.VideoStream:
    """The moving picture that is chosen; MediaError where its frames are too large."""
    stream = _video_stream(container, choice.stream)
    if stream.width * stream.height > limits.max_pixels:
        size = f"frames of {stream.width}x{stream.height} pixels"
        raise exceeded(size, f"{limits.max_pixels} pixels a frame")
    return stream


def _picture(path: Path, limits: Limits, choice: Choice) -> str:
    """The first frame as a small JPEG, in base64."""
    pictures = _pictures(path, limits, choice)
    with _first_picture(pictures, limits) if pictures else _open(path, limits) as container:
        stream = _film(container, limits, choice)
        frame = _first_frame(container, stream, limits)
        drawn = jpeg(
            [frame],
            width=PICTURE_WIDTH,
            matrix=color_matrix(frame.colorspace, frame.width, frame.height),
            is_full=frame.color_range == JPEG_RANGE,
            aspect=stream.sample_aspect_ratio or Fraction(1),
            rotation=frame.rotation,
        )
        return b64encode(drawn).decode()


def _facts(path: Path, limits: Limits, choice: Choice) -> VideoInfo:
    """Open the file, decode its first frame, walk through its packets."""
    pictures = _pictures(path, limits, choice)
    with _first_picture(pictures, limits) if pictures else _open(path, limits) as container:
        stream = _film(container, limits, choice)
        if stream.duration and limits.max_duration is not None:
            _check_duration(stream.duration * (stream.time_base or Fraction(1)), limits.max_duration)
        frame = _first_frame(container, stream, limits)
        scan = _scan(path, limits, choice)
        if container.format.name in ("jpeg_pipe", "mjpeg") and not pictures and len(scan.pts) == 1:
            raise MediaError("no-video-stream", ONE_PICTURE)
        codec = pictures.codec if pictures else _codec(stream)
        notes = {
            ONE_VIEW: _has_views(frame),
            BREAKS_OFF: scan.breaks_off,
            CLIPPED: codec in LINEAR,
            TURNED: bool(pictures and pictures.turned),
        }
        lines, alpha_stream = _described(container), _alpha_stream(container, stream)
        return VideoInfo(
            container=pictures.container if pictures else container.format.name,
            codec=codec,
            stream=stream.index,
            **_planes(frame, stream, pictures, alpha_stream is not None),
            **_times(scan, container, stream, pictures, limits),
            **_colors(frame, codec),
            sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
            display_matrix=_display_matrix(frame),
            rotation=frame.rotation % 360,
            audio=tuple(
                AudioInfo(
                    s.index,
                    _codec(s),
                    _channels(s),
                    s.codec_context.sample_rate,
                    **_names(s),
                    roles=_roles(s),
                )
                for s in _sounds(container)
            ),
            subtitles=tuple(
                SubtitleInfo(s.index, _codec(s), **_names(s), roles=_roles(s))
                for s in container.streams.subtitles
                if s.codec_context
            ),
            field_order=FIELD_ORDERS.get(
                stream.codec_context.field_order, "tff" if frame.interlaced_frame else ""
            ),
            notes=tuple(note for note, is_so in notes.items() if is_so),
            others=tuple(_others(container, (stream.index, alpha_stream), lines)),
            alpha_stream=alpha_stream,
            chapters=len(container.chapters()),
            chroma_location=_chroma_location(lines[stream.index][0]),
            **_side_data(frame, scan),
            **_names(stream),
            timecode=_timecode(container, stream),
            tags=_tags(container),
            captions=CAPTIONS in scan.messages,
            described=tuple(name for name in scan.messages if name != CAPTIONS),
            dolby_vision=_dolby_vision(lines[stream.index]),
        )


def _planes(
    frame: av.VideoFrame, stream: av.video.stream.VideoStream, pictures: Stills | None, has_alpha_stream: bool
) -> dict[str, Any]:
    """The facts about the samples of a decoded frame."""
    pixels = frame.format.name
    # WebM has alpha in a stream of its own beside the picture, which FFmpeg's own decoders leave out.
    said = {name.lower(): value for name, value in stream.metadata.items()}
    hidden_alpha = has_alpha_stream or (_codec(stream) in ("vp8", "vp9") and said.get("alpha_mode") == "1")
    width, height = (pictures and pictures.size) or (frame.width, frame.height)
    depth = 8 if frame.format.has_palette else max(part.bits for part in frame.format.components)
    if pictures:
        depth = max(depth, pictures.depth)
    return {
        "width": width,
        "height": height,
        "pixel_format": pixels,
        "working_format": working_format(pixels, width, height, depth),
        "alpha": _has_alpha(frame.format) or hidden_alpha or (pictures is not None and pictures.alpha),
        "transparent": hidden_alpha or _is_transparent(frame),
        "depth": depth,
    }


def _times(
    scan: Scan,
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    pictures: Stills | None,
    limits: Limits,
) -> dict[str, Any]:
    """The facts about time; MediaError where the picture lasts longer than is allowed."""
    first, duration = scan.pts[0] * scan.time_base, (scan.end - scan.pts[0]) * scan.time_base
    if limits.max_duration is not None:
        _check_duration(duration, limits.max_duration)
    sounds = _sounds(container)
    begins = [s.start_time * s.time_base for s in sounds if s.start_time is not None and s.time_base]
    written = None if scan.timeless or pictures else stream.average_rate
    return {
        "frames": len(scan.pts),
        "time_base": scan.time_base,
        "start": min([first, *begins]),
        "average_rate": _average_rate(written, len(scan.pts) / duration),
        "duration": duration,
    }


def _colors(frame: av.VideoFrame, codec: str) -> dict[str, Any]:
    """The facts about colour. Pictures that hold light as such are shown as sRGB."""
    rgb, is_light = is_rgb(frame.format), codec in LINEAR
    is_full = frame.color_range == JPEG_RANGE or frame.format.name.startswith("yuvj")
    return {
        "primaries": BT709 if is_light else frame.color_primaries,
        "transfer": SRGB if is_light else frame.color_trc,
        "matrix": BT709 if rgb or frame.colorspace == RGB else frame.colorspace,  # PNG says RGB of gray, too
        "full_range": not rgb and is_full,
    }


def _sounds(container: av.container.InputContainer) -> list[av.audio.stream.AudioStream]:
    return [stream for stream in container.streams.audio if stream.codec_context]


def _roles(stream: av.stream.Stream) -> tuple[str, ...]:
    """What a track is marked with. Of two marks that mean the same, which FFmpeg makes of one, the first counts."""
    found = {role.name for role in Disposition if role.name and stream.disposition & role}
    found -= {second for first, second in SYNONYMS if first in found}
    return tuple(sorted(found))


def _tags(container: av.container.InputContainer) -> tuple[str, ...]:
    """The names of what the file says of itself, but for what is about the file and not about the video."""
    names = {LANGUAGE.sub("", name.lower()) for name, value in container.metadata.items() if value}
    return tuple(sorted(name for name in names if not TECHNICAL.fullmatch(name)))


def _has_alpha(pixels: av.VideoFormat) -> bool:
    return pixels.has_palette or any(part.is_alpha for part in pixels.components)


def _is_transparent(frame: av.VideoFrame) -> bool:
    """Whether any pixel is not opaque."""
    if not _has_alpha(frame.format):
        return False
    [plane] = frame.reformat(format="rgba").planes  # by plain Python: the service has no NumPy
    rows = range(0, plane.line_size * frame.height, plane.line_size)
    data = memoryview(plane)
    return any(min(data[row + 3 : row + 4 * frame.width : 4]) < OPAQUE for row in rows)


def _others(
    container: av.container.InputContainer, picture: Sequence[int | None], lines: Sequence[Sequence[str]]
) -> Iterator[OtherInfo]:
    """The streams that are neither the picture, nor sound, nor subtitles; timecode and chapters are facts of their own.

    ``picture`` are the streams that make up the picture, ``lines`` what FFmpeg says about each stream.
    """
    is_avif = container.metadata.get("major_brand") == "avis"
    for stream in container.streams:
        if is_avif and stream.type == "video" and stream.frames == 1:
            continue  # the still picture that the sequence begins with
        if stream.type == "video" and stream.index not in picture and stream.codec_context:
            is_still = bool(stream.disposition & NOT_A_FILM)
            yield OtherInfo(stream.index, "cover" if is_still else "film", _codec(stream))
        elif stream.type == "attachment":
            yield OtherInfo(stream.index, "attachment", stream.name or "unnamed")
        elif stream.type == "data":
            tag = DATA_TAG.search(lines[stream.index][0])
            name = tag[1] if tag else stream.name or "unknown"
            if name not in ("tmcd", "text"):
                yield OtherInfo(stream.index, "data", name)


def _alpha_stream(container: av.container.InputContainer, picture: av.video.stream.VideoStream) -> int | None:
    """The stream of an AVIF sequence that says how opaque the pictures of another are; None where there is none."""
    for stream in container.streams.video if container.metadata.get("major_brand") == "avis" else ():
        is_as_long = stream.codec_context and stream.index > picture.index and stream.frames == picture.frames
        if is_as_long and (stream.codec_context.pix_fmt or "").startswith("gray"):
            return stream.index
    return None


def _described(container: av.container.InputContainer) -> list[list[str]]:
    """What FFmpeg says about each stream, line by line, which is more than PyAV gives."""
    for level in (av.logging.set_level, av.logging.set_libav_level):
        level(av.logging.VERBOSE)
    dump: Any = container  # whose annotations lack it
    lines = dump.dumps_format().splitlines()
    av.logging.set_level(av.logging.ERROR)
    starts = [k for k, line in enumerate(lines) if STREAM_LINE.match(line)]
    found = {
        int(match[1]): lines[start:stop]
        for start, stop in itertools.pairwise([*starts, len(lines)])
        if (match := STREAM_LINE.match(lines[start]))
    }
    return [found.get(stream.index, [""]) for stream in container.streams]


def _dolby_vision(lines: Iterable[str]) -> str:
    """The profile of Dolby Vision and the kind of its base layer, such as "8.1", by what FFmpeg says."""
    found = (DOLBY_VISION_PROFILE.search(line) for line in lines)
    return next((".".join(match.groups()) for match in found if match), "")


def _chroma_location(line: str) -> int:
    """FFmpeg's number for where chroma samples lie, by what it says about the stream."""
    found = CHROMA_LOCATION.search(line)
    return 1 + CHROMA_LOCATIONS.index(found[1]) if found else 0


def _channels(stream: av.audio.stream.AudioStream) -> int:
    """How many channels there are.

    PyAV 18.1 shares the memory of a layout of channels in an order of its own, and frees it, as its owner does. So the
    layout is never let go of.
    """
    layout = stream.codec_context.layout
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return layout.nb_channels


def _names(stream: av.stream.Stream) -> dict[str, Any]:
    """Language and title, which MP4 calls name."""
    said = stream.metadata
    language = said.get("language", "")
    return {
        "language": "" if language == "und" else language,
        "title": said.get("title") or said.get("name", ""),
    }


def _side_data(frame: av.VideoFrame, scan: Scan) -> dict[str, Any]:
    """The facts that come as side data of the first frame, and what packets carry."""
    try:
        given: Any = frame.side_data
        found = {data.type: bytes(data) for data in given or ()}
    except ValueError:  # PyAV gives none at all where it does not know one type
        found = {}
    begins = scan.marks | {kind.name: scan.pts[0] for kind in found if kind in NOTABLE}
    facts: dict[str, Any] = {
        "side_data": tuple(sorted(begins)),
        "side_data_times": tuple(str(begins[name] * scan.time_base) for name in sorted(begins)),
    }
    if (data := found.get(SideData.MASTERING_DISPLAY_METADATA)) and len(data) == MASTERING.size:
        *parts, has_primaries, has_luminance = MASTERING.unpack(data)
        if has_primaries and has_luminance and all(parts[1::2]):
            # Primaries come as red, green, blue and white, each x and y; then the least and the most light.
            values = list(map(Fraction, parts[::2], parts[1::2]))
            rx, ry, gx, gy, bx, by, wx, wy = (round(value * 50000) for value in values[:8])
            least, most = (round(value * 10000) for value in values[8:])
            facts["mastering"] = f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({most},{least})"
    if (data := found.get(SideData.CONTENT_LIGHT_LEVEL)) and len(data) >= 8:
        facts["light"] = "{},{}".format(*struct.unpack_from("=II", data))
    if (data := found.get(SideData.STEREO3D)) and len(data) >= 8:
        kind, flags = struct.unpack_from("=ii", data)
        if kind in STEREO:
            facts["stereo"] = STEREO[kind] + (INVERTED if flags & 1 else "")
    return facts


def _timecode(container: av.container.InputContainer, picture: av.video.stream.VideoStream) -> str:
    """The timecode of the first frame, wherever the file says it."""
    said = [picture.metadata, container.metadata, *(s.metadata for s in container.streams.data)]
    found = (each.get(name, "") for each in said for name in ("timecode", "TIMECODE"))  # as Matroska has it
    return next(filter(TIMECODE.fullmatch, found), "")


def _codec(stream: av.stream.Stream) -> str:
    return stream.codec_context.codec.canonical_name


def _first_frame(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, limits: Limits
) -> av.VideoFrame:
    """The first frame that can be decoded; MediaError where none can."""
    reason = "it has none"
    stream.codec_context.thread_count = 1  # this thread: whose messages are heard
    with av.logging.Capture() as messages:
        try:
            for packet in container.demux(stream):
                try:
                    for frame in packet.decode():
                        return frame
                except av.error.InvalidDataError as error:  # a later packet may be whole
                    reason = error.strerror or reason
        except av.FFmpegError as error:
            reason = error.strerror or reason
    _check_size(messages, limits)
    raise damaged(f"no frame of it could be decoded ({reason})")


def _check_size(messages: Iterable[tuple[int, str, str]], limits: Limits) -> None:
    """Raise where FFmpeg says that a picture is larger than it can decode at all."""
    found = [size for _, _, text in messages for size in PICTURE_SIZE.findall(text)]
    if found:
        raise exceeded(f"frames of {found[0]} pixels", f"{limits.max_pixels} pixels a frame")


def _check_duration(seconds: Fraction, most: float) -> None:
    if float(seconds) > most:
        raise exceeded(f"{float(seconds):.0f} seconds", f"{most:g} seconds")


def _average_rate(written: Fraction | None, measured: Fraction) -> Fraction:
    """The rate in the header, which is a round number, where the timestamps bear it out."""
    return written if written and abs(written / measured - 1) < Fraction(1, 100) else measured


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    # PyAV gives no side data at all where it does not know one type, such as that of a spatial video's view.
    try:
        side_data: Any = frame.side_data  # its annotations say that it iterates over names; it does over data
    except ValueError:
        return _turned(frame.rotation % 360)
    found = [bytes(data) for data in side_data if data.type is SideData.DISPLAYMATRIX]
    return struct.unpack("=9i", found[0]) if found else ()


def _turned(degrees: int) -> tuple[int, ...]:
    """FFmpeg's nine numbers of a picture that is turned counterclockwise by ``degrees``; none where it is upright."""
    if not degrees:
        return ()
    cosine, sine = (round(part(math.radians(degrees)) * 65536) for part in (math.cos, math.sin))
    return (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30)


def _has_views(frame: av.VideoFrame) -> bool:
    """Whether the frame is one view of several (MV-HEVC), as in spatial videos."""
    try:
        return frame.side_data is None
    except ValueError as error:
        return str(error).startswith(f"{VIEW_ID} ")


def working_format(name: str, width: int, height: int, depth: int) -> str:
    """The planar YUV format nearest to ``name`` of ``depth`` bits, in which frames of this size can be encoded.

    More than 8 bits become 10. RGB keeps its full colour resolution; alpha is dropped. H.264 has no odd sizes
    where chroma is subsampled, so these become 4:4:4, which keeps the size and every luma sample.
    """
    pixels = av.VideoFormat(name, 16, 16)
    parts = pixels.components
    gray = len([part for part in parts if not part.is_alpha]) < 3
    halved_x = not is_rgb(pixels) and (gray or pixels.chroma_width(16) < 16)
    halved_y = not is_rgb(pixels) and (gray or pixels.chroma_height(16) < 16)
    if (halved_x and width % 2) or (halved_y and height % 2) or not halved_x:
        layout = "yuv444p"
    else:
        layout = "yuv420p" if halved_y else "yuv422p"
    return layout + ("10le" if depth > 8 else "")


def answer(question: str, path: Path, limits: Limits, choice: Choice = DEFAULT_CHOICE) -> dict[str, Any]:
    """The answer to ``question``; an error is an answer, too."""
    try:
        if question == "probe":
            return {"video": _facts(path, limits, choice).as_dict()}
        if question == "picture":
            return {"picture": _picture(path, limits, choice)}
        if question == "restarts":
            return {"restarts": _restarts(path, choice)}
        if question == "messages":
            return {"messages": _messages(path, choice)}
        scan = _scan(path, limits, choice)
        return {"times": {**vars(scan), "pts": packed(array("q", scan.pts))}}
    except MediaError as error:
        found = error
    except MemoryError:
        if sandbox.is_short_of_memory():
            found = MachineError(
                "The file takes more memory than `ulimit -v` allows a process here. Raise it."
            )
        else:
            found = unreadable(f"reading it takes more than {sandbox.MEMORY_BYTES >> 30} GiB of memory")
    except Exception as error:
        found = unreadable(
            f"it holds something that is not understood here ({type(error).__name__}: {error})"
        )
    return {"error": {"type": found.slug, "detail": found.detail}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.media.probe", description=main.__doc__)
    parser.add_argument("question", choices=["probe", "picture", "times", "restarts", "messages"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS)
    parser.add_argument("--max-frames", type=int)
    parser.add_argument("--max-duration", type=float, help="in seconds")
    parser.add_argument("--stream", type=int, help="number of the video stream in the file")
    parser.add_argument("--rate", help="frames a second of a file that holds no times")
    return parser


def main() -> None:
    """Answer one question about one file as a JSON object on standard output."""
    asked = PARSER.parse_args()
    limits = Limits(**{each.name: getattr(asked, each.name) for each in fields(Limits)})
    choice = Choice(asked.stream, asked.rate)
    confine(asked.file, *LIBRARIES)
    sys.stdout.write(
        json.dumps(answer(asked.question, asked.file, limits, choice), default=str, separators=(",", ":"))
    )


PARSER = _parser()  # made once for all forks

if __name__ == "__main__":
    main()
