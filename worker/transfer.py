"""Frames on their way to the interpolator's device and back.

They travel as YUV, through pinned memory, on streams of their own: a GPU copies them while the network runs. Where a
GPU has its memory of the machine's, pinned copies would only take more of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dain_core.runtime.color import ColorSpec, to_rgb, to_yuv
from dain_core.runtime.devices import current, is_unified
from dain_core.runtime.pixels import PixelFormat
from worker.media.decode import Plane

FAINTEST = 1 / 1023  # alpha of a pixel of which anything is seen
Finish = Callable[[list[Tensor]], list[Tensor]]


class Pending(Protocol):
    """A new frame that the device is still making: a ``dain_core.runtime.engine.Pending``."""

    def result(self) -> Tensor: ...


@dataclass(frozen=True)
class Uploaded:
    """A source frame's planes on the device, or on their way there.

    To be kept until the device has done what ``Transfer.rgb`` gave it to do.
    """

    planes: Sequence[Tensor]
    arrived: torch.cuda.Event | None


class Transfer:
    """Between planes here and RGB on `device`. Each method may be called by another thread."""

    def __init__(self, device: torch.device, pixels: PixelFormat, colors: ColorSpec) -> None:
        self._device = device
        self._pixels = pixels
        self._colors = colors
        self._pins = not is_unified(device)
        self._in: torch.cuda.Stream | None = None
        self._out: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._in, self._out = _streams(device)

    @property
    def depth(self) -> int:
        """Bits of a sample."""
        return self._pixels.depth

    def on_device(self) -> AbstractContextManager[object]:
        """Within this, CUDA calls of the calling thread mean this device."""
        return current(self._device)

    def upload(self, planes: Sequence[Plane]) -> Uploaded:
        """Send a frame to the device, without waiting for it to arrive."""
        tensors = [torch.from_numpy(p.view(np.int16) if p.itemsize == 2 else p) for p in planes]
        if self._in is None:
            return Uploaded(tensors, None)
        with torch.cuda.stream(self._in):
            here = [tensor.pin_memory() for tensor in tensors] if self._pins else tensors
            there = [tensor.to(self._device, non_blocking=self._pins) for tensor in here]
            return Uploaded(there, self._in.record_event())

    def rgb(self, uploaded: Uploaded) -> Tensor:
        """The frame for the network, once it has arrived: the device waits for that, the caller does not."""
        if uploaded.arrived:
            torch.cuda.current_stream(self._device).wait_event(uploaded.arrived)
        rgb = to_rgb(uploaded.planes[:3], self._pixels.opaque, self._colors)
        alpha = self.alpha(uploaded)
        return (
            rgb if alpha is None else rgb * alpha
        )  # what lies under a transparent pixel must not reach its neighbours

    def alpha(self, uploaded: Uploaded) -> Tensor | None:
        """How opaque each pixel of a frame that `rgb` was asked for is, (1, 1, H, W); None without alpha."""
        if not self._pixels.alpha:
            return None
        return uploaded.planes[3][None, None].float() / (2**self.depth - 1)

    def download(
        self, pending: Pending, finish: Finish | None = None, alpha: Tensor | None = None
    ) -> tuple[Plane, ...]:
        """The planes of a new frame, once it is made; the device goes on with what it was given after it.

        `finish` makes of them, on the device, what is shown. `alpha` is how opaque each pixel of the frame is.
        """
        # On the stream of its own the result overtakes that later work.
        with torch.cuda.stream(self._out):
            rgb = pending.result()
            if alpha is not None:
                rgb = torch.where(alpha > 0, rgb / alpha.clamp(min=FAINTEST), 0).clamp(0, 1)
            planes = to_yuv(rgb, self._pixels.opaque, self._colors)
            planes = finish(planes) if finish else planes
            if alpha is not None:
                planes.append((alpha[0, 0] * (2**self.depth - 1) + 0.5).to(planes[0].dtype))
            if self._pins:
                planes = [plane.to("cpu", non_blocking=True) for plane in planes]  # into pinned memory
            if self._out is not None:
                self._out.record_event(_event()).synchronize()
            return tuple(plane.cpu().numpy() for plane in planes)


@cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """The streams to and from a GPU, for all segments: freed memory is kept for the stream that it was used on."""
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


class Stopwatch:
    """How long a device works on what it is given between the making of this and `stop`."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._began = self._now()

    def stop(self) -> None:
        self._ended = self._now()

    def seconds(self) -> float:
        """Waits for the device to be done."""
        if self._stream is None:
            return float(self._ended - self._began)
        self._ended.synchronize()
        return float(self._began.elapsed_time(self._ended)) / 1000

    def _now(self) -> Any:
        return self._stream.record_event(_event()) if self._stream else time.monotonic()


def _event() -> torch.cuda.Event:
    """One that whoever waits for it sleeps, instead of taking a core from the codecs."""
    return torch.cuda.Event(enable_timing=True, blocking=True)
