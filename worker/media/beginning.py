"""The beginning of a video, for an estimate: a small picture of it, and how its frames are made of fields."""

from __future__ import annotations

import itertools
from base64 import b64encode
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.container
import av.filter
import av.video.stream

from worker.media.facts import Choice, Limits, color_matrix, is_rgb
from worker.media.fields import Piece, frames_of_one
from worker.media.frame import JPEG_RANGE, field_order_of, first_frame_of
from worker.media.opened import codec_of, film_in, first_picture, open_file, pictures_in
from worker.media.picture import jpeg

PICTURE_WIDTH = 320  # of the first frame, at most
WITHOUT_FIELDS = {"av1", "gif", "png", "theora", "vp8", "vp9"}
MOST_INTERLACED_RATE, MOST_INTERLACED_PIXELS = 31, 1920 * 1088  # frames a second, and pixels of one
LOOKED_AT = 40  # frames


def beginning(path: Path, limits: Limits, choice: Choice) -> dict[str, Any]:
    """``picture``, the first frame as a small JPEG in base64, and ``frames_of_one``.

    That is how many frames a job makes of one, if all are as the first ones; None of what has no fields.
    """
    pictures = pictures_in(path, limits, choice)
    with first_picture(pictures, limits) if pictures else open_file(path, limits) as container:
        stream = film_in(container, limits, choice)
        frame = first_frame_of(container, stream, limits)
        drawn = jpeg(
            [frame],
            width=PICTURE_WIDTH,
            matrix=color_matrix(frame.colorspace, frame.width, frame.height),
            is_full=frame.color_range == JPEG_RANGE,
            aspect=stream.sample_aspect_ratio or Fraction(1),
            rotation=frame.rotation,
        )
        found = None if pictures else _frames_of_one(container, stream, frame)
    return {"picture": b64encode(drawn).decode(), "frames_of_one": found}


class _Pictures(NamedTuple):
    """How the pictures of a stream are stored, for `fields.choose`."""

    width: int
    height: int
    pixel_format: str
    field_order: str
    is_rgb: bool


def _frames_of_one(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, first: av.VideoFrame
) -> Fraction | None:
    """How many frames a job makes of one; ``first`` is the first frame, which has been decoded."""
    is_fast = (stream.average_rate or 0) > MOST_INTERLACED_RATE
    if codec_of(stream) in WITHOUT_FIELDS or is_fast or first.width * first.height > MOST_INTERLACED_PIXELS:
        return None
    graph = av.filter.Graph()
    graph.threads = 1
    source, idet = (
        graph.add_buffer(template=stream),
        graph.add("idet", "intl_thres=1.3"),
    )  # as `content` has it
    sink = graph.add("buffersink")
    source.link_to(idet)
    idet.link_to(sink)
    graph.configure()
    piece = Piece()
    with suppress(av.FFmpegError):  # what can be seen until then is enough
        for frame in itertools.islice(itertools.chain([first], container.decode(stream)), LOOKED_AT):
            graph.push(frame)
            with suppress(av.error.BlockingIOError):
                said = graph.vpull().metadata
                piece.scans.append(said["lavfi.idet.single.current_frame"])
                piece.repeats.append(said["lavfi.idet.repeated.current_frame"])
    order, pixels = field_order_of(stream, first), first.format
    return frames_of_one(_Pictures(first.width, first.height, pixels.name, order, is_rgb(pixels)), piece)
