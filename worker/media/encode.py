"""Frames into a video file: one FFmpeg process that reads planes from a pipe."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from dain_core.runtime.pixels import PixelFormat
from worker.media import ffmpeg
from worker.media.decode import Plane
from worker.media.errors import MediaError
from worker.media.facts import VideoInfo

# Encoding must not hold up the network. At 1280x720 and CRF 18 a CPU core encodes some 15 frames a second on this
# preset, a third more than on x264's default, "medium", at 0.4 dB less; "veryfast" gives away another 1.2 dB.
PRESET = "faster"


class Encoder:
    """An H.264 file of frames at an even rate, one of the segments that ``worker.media.join`` puts together.

    Frames are of ``info.width`` x ``info.height`` in ``info.working_format``, and carry its colour tags and
    sample aspect ratio. Segments of the same ``info``, ``rate``, ``quality`` and ``preset`` have the same
    H.264 parameters, so they can be joined without encoding again. ``quality`` is x264's CRF, 0 (lossless)
    to 51.

    Leaving the context finishes the file; leaving it by an exception ends FFmpeg at once.
    """

    def __init__(
        self, path: Path, info: VideoInfo, rate: Fraction, *, quality: int = 18, preset: str = PRESET
    ) -> None:
        pixels = PixelFormat.named(info.working_format)
        self._shapes = pixels.plane_shapes(info.width, info.height)
        self._itemsize = pixels.dtype.itemsize
        command = _encoding(path, info, rate, quality, preset)
        self._process = ffmpeg.Process(command, stdin=subprocess.PIPE)

    def write(self, planes: Sequence[Plane]) -> None:
        """Append a frame; MediaError("encode-failed") where the encoder has given up."""
        for plane, shape in zip(planes, self._shapes, strict=True):
            if plane.shape != shape or plane.itemsize != self._itemsize:
                wanted = f"{shape} of {self._itemsize} bytes a sample"
                raise ValueError(f"expected a plane {wanted}, got {plane.shape} of {plane.itemsize}")
            rest = np.ascontiguousarray(plane).data.cast("B")
            while rest:
                try:
                    rest = rest[os.write(self._process.stdin.fileno(), rest) :]
                except BrokenPipeError:
                    self._process.wait()
                    raise self._failure() from None

    def kill(self) -> None:
        """Give up; from any thread. A `write` in progress ends with a MediaError."""
        self._process.kill()

    def close(self) -> None:
        """Finish the file; MediaError("encode-failed") where that did not succeed."""
        self._process.stdin.close()
        status = self._process.wait()
        self._process.close()
        if status:
            raise self._failure()

    def _failure(self) -> MediaError:
        return ffmpeg.not_written("encoded", self._process.messages)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            self._process.close()
        else:
            self.close()


def _encoding(path: Path, info: VideoInfo, rate: Fraction, quality: int, preset: str) -> list[str]:
    rate = min(max(rate, Fraction(1)), Fraction(1000)).limit_denominator(1001)
    frames = ffmpeg.own_source(
        "pipe:0",
        format="rawvideo",
        pixel_format=info.working_format,
        video_size=(info.width, info.height),
        framerate=str(rate),
    )
    # The tags are written into the stream itself: asked for them by name, ffmpeg might convert the pixels.
    tags = {
        "video_full_range_flag": int(info.full_range),
        "colour_primaries": info.primaries,
        "transfer_characteristics": info.transfer,
        "matrix_coefficients": info.matrix,
    }
    output = frames.filter("setsar", sar=str(info.sample_aspect_ratio), max=65535).output(
        ffmpeg.url(path),
        format="mp4",
        vcodec="libx264",
        preset=preset,
        fps_mode="passthrough",
        # CRF 0 is lossless in 8 bits alone, a quantiser of 0 in 10 bits too.
        **({"crf": quality} if quality else {"qp": 0}),
        **{"bsf:v": "h264_metadata=" + ":".join(f"{name}={value}" for name, value in tags.items())},
    )
    return ffmpeg.command(output)
