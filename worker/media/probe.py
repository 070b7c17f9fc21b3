"""What is in a video file: facts and exact timestamps, found out in a process of its own.

The file is a stranger's. Everything that parses it here runs in ``python -m worker.media.probe probe|times FILE``,
a process with limits, which prints one JSON object: ``{"video": ...}``, ``{"times": ...}`` or
``{"error": {"type": slug, "detail": ...}}``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
import av.container
import av.logging
import av.video.stream
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from worker.channel import nothing
from worker.media import ffmpeg
from worker.media.ffmpeg import MediaError

MAX_PIXELS = 8192 * 4608  # a little more than 8K
MEMORY_BYTES = 4 << 30
PROBE_SECONDS = 60
TIMES_SECONDS = 600

Time = TypeVar("Time", int, Fraction)

UNSPECIFIED = 2  # in the code points of ITU-T H.273, which all colour tags here are
BT709 = 1
GENERATE_PTS = 1  # AVFMT_FLAG_GENPTS, which PyAV sets
JPEG_RANGE = 2  # AVColorRange: black is 0 and white the highest code

# A packet of these codecs is a frame that is shown; others hide frames or pack several into a packet.
FRAME_PER_PACKET = {"av1", "dnxhd", "ffv1", "gif", "h264", "hevc", "mjpeg", "prores", "rawvideo", "vp9"}
PROGRESSIVE = {0, 1}  # AVFieldOrder: unknown, progressive. Fields may come in packets of their own.
NOT_A_FILM = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails


@dataclass(frozen=True)
class Limits:
    """What a video may be at most; None is no limit. ``max_duration`` in seconds."""

    max_pixels: int = MAX_PIXELS
    max_frames: int | None = None
    max_duration: float | None = None


@dataclass(frozen=True)
class AudioInfo:
    index: int  # of the stream in the file
    codec: str
    channels: int
    sample_rate: int


@dataclass(frozen=True)
class SubtitleInfo:
    index: int  # of the stream in the file
    codec: str


@dataclass(frozen=True)
class VideoInfo:
    """The facts about a video. Times are seconds on the file's own clock, colour tags H.273 code points."""

    container: str
    codec: str
    stream: int  #: index of the video stream in the file
    width: int  #: of decoded frames, before any rotation
    height: int
    pixel_format: str  #: as decoded
    working_format: str  #: a name in ``dain_core.runtime.pixels``: what frames travel in, and the result has
    frames: int  #: packets to be shown; ``frame_times`` has the last word
    time_base: Fraction
    start: Fraction  #: when the first of picture and sound begins
    average_rate: Fraction
    duration: Fraction  #: of the picture
    primaries: int
    transfer: int
    matrix: int
    full_range: bool
    sample_aspect_ratio: Fraction  #: 1 where the file does not say
    display_matrix: tuple[int, ...]  #: FFmpeg's nine numbers; empty where frames are shown as they are
    rotation: int  #: degrees counterclockwise, 0 to 359, that ``display_matrix`` turns the picture by
    audio: tuple[AudioInfo, ...]
    subtitles: tuple[SubtitleInfo, ...]

    @property
    def is_rgb(self) -> bool:
        """Whether the source has no YUV planes, and gets them by BT.709 in limited range."""
        return _is_rgb(av.VideoFormat(self.pixel_format))

    @property
    def color_matrix(self) -> str:
        """The matrix between YUV and RGB, as ``dain_core.runtime.color`` names it; guessed by size where untagged."""
        if self.matrix == UNSPECIFIED:
            return "bt709" if self.width >= 1280 or self.height > 576 else "bt601"
        return {4: "bt601", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}.get(self.matrix, "bt709")

    def as_dict(self) -> dict[str, Any]:
        """Of plain JSON types; fractions become strings such as "30000/1001"."""
        return {key: str(v) if isinstance(v, Fraction) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> VideoInfo:
        known = {field.name: facts[field.name] for field in fields(cls)}
        for name in ("time_base", "start", "average_rate", "duration", "sample_aspect_ratio"):
            known[name] = Fraction(known[name])
        known["display_matrix"] = tuple(known["display_matrix"])
        known["audio"] = tuple(AudioInfo(**stream) for stream in known["audio"])
        known["subtitles"] = tuple(SubtitleInfo(**stream) for stream in known["subtitles"])
        return cls(**known)


class Timeline(NamedTuple):
    """When each frame is shown, and when the last one ends; seconds on the file's clock."""

    times: list[Fraction]  #: strictly increasing
    end: Fraction


EXPORT_AGAIN = "Check that it plays, or export it again as MP4 (H.264)."


def damaged(what: str) -> MediaError:
    return MediaError("damaged-video", f"The video is damaged: {what}. {EXPORT_AGAIN}")


# -- asked by the worker -----------------------------------------------------------------------------


def probe(path: Path, limits: Limits = Limits()) -> VideoInfo:
    """The facts about the video at ``path``; MediaError where it cannot be taken."""
    asked = asdict(limits).items()
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in asked if value is not None]
    return VideoInfo.from_dict(_ask("probe", path, *arguments, seconds=PROBE_SECONDS)["video"])


