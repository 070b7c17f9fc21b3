"""Reads and writes pictures and videos with PyAV. `dain_core.evaluation` uses no other library for pixels."""

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

from dain_core.errors import DainCoreError

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

_JPEG_QUALITY = 3  # on ffmpeg's scale, 1 is the best and 31 the worst


class EvaluationError(DainCoreError):
    """A file, an option or a method cannot be evaluated. The message names it and says what to do."""


def read_picture(path: Path) -> Tensor:
    """Read a picture file as RGB, (1, 3, H, W), uint8, without its transparency.

    Raises:
        EvaluationError: the file cannot be read as a picture.
    """
    return next(_decode(path, "rgb24"))


def read_gray16(path: Path) -> NDArray[np.uint16]:
    """Read a picture file as grey levels, (H, W), 0 to 65535. The levels of 8-bit pictures are scaled to this range.

    Raises:
        EvaluationError: the file cannot be read as a picture.
    """
    levels: NDArray[np.uint16] = (
        next(_frames(path)).reformat(format="gray16le").to_ndarray().astype(np.uint16)
    )
    return levels


def read_video(path: Path) -> Iterator[Tensor]:
    """Read the frames of the first video stream in the order of display: RGB, (1, 3, H, W), uint8.

    Raises:
        EvaluationError: the file cannot be read as a video, or its frames differ in size.
    """
    size: tuple[int, ...] | None = None
    for index, frame in enumerate(_decode(path, "rgb24")):
        if size not in (None, tuple(frame.shape)):
            raise EvaluationError(
                f"{path}: frame {index} is {_size(frame.shape)}, the frames before it are {_size(size)}. "
                "Scale the video to one size first."
            )
        size = tuple(frame.shape)
        yield frame


def pictures_of(folder: Path) -> list[Path]:
    """Return the picture files in a folder, in the order of the numbers in their names: frame2 before frame10."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    return sorted(
        found, key=lambda path: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", path.name)]
    )


def jpeg(picture: NDArray[np.uint8], width: int) -> bytes:
    """Encode a picture, RGB (H, W, 3), as JPEG. It is shrunk to `width` columns if it is wider."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    shrink = min(1.0, width / frame.width)
    return _encode(
        "mjpeg", frame, "yuvj444p", max(1, round(frame.width * shrink)), max(1, round(frame.height * shrink))
    )


def png(picture: NDArray[Any]) -> bytes:
    """Encode a picture as PNG: RGB (H, W, 3), uint8, or grey (H, W), uint16."""
    layout = "rgb24" if picture.ndim == 3 else "gray16le"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout)
    return _encode("png", frame, layout.replace("le", "be"), frame.width, frame.height)


def _decode(path: Path, layout: str) -> Iterator[Tensor]:
    for frame in _frames(path):
        pixels = frame.reformat(format=layout).to_ndarray()
        yield torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _frames(path: Path) -> Iterator[av.VideoFrame]:
    """Decode the frames of a file. Raise EvaluationError if it cannot be read or has no frame."""
    count = 0
    try:
        # FFmpeg gets an open file, because it takes some names for protocols or for patterns of names.
        with path.open("rb") as file, av.open(file, "r") as container:
            if not container.streams.video:
                raise EvaluationError(f"{path}: holds no picture. Give a video or a folder of pictures.")
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
