"""Frames into a video file: one FFmpeg process that reads planes from a pipe."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from dain_core.runtime.pixels import PixelFormat
from worker.media import ffmpeg
from worker.media.decode import Plane
from worker.media.delivery import Delivery
from worker.media.errors import MediaError


class Encoder:
    """Writes a file of frames at an even rate: one of the segments that ``worker.media.join`` puts together.

    Frames have the size and pixel format of ``delivery``, and get its colour tags and sample aspect ratio. Segments of
    the same delivery can be joined without encoding them again.

    Leaving the context finishes the file. Leaving it by an exception ends FFmpeg at once.
    """

    def __init__(self, path: Path, delivery: Delivery) -> None:
        pixels = PixelFormat.named(delivery.pixel_format)
        self._shapes = pixels.plane_shapes(delivery.width, delivery.height)
        self._itemsize = pixels.dtype.itemsize
        self._process = ffmpeg.Process(_command(path, delivery), stdin=subprocess.PIPE)

    def write(self, planes: Sequence[Plane]) -> None:
        """Append a frame: its planes Y, U and V.

        Raises:
            MediaError: the encoder has given up ("encode-failed"), or the disk is full.
            MachineError: the machine ended the encoder.
            ValueError: a plane has another shape or depth than the delivery.
        """
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
        """Give up; any thread may call this. A `write` in progress ends with a MediaError."""
        self._process.kill()

    def close(self) -> None:
        """Finish the file. Raises as `write` does where that fails."""
        self._process.stdin.close()
        status = self._process.wait()
        self._process.close()
        if status:
            raise self._failure()

    def _failure(self) -> MediaError:
        return self._process.blame(ffmpeg.not_written("encoded", self._process.messages))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            self._process.close()
        else:
            self.close()


def _command(path: Path, delivery: Delivery) -> list[str]:
    frames = ffmpeg.own_source(
        "pipe:0",
        format="rawvideo",
        pixel_format=delivery.pixel_format,
        video_size=(delivery.width, delivery.height),
        framerate=str(delivery.rate),
    )
    shaped = frames.filter("setsar", sar=str(delivery.sample_aspect_ratio), max=65535)
    return ffmpeg.command(shaped.output(ffmpeg.url(path), fps_mode="passthrough", **delivery.encoding()))