def frame_times(path: Path, check: Callable[[], None] = nothing) -> Timeline:
    """The exact presentation time of every frame to be displayed, and the end of the last one.

    Read from packets without decoding where each packet is known to be one shown frame, else by decoding, which takes
    its time: ``check`` is called at every frame, and may raise to stop.
    """
    found = _ask("times", path, seconds=TIMES_SECONDS)["times"]
    unit = Fraction(found["time_base"])
    if found["exact"]:
        return Timeline([pts * unit for pts in found["pts"]], found["end"] * unit)
    return _decoded_times(path, found["stream"], unit, check)


def _ask(what: str, path: Path, *arguments: str, seconds: float) -> dict[str, Any]:
    packages = Path(__file__).parents[2]
    command = [sys.executable, "-P", "-m", "worker.media.probe", what, *arguments, str(path.absolute())]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(packages), "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env=environment,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        reason = "took too long" if isinstance(error, subprocess.TimeoutExpired) else "failed"
        raise _unreadable(f"looking into it {reason}") from error
    if "error" in found:
        raise MediaError(found["error"]["type"], found["error"]["detail"])
    return found


def _decoded_times(path: Path, stream: int, unit: Fraction, check: Callable[[], None]) -> Timeline:
    """What the decoder itself says of each frame, by decoding all of them."""
    command = ffmpeg.command(stamps_output(ffmpeg.source(path)[str(stream)], "pipe:1", unit))
    with ffmpeg.Process(command, stdout=subprocess.PIPE) as process:
        with open(process.stdout.fileno(), "rb", closefd=False) as lines:
            shown = []
            for stamp in read_stamps(lines):
                shown.append(stamp)
                check()
        process.wait()
        messages = process.messages
    if not shown:
        raise damaged(f"no frame of it could be decoded ({messages})")
    times = sorted({time for time, _ in shown})
    last, lasting = max(shown)
    return Timeline(times, last + (lasting or _usual_gap(times, Fraction(1, 25))))


def stamps_output(frames: Any, url: str, unit: Fraction) -> Any:
    """An output of ffmpeg-python that says when each of ``frames`` is shown, for ``read_stamps``."""
    return frames.output(
        url,
        format="framecrc",
        vcodec="wrapped_avframe",
        flush_packets=1,
        fps_mode="passthrough",
        enc_time_base=f"{unit.numerator}:{unit.denominator}",
    )


def read_stamps(lines: Iterable[bytes]) -> Iterator[tuple[Fraction, Fraction]]:
    """(presentation time, duration) in seconds of each frame, as ``stamps_output`` writes them."""
    unit = Fraction(0)
    for line in lines:
        if line.startswith(b"#tb 0:"):
            unit = Fraction(line.split(b":")[1].decode().strip())
        elif not line.startswith(b"#"):
            _, _, pts, duration, *_ = line.split(b",")
            yield int(pts) * unit, int(duration) * unit


def _usual_gap(times: Sequence[Time], alone: Time) -> Time:
    """How long a last frame of unknown duration is shown: as long as the one before it."""
    return times[-1] - times[-2] if len(times) > 1 else alone


# -- in the process of its own -----------------------------------------------------------------------


def _unreadable(reason: str) -> MediaError:
    return MediaError("unreadable-video", f"The file cannot be read as a video: {reason}. {EXPORT_AGAIN}")


