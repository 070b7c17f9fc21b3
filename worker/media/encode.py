"""Frames into a video file: one FFmpeg process that reads planes from a pipe."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dain_core.runtime.pixels import PixelFormat
from service.jobs.formats import CODECS, is_gpu
from worker.media import ffmpeg
from worker.media.codecs import ENCODINGS, encoding_of
from worker.media.decode import Plane
from worker.media.delivery import Delivery
from worker.media.errors import MachineError, MediaError
from worker.media.facts import UNSPECIFIED

ALWAYS = {"h264"}  # the default, whose planes have sizes that it takes
RGB = 0  # in the code points of H.273: the matrix of pictures that have none


#: What can be done with all frames before they are encoded -> FFmpeg's filter and its options.
ENHANCEMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "denoise": ("vaguedenoiser", {"threshold": 3}),
    "deband": ("deband", {}),
    "sharpen": ("cas", {"strength": 0.5}),
}


class Encoder:
    """Writes a file of frames at an even rate: one of the segments that ``worker.media.join`` puts together.

    Frames have the size and pixel format of ``delivery``, and get its colour tags and sample aspect ratio. Segments of
    the same delivery can be joined without encoding them again.

    Leaving the context finishes the file. Leaving it by an exception ends FFmpeg at once.
    """

    def __init__(self, path: Path, delivery: Delivery, muxer: str = "") -> None:
        pixels = PixelFormat.named(delivery.pixel_format)
        self._shapes = pixels.plane_shapes(delivery.width, delivery.height)
        self._itemsize = pixels.dtype.itemsize
        self._process = ffmpeg.Process(_command(path, delivery, muxer), stdin=subprocess.PIPE)

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

    @property
    def reason(self) -> str:
        """What FFmpeg complained about first."""
        return self._process.reason

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


def codecs(has_gpu: bool) -> list[str]:
    """The codecs of pictures that results can have on this machine. What a GPU is to encode is tried."""
    there = ffmpeg.encoders()
    found = (name for name, encoding in ENCODINGS.items() if encoding.encoder in there)
    usable = [
        name for name in found if not is_gpu(name) or (has_gpu and ffmpeg.encodes(ENCODINGS[name].encoder))
    ]
    return usable + [name for name in CODECS if name not in ENCODINGS]


def check(delivery: Delivery) -> None:
    """Raise MediaError where this machine's FFmpeg cannot encode the pictures of ``delivery``: before one is made.

    What every FFmpeg encodes in every size is not tried.
    """
    if delivery.codec in ALWAYS:
        return
    pixels = PixelFormat.named(delivery.pixel_format)
    black = [np.zeros(shape, pixels.dtype) for shape in pixels.plane_shapes(delivery.width, delivery.height)]
    encoder = Encoder(Path(os.devnull), delivery, muxer="null")
    try:
        with encoder:
            encoder.write(black)
    except MachineError:
        raise
    except MediaError as error:
        raise MediaError(
            "codec-unavailable",
            f"The workers cannot encode pictures of {delivery.width}x{delivery.height} with the codec "
            f"{delivery.codec} ({encoder.reason}). Choose another codec.",
        ) from error


def _command(path: Path, delivery: Delivery, muxer: str = "") -> list[str]:
    frames = ffmpeg.own_source(
        "pipe:0",
        format="rawvideo",
        pixel_format=delivery.pixel_format,
        video_size=(delivery.width, delivery.height),
        framerate=str(delivery.rate),
        **delivery.static_metadata,
    )
    shaped = _converted(_tagged(_enhanced(frames, delivery), delivery), delivery)
    shaped = shaped.filter("setsar", sar=str(delivery.sample_aspect_ratio), max=65535)
    if not encoding_of(delivery).says_range:  # FFmpeg would convert the planes of full range for it
        shaped = shaped.filter("setparams", range="limited")
    options = encoding_of(delivery).command(delivery) | ({"format": muxer} if muxer else {})
    return ffmpeg.command(shaped.output(ffmpeg.url(path), fps_mode="passthrough", **options))


def _tagged(frames: Any, delivery: Delivery) -> Any:
    """Frames that say what their colours are: every encoder passes this on, and nothing converts them for it."""
    tags = {
        "color_primaries": delivery.primaries,
        "color_trc": delivery.transfer,
        "colorspace": delivery.matrix,
    }
    known = {name: tag for name, tag in tags.items() if tag not in (RGB, UNSPECIFIED)}
    if delivery.chroma_location:
        known["chroma_location"] = delivery.chroma_location
    return frames.filter("setparams", range=2 if delivery.full_range else 1, **known)


def _enhanced(frames: Any, delivery: Delivery) -> Any:
    """Frames that are enhanced, each by itself: so it does not matter where a segment begins. Alpha stays."""
    pixels, alpha = PixelFormat.named(delivery.pixel_format), None
    if delivery.enhance and pixels.alpha:
        # The range of alpha is always full, and FFmpeg would convert it to one of the picture that is not.
        both = frames.filter("setparams", range="full").filter_multi_output("split")
        frames, alpha = both[0].filter("format", pixels.opaque.name), both[1].filter("extractplanes", "a")
    for name in delivery.enhance:
        filter_name, options = ENHANCEMENTS[name]
        frames = frames.filter(filter_name, **options)
    return frames if alpha is None else ffmpeg.with_alpha(frames, alpha, pixels.name)


def _converted(frames: Any, delivery: Delivery) -> Any:
    """Frames of the size and the pixels of the file."""
    coded = delivery.coded_format
    if not coded:
        return frames
    (width, height), level = delivery.coded_size, "full" if delivery.full_range else "limited"
    right, bottom = width - delivery.width, height - delivery.height
    if right or bottom:
        frames = frames.filter("pad", width, height)
        frames = frames.filter("fillborders", right=right, bottom=bottom, mode="smear")
    frames = frames.filter(
        "scale", in_range=level, out_range=level, flags="bicubic+accurate_rnd+full_chroma_int"
    )
    return frames.filter("format", encoding_of(delivery).pixels.get(coded, coded))
