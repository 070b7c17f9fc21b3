"""Segments into the finished file: packets at their exact times, and what else the source carried."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container

from worker.channel import CHECK_SECONDS, nothing
from worker.media import ffmpeg
from worker.media.errors import MediaError
from worker.media.facts import VideoInfo
from worker.media.moved import Moved

# What MP4 players can be relied on to play; other sound becomes AAC.
MP4_AUDIO = {"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}
MP4_TEXT = {"ass", "mov_text", "ssa", "subrip", "text", "webvtt"}

# MP4 counts ticks in 32 bits between neighbouring frames: at this rate there is room for minutes.
FINEST_CLOCK = 10_000_000
COARSEST_CLOCK = 10_000  # players expect thousands of ticks in a second
AUDIO_BITRATE = "192k"


def join(
    segment_paths: Sequence[Path],
    output_times: Sequence[Fraction],
    end: Fraction,
    source_path: Path,
    info: VideoInfo,
    out_path: Path,
    *,
    audio: bool = True,
    in_time: bool = True,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
) -> None:
    """Make an MP4 of segments, frame k shown at ``output_times[k]``, the last one until ``end``.

    Times are on the source's clock, and so stay where they were against its sound. The file begins at 0 where
    the source began at ``info.start``. Sound (unless ``audio`` is False), text subtitles, chapters and metadata
    come from the source; sound is copied where MP4 can hold it. Where the result does not play ``in_time`` with the
    source, text and chapters stay out, and the file begins with its first frame.

    The picture's clock is such that every time is exact; where that would take more than 10,000,000 ticks a
    second, times are rounded to one of these. ``check`` is called several times a second and may raise to stop;
    ``progressed`` is called when packets or bytes of the file are written.
    Raises MediaError("encode-failed") where the segments do not make up the video.
    """
    # A whole number of milliseconds is exact on every clock in use, FFmpeg's own microseconds among them.
    begin = Fraction(math.floor(info.start * 1000), 1000) if in_time else output_times[0]
    shown = [moment - begin for moment in (*output_times, end)]
    needed = math.lcm(*{moment.denominator for moment in shown})
    clock = min(needed * math.ceil(COARSEST_CLOCK / needed), FINEST_CLOCK)
    picture = out_path.with_name(f"{out_path.name}.picture.mp4")
    try:
        _join_pictures(
            segment_paths,
            [round(moment * clock) for moment in shown],
            clock,
            info,
            picture,
            check,
            progressed,
        )
        command = _muxing(picture, source_path, begin, clock, info, out_path, audio, in_time)
        with ffmpeg.Process(command) as process:
            moved = Moved(process.pid, progressed)
            while process.poll() is None:
                check()
                moved.look()
                time.sleep(CHECK_SECONDS / 10)
            if process.wait():
                raise _incomplete(process.messages)
    finally:
        picture.unlink(missing_ok=True)


def _join_pictures(
    segments: Sequence[Path],
    ticks: Sequence[int],
    clock: int,
    info: VideoInfo,
    path: Path,
    check: Callable[[], None],
    progressed: Callable[[], None],
) -> None:
    """Copy the segments' packets into one file; ``ticks`` are the frames' times and the end of the last."""
    orders = [_display_order(segment, progressed) for segment in segments]
    if sum(map(len, orders)) != len(ticks) - 1:
        raise _incomplete(f"{sum(map(len, orders))} frames of {len(ticks) - 1} were encoded")
    stamps = iter(_stamps(orders, ticks))
    with av.open(str(path), "w", format="mp4", options={"video_track_timescale": str(clock)}) as joined:
        stream = None
        for segment in segments:
            check()
            with av.open(str(segment)) as part:
                [template] = part.streams.video
                if stream is None:
                    stream = joined.add_stream_from_template(template)
                    parameters = template.codec_context.extradata
                    if info.display_matrix:
                        stream.set_display_matrix(info.display_matrix)
                if template.codec_context.extradata != parameters:
                    raise _incomplete("its segments were encoded by different versions of x264")
                for packet in _packets(part):
                    packet.stream, packet.time_base = stream, Fraction(1, clock)
                    packet.pts, packet.dts, packet.duration = next(stamps)
                    joined.mux(packet)
                    progressed()


def _stamps(orders: Sequence[Sequence[int]], ticks: Sequence[int]) -> list[tuple[int, int, int]]:
    """For each packet in the order of decoding: when it is shown, when it is decoded, and how long it is shown.

    ``orders`` hold the places of a segment's packets in the order of display, ``ticks`` the times of all frames in
    the order of display and the end of the last. MP4 stores no lengths: a reader takes the time from the decoding of
    a packet to the decoding of the next one for the length of the first. So packets are decoded as far apart as their
    frames are long. Decoding begins as early as it must for no frame to be decoded after it is shown.

        >>> _stamps([[0, 2, 1]], [0, 10, 20, 30])
        [(0, -10, 10), (20, 0, 10), (10, 10, 10)]
    """
    begins = itertools.accumulate(map(len, orders), initial=0)
    places = [begin + place for begin, order in zip(begins, orders, strict=False) for place in order]
    lengths = [ticks[place + 1] - ticks[place] for place in places]
    decoded = list(itertools.accumulate(lengths[:-1], initial=ticks[0]))
    ahead = max(dts - ticks[place] for dts, place in zip(decoded, places, strict=True))
    return [
        (ticks[place], dts - ahead, length)
        for place, dts, length in zip(places, decoded, lengths, strict=True)
    ]


def _packets(part: av.container.InputContainer) -> Iterator[av.Packet[Any]]:
    return (packet for packet in part.demux(video=0) if packet.size)


def _display_order(segment: Path, progressed: Callable[[], None]) -> list[int]:
    """For each packet in the order of decoding, when it is shown: 0 for the first frame of the segment."""
    with av.open(str(segment)) as part:
        stamps = [packet.pts or 0 for packet in _packets(part)]
    progressed()
    place = {pts: shown for shown, pts in enumerate(sorted(stamps))}
    return [place[pts] for pts in stamps]


def _incomplete(what: str) -> MediaError:
    return ffmpeg.not_written("put together", what)


def _muxing(
    picture: Path,
    source_path: Path,
    begin: Fraction,
    clock: int,
    info: VideoInfo,
    path: Path,
    audio: bool,
    in_time: bool,
) -> list[str]:
    """Mux the picture with what else the source has, on one clock that starts at 0."""
    source = ffmpeg.source(source_path, itsoffset=f"{float(-begin):.3f}")
    streams = [ffmpeg.own_source(ffmpeg.url(picture), copyts=None)["v:0"]]
    streams.append(source["t:99?"])  # matches nothing, but makes the source an input for its metadata
    options: dict[str, Any] = {"c": "copy"}
    for k, sound in enumerate(info.audio if audio else ()):
        streams.append(source[str(sound.index)])
        if sound.codec not in MP4_AUDIO:
            options |= {f"c:a:{k}": "aac", f"b:a:{k}": AUDIO_BITRATE}
    for text in info.subtitles if in_time else ():
        if text.codec in MP4_TEXT:
            streams.append(source[str(text.index)])
            options["c:s"] = "mov_text"
    # The clock of the whole file places each track's start: it must have a tick for every one of them.
    rates = [sound.sample_rate for sound in info.audio]
    movie_clock = math.lcm(clock, *rates)
    output = ffmpeg.output(
        *streams,
        url=ffmpeg.url(path),
        format="mp4",
        map_metadata=1,
        map_chapters=1 if in_time else -1,
        video_track_timescale=clock,
        movie_timescale=movie_clock if movie_clock <= FINEST_CLOCK else clock,
        movflags="+faststart",
        **options,
    )
    return ffmpeg.command(output)
