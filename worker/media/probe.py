"""What is in a video file. Only a process in the sandbox runs this: see `worker.media.sandbox`.

``python -m worker.media.probe QUESTION FILE`` prints one JSON object. Questions are "probe", which is answered by
``{"video": facts}``, "picture", which is answered by ``{"picture": the first frame, …}``, "times", which is answered by
``{"times": …}``, "restarts", which is answered by ``{"restarts": shifts}``, and "messages", which is answered by
``{"messages": …}``. Any other answer is ``{"error": {"type": slug, "detail": sentence}}``.
"""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import av.subtitles.stream  # which PyAV imports late: each fork would
import av.video.stream

from service.jobs.notes import Note
from worker.media import sandbox
from worker.media.beginning import beginning
from worker.media.confinement import confine
from worker.media.errors import MachineError, MediaError, unreadable
from worker.media.facts import DEFAULT_CHOICE, MAX_PIXELS, AudioInfo, Choice, Limits, SubtitleInfo, VideoInfo
from worker.media.frame import (
    LINEAR,
    colors_of,
    display_matrix_of,
    field_order_of,
    first_frame_of,
    has_views,
    planes_of,
    side_data_of,
)
from worker.media.moments import packed
from worker.media.opened import check_duration, codec_of, film_in, first_picture, open_file, pictures_in
from worker.media.packets import CAPTIONS, Scan, messages_in, restarts, scan_packets
from worker.media.stills import Stills
from worker.media.streams import (
    alpha_stream_beside,
    channels_of,
    chroma_location_in,
    described,
    dolby_vision_in,
    names_of,
    others_in,
    roles_of,
    sounds_in,
    tags_of,
    timecode_of,
)

LIBRARIES = (Path(json.__file__).parents[1], Path(av.__file__).parents[1])
ONE_VIEW = Note.of(
    "one-view", "The video is a spatial one, with a view for each eye: the result has the base view alone."
)
ONE_PICTURE = (
    "The file is a single picture, and nothing lies between. Send two or more pictures in a ZIP archive."
)
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


def _facts(path: Path, limits: Limits, choice: Choice) -> VideoInfo:
    """Open the file, decode its first frame, walk through its packets."""
    pictures = pictures_in(path, limits, choice)
    with first_picture(pictures, limits) if pictures else open_file(path, limits) as container:
        stream = film_in(container, limits, choice)
        if stream.duration and limits.max_duration is not None:
            check_duration(stream.duration * (stream.time_base or Fraction(1)), limits.max_duration)
        frame = first_frame_of(container, stream, limits)
        scan = scan_packets(path, limits, choice)
        if container.format.name in ("jpeg_pipe", "mjpeg") and not pictures and len(scan.pts) == 1:
            raise MediaError("no-video-stream", ONE_PICTURE)
        codec = pictures.codec if pictures else codec_of(stream)
        notes = {
            ONE_VIEW: has_views(frame),
            BREAKS_OFF: scan.breaks_off,
            CLIPPED: codec in LINEAR,
            TURNED: bool(pictures and pictures.turned),
        }
        lines, alpha_stream = described(container), alpha_stream_beside(container, stream)
        return VideoInfo(
            container=pictures.container if pictures else container.format.name,
            codec=codec,
            stream=stream.index,
            **planes_of(frame, stream, pictures, alpha_stream is not None),
            **_times(scan, container, stream, pictures, limits),
            **colors_of(frame, codec),
            sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
            display_matrix=display_matrix_of(frame),
            rotation=frame.rotation % 360,
            audio=tuple(
                AudioInfo(
                    s.index,
                    codec_of(s),
                    channels_of(s),
                    s.codec_context.sample_rate,
                    **names_of(s),
                    roles=roles_of(s),
                )
                for s in sounds_in(container)
            ),
            subtitles=tuple(
                SubtitleInfo(s.index, codec_of(s), **names_of(s), roles=roles_of(s))
                for s in container.streams.subtitles
                if s.codec_context
            ),
            field_order=field_order_of(stream, frame),
            notes=tuple(note for note, is_so in notes.items() if is_so),
            others=tuple(others_in(container, (stream.index, alpha_stream), lines)),
            alpha_stream=alpha_stream,
            chapters=len(container.chapters()),
            chroma_location=chroma_location_in(lines[stream.index][0]),
            **side_data_of(frame, scan),
            **names_of(stream),
            timecode=timecode_of(container, stream),
            roles=roles_of(stream),
            tags=tags_of(container),
            captions=CAPTIONS in scan.messages,
            described=tuple(name for name in scan.messages if name != CAPTIONS),
            dolby_vision=dolby_vision_in(lines[stream.index]),
        )


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
        check_duration(duration, limits.max_duration)
    sounds = sounds_in(container)
    begins = [s.start_time * s.time_base for s in sounds if s.start_time is not None and s.time_base]
    written = None if scan.timeless or pictures else stream.average_rate
    return {
        "frames": len(scan.pts),
        "time_base": scan.time_base,
        "start": min([first, *begins]),
        "average_rate": _average_rate(written, len(scan.pts) / duration),
        "duration": duration,
    }


def _average_rate(written: Fraction | None, measured: Fraction) -> Fraction:
    """The rate in the header, which is a round number, where the timestamps bear it out."""
    return written if written and abs(written / measured - 1) < Fraction(1, 100) else measured


def answer(question: str, path: Path, limits: Limits, choice: Choice = DEFAULT_CHOICE) -> dict[str, Any]:
    """The answer to ``question``; an error is an answer, too."""
    try:
        if question == "probe":
            return {"video": _facts(path, limits, choice).as_dict()}
        if question == "picture":
            return beginning(path, limits, choice)
        if question == "restarts":
            return {"restarts": restarts(path, choice)}
        if question == "messages":
            return {"messages": messages_in(path, choice)}
        scan = scan_packets(path, limits, choice)
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
