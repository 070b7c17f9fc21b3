"""Reads picture files as tensors with PyAV, and lists the picture and video files of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import av.error
import torch
from torch import Tensor

from dain_core.training.batch import TrainingDataError

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".y4m"}


def read_picture(path: Path, most: int | None = None) -> Tensor:
    """Read a picture file.

    Args:
        path: the file.
        most: the largest length of the longer side in pixels. A larger picture is scaled down to it.

    Returns:
        RGB, (3, H, W), uint8; or RGB and coverage, (4, H, W), uint8, if a part of the picture is not opaque.

    Raises:
        TrainingDataError: the file cannot be read as a picture.
    """
    try:
        with av.open(str(path)) as file:
            frame = next(file.decode(video=0))
            scale = min(1.0, most / max(frame.width, frame.height)) if most else 1.0
            width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
            kind = frame.format
            clear = kind.has_palette or any(part.is_alpha for part in kind.components)
            array = frame.to_ndarray(
                format="rgba" if clear else "rgb24", width=width, height=height, interpolation="AREA"
            )
    except (av.error.FFmpegError, OSError, StopIteration, IndexError) as error:
        raise TrainingDataError(
            f"{path} cannot be read as a picture ({error}): replace or remove it"
        ) from error
    picture = torch.from_numpy(array).permute(2, 0, 1).contiguous()
    opaque = len(picture) == 4 and bool((picture[3] == 255).all())
    return picture[:3] if opaque else picture


def load_pictures(paths: Iterable[Path], most: int = 1792) -> list[Tensor]:
    """Read several picture files in threads; return the result of `read_picture` for each, in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda path: read_picture(path, most), paths))


def files(folder: Path, suffixes: set[str]) -> list[Path]:
    """Return the files with these suffixes in `folder` and in its subfolders, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
