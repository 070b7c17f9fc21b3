"""Pictures and videos, in and out, all through PyAV: no other library reads or writes pixels here."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
VIDEOS = {
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".y4m",
    ".ts",
    ".m2ts",
    ".mpg",
    ".mpeg",
    ".flv",
    ".ogv",
    ".gif",
}

_JPEG_QUALITY = 3  # ffmpeg's scale: 1 is the best, 31 the worst


class EvaluationError(Exception):
    """What cannot be evaluated, and what to do: a sentence that names the file."""


def read_picture(path: Path) -> Tensor:
    """A picture file as (1, 3, H, W), uint8 RGB; transparency is dropped.

    Raises:
        EvaluationError: the file cannot be read as a picture.
    """
    return next(_decode(path, "rgb24"))


def read_gray16(path: Path) -> NDArray[np.uint16]:
    """A picture of one channel as (H, W); 8-bit ones are widened."""
    levels: NDArray[np.uint16] = (
        next(_frames(path)).reformat(format="gray16le").to_ndarray().astype(np.uint16)
    )
    return levels


def read_video(path: Path) -> Iterator[Tensor]:
    """The frames of a video's first video stream, in the order of display: (1, 3, H, W), uint8 RGB.

    Raises:
        EvaluationError: the file cannot be read as a video, or its frames change their size.
    """
    size: tuple[int, ...] | None = None
    for index, frame in enumerate(_decode(path, "rgb24")):
        if size not in (None, tuple(frame.shape)):
            raise EvaluationError(
                f"{path}: frame {index} is {_size(frame.shape)}, the ones before it are {_size(size)}. "
                "Scale the video to one size first."
            )
        size = tuple(frame.shape)
        yield frame


def pictures_of(folder: Path) -> list[Path]:
    """The picture files in a folder, in the order a person would count: frame2 before frame10."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    return sorted(
        found, key=lambda path: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", path.name)]
    )


def jpeg(picture: NDArray[np.uint8], width: int) -> bytes:
    """A picture (H, W, 3) as JPEG, shrunk to at most `width` columns."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    shrink = min(1.0, width / frame.width)
    return _encode(
        "mjpeg", frame, "yuvj444p", max(1, round(frame.width * shrink)), max(1, round(frame.height * shrink))
    )


def png(picture: NDArray[Any]) -> bytes:
    """A picture as PNG: (H, W, 3) of uint8, or (H, W) of uint16."""
    layout = "rgb24" if picture.ndim == 3 else "gray16le"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout)
    return _encode("png", frame, layout.replace("le", "be"), frame.width, frame.height)


def _decode(path: Path, layout: str) -> Iterator[Tensor]:
    for frame in _frames(path):
        pixels = frame.reformat(format=layout).to_ndarray()
        yield torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _frames(path: Path) -> Iterator[av.VideoFrame]:
    """Frames as they are decoded; at least one, else an EvaluationError."""
    count = 0
    try:
        # Through an open file, so that nothing in a name is taken for a protocol or a pattern of names.
        with path.open("rb") as file, av.open(file, "r") as container:
            if not container.streams.video:
                raise EvaluationError(
                    f"{path}: there is no picture in it. Give a video or a folder of pictures."
                )
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                count += 1
                yield frame
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        where = f"after {count} frames, {reason}" if count else reason
        raise EvaluationError(
            f"{path}: cannot be read ({where}). See whether `ffmpeg -i` can, and convert or remove it."
        ) from error
    if not count:
        raise EvaluationError(
            f"{path}: not one frame can be decoded. The file is empty or damaged: remove it."
        )


def _encode(codec: str, frame: av.VideoFrame, layout: str, width: int, height: int) -> bytes:
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt, context.time_base = width, height, layout, Fraction(1, 1)
    if codec == "mjpeg":
        context.qmin = context.qmax = _JPEG_QUALITY
    made = frame.reformat(width, height, layout, interpolation="AREA")
    made.pts = 0
    file = io.BytesIO()
    for packet in [*context.encode(made), *context.encode(None)]:
        file.write(bytes(packet))
    return file.getvalue()


def _size(shape: tuple[int, ...] | torch.Size | None) -> str:
    return f"{shape[-1]}x{shape[-2]}" if shape else "of no size"