def exceeded(fact: str, limit: str) -> MediaError:
    detail = f"The video has {fact}; at most {limit} are taken. Scale it down or cut it."
    return MediaError("limit-exceeded", detail)


def _open(path: Path) -> av.container.InputContainer:
    if path.stat().st_size == 0:
        raise _unreadable("it is empty")
    options = {"protocol_whitelist": ffmpeg.PROTOCOLS, "format_whitelist": ffmpeg.FORMATS}
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as messages:
        try:
            container = av.open(ffmpeg.url(path), options=options, metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            if any("whitelist" in text for _, _, text in messages):
                raise MediaError(
                    "unsupported-format", f"The file is not in a video format that is taken. {EXPORT_AGAIN}"
                ) from error
            raise _unreadable("its contents are not those of a video, or are cut off") from error
    container.flags &= ~GENERATE_PTS  # a guessed timestamp must not pass for an exact one
    return container


def _video_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream:
    films = [s for s in container.streams.video if not s.disposition & NOT_A_FILM and s.codec_context]
    if not films:
        detail = "The file has no moving picture that can be decoded. Send one that has, as MP4 (H.264)."
        raise MediaError("no-video-stream", detail)
    return max(films, key=lambda stream: stream.width * stream.height)


@dataclass(frozen=True)
class Scan:
    """What the packets of the video stream say, in units of ``time_base``.

    ``exact`` where each of them is known to be one shown frame with a timestamp.
    """

    stream: int
    time_base: Fraction
    pts: list[int]  # increasing
    end: int
    exact: bool


def _scan(path: Path, limits: Limits) -> Scan:
    """Walk through the packets, without decoding, up to the end or to where the file breaks off."""
    stamps: list[int] = []
    lasting = dict[int, int]()
    begins_whole = False
    with _open(path) as container:
        stream = _video_stream(container)
        context = stream.codec_context
        exact = context.codec.canonical_name in FRAME_PER_PACKET and context.field_order in PROGRESSIVE
        try:
            for number, packet in enumerate(container.demux(stream)):
                if number == 0:
                    begins_whole = packet.is_keyframe
                if not packet.size or packet.is_discard:  # the end; outside the edit list
                    continue
                if packet.pts is None:
                    exact = False
                    stamps.append(len(stamps))  # to be counted; the decoder will know the time
                    continue
                stamps.append(packet.pts)
                lasting[packet.pts] = packet.duration or 0
                if limits.max_frames is not None and len(stamps) > limits.max_frames:
                    raise exceeded(f"more than {limits.max_frames} frames", f"{limits.max_frames} frames")
        except av.FFmpegError:
            pass  # a file cut off: what came before the cut is the video
        unit = stream.time_base or Fraction(1, 25)
        pts = sorted(set(stamps))
        if not pts:
            raise damaged("it holds no frames")
        # Pictures before the first whole one, in order of display, may lack what they refer to.
        exact = exact and begins_whole and len(pts) == len(stamps) and stamps[0] == pts[0]
        end = pts[-1] + (lasting.get(pts[-1]) or _usual_gap(pts, round(1 / (25 * unit))))
        return Scan(stream.index, unit, pts, end, exact)


def _facts(path: Path, limits: Limits) -> VideoInfo:
    """Open the file, decode its first frame, walk through its packets."""
    with _open(path) as container:
        stream = _video_stream(container)
        if stream.width * stream.height > limits.max_pixels:
            raise exceeded(f"{stream.width}x{stream.height} pixels", f"{limits.max_pixels} pixels a frame")
        if stream.duration and limits.max_duration is not None:
            _check_duration(stream.duration * (stream.time_base or Fraction(1)), limits.max_duration)
        frame = _first_frame(container, stream)
        scan = _scan(path, limits)
        first, duration = scan.pts[0] * scan.time_base, (scan.end - scan.pts[0]) * scan.time_base
        if limits.max_duration is not None:
            _check_duration(duration, limits.max_duration)
        sounds = [s for s in container.streams.audio if s.codec_context]
        begins = [s.start_time * s.time_base for s in sounds if s.start_time is not None and s.time_base]
        pixels, rgb = frame.format.name, _is_rgb(frame.format)
        return VideoInfo(
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            stream=stream.index,
            width=frame.width,
            height=frame.height,
            pixel_format=pixels,
            working_format=working_format(pixels, frame.width, frame.height),
            frames=len(scan.pts),
            time_base=scan.time_base,
            start=min([first, *begins]),
            average_rate=_average_rate(stream.average_rate, len(scan.pts) / duration),
            duration=duration,
            primaries=frame.color_primaries,
            transfer=frame.color_trc,
            matrix=BT709 if rgb else frame.colorspace,
            full_range=not rgb and (frame.color_range == JPEG_RANGE or pixels.startswith("yuvj")),
            sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
            display_matrix=_display_matrix(frame),
            rotation=frame.rotation % 360,
            audio=tuple(
                AudioInfo(s.index, _codec(s), s.codec_context.channels, s.codec_context.sample_rate)
                for s in sounds
            ),
            subtitles=tuple(
                SubtitleInfo(s.index, _codec(s)) for s in container.streams.subtitles if s.codec_context
            ),
        )


def _codec(stream: av.stream.Stream) -> str:
    return stream.codec_context.codec.canonical_name


def _first_frame(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> av.VideoFrame:
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
    if any("Picture size" in text for _, _, text in messages):
        raise exceeded("more pixels a frame than can be decoded", f"{MAX_PIXELS} pixels a frame")
    raise damaged(f"no frame of it could be decoded ({reason})")


def _check_duration(seconds: Fraction, most: float) -> None:
    if float(seconds) > most:
        raise exceeded(f"{float(seconds):.0f} seconds", f"{most:g} seconds")


def _average_rate(written: Fraction | None, measured: Fraction) -> Fraction:
    """The rate in the header, which is a round number, where the timestamps bear it out."""
    return written if written and abs(written / measured - 1) < Fraction(1, 100) else measured


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    side_data: Any = frame.side_data  # its annotations say that it iterates over names; it does over data
    found = [bytes(data) for data in side_data if data.type is SideData.DISPLAYMATRIX]
    return struct.unpack("=9i", found[0]) if found else ()


def _is_rgb(pixels: av.VideoFormat) -> bool:
    return pixels.is_rgb or pixels.has_palette or pixels.is_bayer


def working_format(name: str, width: int, height: int) -> str:
    """The planar YUV format nearest to pixel format ``name``, in which frames of this size can be encoded.

    More than 8 bits become 10. RGB keeps its full colour resolution; alpha is dropped. H.264 has no odd sizes
    where chroma is subsampled, so these become 4:4:4, which keeps the size and every luma sample.
    """
    pixels = av.VideoFormat(name, 16, 16)
    parts = pixels.components
    gray = len([part for part in parts if not part.is_alpha]) < 3
    halved_x = not _is_rgb(pixels) and (gray or pixels.chroma_width(16) < 16)
    halved_y = not _is_rgb(pixels) and (gray or pixels.chroma_height(16) < 16)
    if (halved_x and width % 2) or (halved_y and height % 2) or not halved_x:
        layout = "yuv444p"
    else:
        layout = "yuv420p" if halved_y else "yuv422p"
    return layout + ("10le" if max(part.bits for part in parts) > 8 and not pixels.has_palette else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer one question about one file as a JSON object on standard output."""
    parser = argparse.ArgumentParser(prog="python -m worker.media.probe", description=main.__doc__)
    parser.add_argument("what", choices=["probe", "times"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS)
    parser.add_argument("--max-frames", type=int)
    parser.add_argument("--max-duration", type=float, help="in seconds")
    asked = parser.parse_args(arguments)
    limits = Limits(asked.max_pixels, asked.max_frames, asked.max_duration)
    _limit_this_process(PROBE_SECONDS if asked.what == "probe" else TIMES_SECONDS)
    answer: dict[str, Any]
    try:
        if asked.what == "probe":
            answer = {"video": _facts(asked.file, limits).as_dict()}
        else:
            answer = {"times": asdict(_scan(asked.file, limits))}
    except MediaError as error:
        answer = {"error": {"type": error.slug, "detail": error.detail}}
    json.dump(answer, sys.stdout, default=str)


def _limit_this_process(cpu_seconds: int) -> None:
    wanted = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for kind, limit in wanted.items():
        _, allowed = resource.getrlimit(kind)
        limit = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
        resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main()
