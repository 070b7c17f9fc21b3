"""A picture of what a caller knows to stand still: white stays, black is left to the engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from worker.media import ffmpeg
from worker.media.decode import Plane
from worker.media.errors import MediaError
from worker.media.facts import MAX_PIXELS, VideoInfo


def read(path: Path, info: VideoInfo) -> Plane:
    """How much each pixel of a decoded frame stands still, (height, width), float32 in [0, 1].

    The picture at `path`, a PNG, is of the video as it is shown: it is turned and scaled as that needs.

    Raises:
        MediaError: it is no picture that can be read ("invalid-option").
    """
    turns = round(info.rotation / 90)
    shown = (info.width, info.height) if turns % 2 == 0 else (info.height, info.width)
    picture = ffmpeg.own_source(
        ffmpeg.url(path), format="png_pipe", protocol_whitelist="file", max_pixels=MAX_PIXELS
    )
    # What is transparent is black.
    gray = picture.filter("format", "rgba").filter("premultiply", inplace=1).filter("format", "gray")
    scaled = gray.filter("scale", *shown, flags="area", in_range="full", out_range="full")
    command = ffmpeg.command(ffmpeg.output(scaled, url="pipe:1", format="rawvideo", frames=1))
    with ffmpeg.Process(command, stdout=subprocess.PIPE) as process:
        with open(process.stdout.fileno(), "rb", closefd=False) as pipe:
            data = pipe.read()
        process.wait()
        if len(data) != info.width * info.height:
            sentence = "The mask cannot be read: it is no PNG, or a damaged one. Export it again."
            raise process.blame(MediaError("invalid-option", sentence))
    values = np.frombuffer(data, np.uint8).reshape(shown[::-1])
    return np.rot90(values, -turns).astype(np.float32) / 255
