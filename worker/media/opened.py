"""How a file is opened, and which of its streams is the video. What is refused at once is refused here."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.logging
import av.video.stream
from av.stream import Disposition

from worker.media import sandbox
from worker.media.errors import EXPORT_AGAIN, TAKEN, MediaError, exceeded, unreadable
from worker.media.facts import Choice, Limits
from worker.media.stills import WEBP, Stills

DEFAULT_RATE = 25  # frames a second of what holds no times
GENERATE_PTS = 1  # AVFMT_FLAG_GENPTS, which PyAV sets
TIMELESS = sandbox.TIMELESS.split(",")
PICTURE_SIZE = re.compile(r"Picture size (\d+x\d+) is invalid")  # FFmpeg's words
NOT_A_FILM = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
HAS_TIMES = "source_fps is for files that hold no times. This one has its own: leave source_fps out."


def open_file(path: Path, limits: Limits) -> av.container.InputContainer:
    """Open the file with the demuxers that strangers' files may reach; MediaError where it is none of theirs."""
    if path.stat().st_size == 0:
        raise unreadable("it is empty")
    options = {"protocol_whitelist": sandbox.PROTOCOLS, "format_whitelist": sandbox.FORMATS}
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as messages:
        try:
            container = av.open(sandbox.url(path), options=options, metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            check_size(messages, limits)
            if any("whitelist" in text for _, _, text in messages):
                detail = f"The file is in a format that is not accepted. {TAKEN} {EXPORT_AGAIN}"
                raise MediaError("unsupported-format", detail) from error
            raise unreadable("its contents are not those of a video, or are cut off") from error
    container.flags &= ~GENERATE_PTS  # a guessed timestamp must not pass for an exact one
    return container


def video_stream(
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
    there = ", ".join(f"{s.index} ({codec_of(s)}, {s.width}x{s.height})" for s in films)
    detail = f"Stream {chosen} of the file is no moving picture that can be decoded. There is {there}."
    raise MediaError("no-video-stream", detail)


def rate_of(stream: av.video.stream.VideoStream, choice: Choice) -> Fraction:
    """How many frames a second a stream without times has: as it is chosen, or as the pictures say, or else 25."""
    return Fraction(choice.rate or stream.guessed_rate or DEFAULT_RATE)


def pictures_in(path: Path, limits: Limits, choice: Choice) -> Stills | None:
    """The pictures that the file is made of; None where it is an ordinary video."""
    found = Stills.find(path, Fraction(choice.rate or DEFAULT_RATE))
    if found and found.container == WEBP and choice.rate:
        raise MediaError("invalid-option", HAS_TIMES)
    if found and limits.max_frames is not None and len(found.times) - 1 > limits.max_frames:
        raise exceeded(f"{len(found.times) - 1} pictures", f"{limits.max_frames} pictures")
    return found


def first_picture(pictures: Stills, limits: Limits) -> av.container.InputContainer:
    """The first picture as a video of one frame."""
    if pictures.size and pictures.size[0] * pictures.size[1] > limits.max_pixels:
        size = "x".join(map(str, pictures.size))
        raise exceeded(f"frames of {size} pixels", f"{limits.max_pixels} pixels a frame")
    av.logging.set_level(av.logging.ERROR)
    try:
        return av.open(io.BytesIO(pictures.first), "r", format=pictures.demuxer)
    except (av.FFmpegError, ValueError) as error:
        raise unreadable("its first picture is damaged, or is not what its name says") from error


def film_in(
    container: av.container.InputContainer, limits: Limits, choice: Choice
) -> av.video.stream.VideoStream:
    """The moving picture that is chosen; MediaError where its frames are too large."""
    stream = video_stream(container, choice.stream)
    if stream.width * stream.height > limits.max_pixels:
        size = f"frames of {stream.width}x{stream.height} pixels"
        raise exceeded(size, f"{limits.max_pixels} pixels a frame")
    return stream


def codec_of(stream: av.stream.Stream) -> str:
    return stream.codec_context.codec.canonical_name


def check_size(messages: Iterable[tuple[int, str, str]], limits: Limits) -> None:
    """Raise where FFmpeg says that a picture is larger than it can decode at all."""
    found = [size for _, _, text in messages for size in PICTURE_SIZE.findall(text)]
    if found:
        raise exceeded(f"frames of {found[0]} pixels", f"{limits.max_pixels} pixels a frame")


def check_duration(seconds: Fraction, most: float) -> None:
    if float(seconds) > most:
        raise exceeded(f"{float(seconds):.0f} seconds", f"{most:g} seconds")
