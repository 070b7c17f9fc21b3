"""A worker's share of the main memory that all of a service may take on a small machine (the setting DAIN_MEMORY).

API, janitor, Redis and what supervises them take little, whatever the video. Of the rest an eighth is for FFmpeg's
processes, and for what the system keeps of their files; the worker plans with seven eighths.
"""

from __future__ import annotations

import math

import torch

from dain_core.network.networks import Config
from dain_core.runtime.devices import is_unified
from dain_core.runtime.memory import GIB, FrameTooLargeError
from dain_core.runtime.ram import needed_bytes, resident
from service.settings import Settings

#: Bytes of the other processes: 0.2 GiB as measured, 64 MiB for Redis, and uploads.
OTHERS = 5 * GIB // 16
_OF_THE_REST = 0.875
#: Usual sizes of pictures, width and height.
SIZES = ((640, 480), (1280, 720), (1920, 1080), (2560, 1440), (3840, 2160), (7680, 4320))


def limit(settings: Settings, device: torch.device) -> int | None:
    """The bytes that a worker may take where `device` has its memory; None: what it can have."""
    limits: list[int | None] = [settings.max_ram_bytes if device.type == "cpu" else settings.max_vram_bytes]
    if is_unified(device):
        limits += [settings.max_ram_bytes, settings.memory and share(settings.memory)]
    return min((int(each) for each in limits if each is not None), default=None)


def share(memory: int) -> int:
    """What a worker may take of `memory` bytes; not positive where the others take all."""
    return int((memory - OTHERS) * _OF_THE_REST)


def least(needed: int) -> str:
    """The memory that is enough for a worker that needs so many bytes, as `dain edge --memory` takes it."""
    return f"{math.ceil(10 * (needed / _OF_THE_REST + OTHERS) / GIB) / 10:.1f}GiB"


def advice(error: FrameTooLargeError, settings: Settings, device: torch.device) -> str:
    """What to add to the error where more of the service's memory would do."""
    if settings.memory and error.needed and is_unified(device):
        needed = error.needed + (
            0 if device.type == "cpu" else resident()
        )  # what a GPU needs, it needs beside that
        return f" With `dain edge`, the least that is enough is --memory {least(needed)}."
    return ""


def room(memory: int, model: str, config: Config) -> str:
    """What frames a model can make on a CPU within `memory` bytes, in a sentence.

    Raises:
        FrameTooLargeError: none; the message names the least that is enough.
    """
    needs = {size: needed_bytes(config, size[1], size[0]) for size in SIZES}
    fits = [f"{width}x{height}" for (width, height), needed in needs.items() if needed <= share(memory)]
    beyond = [f"{width}x{height}" for width, height in SIZES][len(fits) : len(fits) + 1]
    smallest = needed_bytes(config, *SIZES[0])
    if not fits:
        raise FrameTooLargeError(
            f"{model} makes no frames of {SIZES[0][0]}x{SIZES[0][1]} within {memory / GIB:.2g} GiB: "
            f"the least for them is {least(smallest)} (--memory, DAIN_MEMORY)",
            smallest,
        )
    more = f"; {beyond[0]} takes {least(needs[SIZES[len(fits)]])}" if beyond else ""
    return f"Within {memory / GIB:.2g} GiB, {model} makes frames of up to {fits[-1]} on a CPU{more}."
