"""What a file says of its streams, and of itself."""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import av
import av.audio.stream
import av.container
import av.logging
import av.video.stream
from av.stream import Disposition

from worker.media.facts import OtherInfo
from worker.media.opened import NOT_A_FILM, codec_of

CHROMA_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")  # FFmpeg's, from 1 on
CHROMA_LOCATION = re.compile(rf"[(, ]({'|'.join(CHROMA_LOCATIONS)})\)")
STREAM_LINE = re.compile(r" *Stream #0:(\d+)\D")
DATA_TAG = re.compile(r": Data: .*\((\S{4}) / 0x")
TIMECODE = re.compile(r"\d\d:\d\d:\d\d[:;.]\d\d", re.ASCII)
DOLBY_VISION_PROFILE = re.compile(r"DOVI configuration record: .*profile: (\d+).*compatibility id: (\d+)")
SYNONYMS = (("hearing_impaired", "captions"), ("visual_impaired", "descriptions"))
LANGUAGE = re.compile(r"-[a-z]{3}$")  # behind the name of a tag
#: Tags about the file itself, as its writer left them.
TECHNICAL = re.compile(
    "major_brand|minor_version|compatible_brands|creation_time|modification_date|duration|encoder|software|timecode|"
    r"wmfsdk.*|isvbr|deviceconformancetemplate|metadata\w+|has[a-z]+|canseektoend|audiodelay|\w+size|last\w+|"
    r"\w*uid|\w*umid|product_\w+|company_name|application_platform|toolkit_version|operational_pattern_ul|_.*"
)


def sounds_in(container: av.container.InputContainer) -> list[av.audio.stream.AudioStream]:
    return [stream for stream in container.streams.audio if stream.codec_context]


def roles_of(stream: av.stream.Stream) -> tuple[str, ...]:
    """What a track is marked with. Of two marks that mean the same, which FFmpeg makes of one, the first counts."""
    found = {role.name for role in Disposition if role.name and stream.disposition & role}
    found -= {second for first, second in SYNONYMS if first in found} | {
        "multilayer"
    }  # of which a note tells
    return tuple(sorted(found))


def tags_of(container: av.container.InputContainer) -> tuple[str, ...]:
    """The names of what the file says of itself, but for what is about the file and not about the video."""
    names = {LANGUAGE.sub("", name.lower()) for name, value in container.metadata.items() if value}
    return tuple(sorted(name for name in names if not TECHNICAL.fullmatch(name)))


def others_in(
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
            yield OtherInfo(stream.index, "cover" if is_still else "film", codec_of(stream))
        elif stream.type == "attachment":
            yield OtherInfo(stream.index, "attachment", stream.name or "unnamed")
        elif stream.type == "data":
            tag = DATA_TAG.search(lines[stream.index][0])
            name = tag[1] if tag else stream.name or "unknown"
            if name not in ("tmcd", "text"):
                yield OtherInfo(stream.index, "data", name)


def alpha_stream_beside(
    container: av.container.InputContainer, picture: av.video.stream.VideoStream
) -> int | None:
    """The stream of an AVIF sequence that says how opaque the pictures of another are; None where there is none."""
    for stream in container.streams.video if container.metadata.get("major_brand") == "avis" else ():
        is_as_long = stream.codec_context and stream.index > picture.index and stream.frames == picture.frames
        if is_as_long and (stream.codec_context.pix_fmt or "").startswith("gray"):
            return stream.index
    return None


def described(container: av.container.InputContainer) -> list[list[str]]:
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


def dolby_vision_in(lines: Iterable[str]) -> str:
    """The profile of Dolby Vision and the kind of its base layer, such as "8.1", by what FFmpeg says."""
    found = (DOLBY_VISION_PROFILE.search(line) for line in lines)
    return next((".".join(match.groups()) for match in found if match), "")


def chroma_location_in(line: str) -> int:
    """FFmpeg's number for where chroma samples lie, by what it says about the stream."""
    found = CHROMA_LOCATION.search(line)
    return 1 + CHROMA_LOCATIONS.index(found[1]) if found else 0


def channels_of(stream: av.audio.stream.AudioStream) -> int:
    """How many channels there are.

    PyAV 18.1 shares the memory of a layout of channels in an order of its own, and frees it, as its owner does. So the
    layout is never let go of.
    """
    layout = stream.codec_context.layout
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return layout.nb_channels


def names_of(stream: av.stream.Stream) -> dict[str, Any]:
    """Language and title, which MP4 calls name."""
    said = stream.metadata
    language = said.get("language", "")
    return {
        "language": "" if language == "und" else language,
        "title": said.get("title") or said.get("name", ""),
    }


def timecode_of(container: av.container.InputContainer, picture: av.video.stream.VideoStream) -> str:
    """The timecode of the first frame, wherever the file says it."""
    said = [picture.metadata, container.metadata, *(s.metadata for s in container.streams.data)]
    found = (each.get(name, "") for each in said for name in ("timecode", "TIMECODE"))  # as Matroska has it
    return next(filter(TIMECODE.fullmatch, found), "")
