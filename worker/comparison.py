"""Two videos set side by side: as a video that shows both, and in figures of how much they differ.

FFmpeg does both in one pass. It pairs frames by the times at which they are shown, so the videos may have different
frame rates.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

from worker.media import ffmpeg, sandbox
from worker.media.facts import VideoInfo
from worker.media.times import frame_times

LAYOUTS = ("wipe", "side-by-side", "stacked")
PERIOD_SECONDS = 4.0  # of the wipe, as it is seen
QUALITY = {"c:v": "libx264", "crf": 16, "preset": "fast", "pix_fmt": "yuv420p", "movflags": "+faststart"}
_FRAME = re.compile(r"frame=\s*(\d+)")
_PSNR = re.compile(r"psnr_avg:(\S+)")
_SSIM = re.compile(r"All:(\S+)")


@dataclass(frozen=True)
class Clip:
    """A video that is compared.

    Attributes:
        path: its file.
        info: the facts about it.
        gap: the mean time from one of its frames to the next, in seconds.
        start: where it begins to be compared, in seconds of its own.
        stretch: how much longer it is made to last: a video is 4 times as slow with 4.
    """

    path: Path
    info: VideoInfo
    gap: Fraction
    start: Fraction = Fraction(0)
    stretch: Fraction = Fraction(1)

    @classmethod
    def of(cls, path: Path, start: Fraction = Fraction(0), stretch: Fraction = Fraction(1)) -> Clip:
        """The video in a file; raises MediaError where it is none."""
        times = frame_times(path).times
        gap = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else Fraction(1)
        return cls(path, sandbox.probe(path), gap, start, stretch)

    @property
    def rate(self) -> Fraction:
        """Frames a second, as it is compared."""
        return 1 / (self.gap * self.stretch)

    @property
    def seconds(self) -> Fraction:
        """What is left of it from `start` on."""
        return (self.info.duration - self.start) * self.stretch

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in square pixels, upright and even, as H.264 wants them."""
        width, height = round(self.info.width * self.info.sample_aspect_ratio), self.info.height
        if self.info.rotation % 180:
            width, height = height, width
        return width // 2 * 2, height // 2 * 2


@dataclass(frozen=True)
class Figures:
    """How much two videos differ, over the frames that both show at the same times.

    Attributes:
        frames: how many these are.
        equal: how many of them are equal to the last bit.
        psnr: the mean of all others' PSNR, in dB; None where all are equal.
        worst_psnr: the least.
        worst_seconds: when that frame is shown.
        ssim: the mean of the structural similarity, 1 for equal frames.
    """

    frames: int
    equal: int
    psnr: float | None
    worst_psnr: float | None
    worst_seconds: float | None
    ssim: float


@dataclass(frozen=True)
class Comparison:
    """Two videos, and how they are shown.

    Attributes:
        first, second: the videos; the second is scaled to the size of the first.
        layout: one of `LAYOUTS`. A wipe shows the first to the left of a line that moves.
        slow: how many times as slow both are shown.
        duration: how much is compared, in seconds; None: all that both have.
    """

    first: Clip
    second: Clip
    layout: str = "wipe"
    slow: int = 1
    duration: Fraction | None = None

    @property
    def rate(self) -> Fraction:
        """Frames a second of the video that shows both: no frame of either is left out."""
        return max(self.first.rate, self.second.rate) / self.slow

    @property
    def seconds(self) -> Fraction:
        """How long both are compared, before they are slowed. ValueError where nothing is left of one."""
        left = min(self.first.seconds, self.second.seconds)
        if left <= 0:
            raise ValueError(
                "one of the videos ends before what is to be compared begins: choose an earlier start"
            )
        return left if self.duration is None else min(left, self.duration)

    @property
    def frames(self) -> int:
        """Of the video that shows both."""
        return math.ceil(self.seconds * self.slow * self.rate)

    @property
    def legend(self) -> str:
        """What is seen where."""
        first, second = self.first.path.name, self.second.path.name
        where = {
            "wipe": f"{first} is left of the line, {second} right of it",
            "side-by-side": f"{first} is on the left, {second} on the right",
            "stacked": f"{first} is above, {second} below",
        }[self.layout]
        return where + (f"; {self.slow} times as slow" if self.slow > 1 else "")

    def make(self, path: Path, on_frame: Callable[[int], None] = lambda frame: None) -> Figures:
        """Measure, and write the video that shows both.

        Args:
            path: where it goes, as MP4.
            on_frame: is called with the number of frames done, again and again.

        Raises:
            MediaError: FFmpeg cannot read or write one of them.
        """
        with tempfile.TemporaryDirectory(prefix="dain-") as folder:
            psnr, ssim = Path(folder, "psnr"), Path(folder, "ssim")
            one, other = (
                self._frames(clip).filter_multi_output("split") for clip in (self.first, self.second)
            )
            outputs = [
                ffmpeg.output(self._shown(one[1], other[1]), url=ffmpeg.url(path), format="mp4", **QUALITY),
                ffmpeg.output(self._measured(one[0], other[0], psnr, ssim), url="-", format="null"),
            ]
            _run([*ffmpeg.command(*outputs), "-progress", "pipe:1"], on_frame)
            return _figures(psnr.read_text(), ssim.read_text(), min(self.first.rate, self.second.rate))

    def _frames(self, clip: Clip) -> Any:
        """The frames of the part of a clip, from time 0 on, in the size of the first clip."""
        source = ffmpeg.own_source(
            ffmpeg.url(clip.path),
            protocol_whitelist=sandbox.PROTOCOLS,
            format_whitelist=sandbox.FORMATS,
            ss=float(clip.start),
            thread_queue_size=16
            if clip is self.first
            else 8,  # one file may be both: ffmpeg-python merges equals
        )
        frames = source[f"{clip.info.stream}"].filter("setpts", f"(PTS-STARTPTS)*{clip.stretch}")
        frames = frames.filter("trim", duration=float(self.seconds))
        return (
            frames.filter("scale", *self.first.size, flags="bicubic")
            .filter("setsar", 1)
            .filter("format", "yuv420p")
        )

    def _measured(self, first: Any, second: Any, psnr: Path, ssim: Path) -> Any:
        """What measures: a frame of the one with fewer frames, and the frame of the other that is shown then."""
        few, many = (first, second) if self.first.rate <= self.second.rate else (second, first)
        synchronised = {"shortest": 1, "ts_sync_mode": "nearest"}
        both = many.filter_multi_output("split")
        measured = ffmpeg.merged([few, both[0]], "psnr", stats_file=str(psnr), **synchronised)
        return ffmpeg.merged([measured, both[1]], "ssim", stats_file=str(ssim), **synchronised)

    def _shown(self, first: Any, second: Any) -> Any:
        rate, seconds = str(self.rate.limit_denominator(10**6)), float(self.seconds * self.slow)
        both = [frames.filter("setpts", f"PTS*{self.slow}").filter("fps", rate) for frames in (first, second)]
        if self.layout != "wipe":
            return ffmpeg.merged(both, "hstack" if self.layout == "side-by-side" else "vstack", shortest=1)
        width, height = self.first.size
        here = f"W*(0.5-0.45*cos(2*PI*t/{PERIOD_SECONDS}))"  # the line is at the left in the beginning
        one, other = (frames.filter("format", "yuv444p") for frames in both)
        black, white, line = (
            ffmpeg.own_source(f"color={color}:size={size}:rate={rate}:duration={seconds}", format="lavfi")
            for color, size in (
                ("black", f"{width}x{height}"), ("white", f"{width}x{height}"), ("white", f"2x{height}")
            )
        )  # fmt: skip
        mask = ffmpeg.merged([black, white], "overlay", x=here).filter("format", "gray")
        mask = mask.filter("lut", c0="255*gt(val,127)").filter("mergeplanes", "0x000000", "yuv444p")
        wiped = ffmpeg.merged([one, other, mask], "maskedmerge")
        return ffmpeg.merged([wiped, line], "overlay", x=f"{here}-1", shortest=1, format="yuv444")


def _run(command: list[str], on_frame: Callable[[int], None]) -> None:
    with ffmpeg.Process(command, stdout=subprocess.PIPE) as process:
        with open(process.stdout.fileno(), closefd=False) as told:
            for line in told:
                if found := _FRAME.match(line):
                    on_frame(int(found[1]))
        if process.wait():
            raise process.blame(ffmpeg.not_written("compared", process.reason))


def _figures(psnr: str, ssim: str, rate: Fraction) -> Figures:
    """What FFmpeg's filters wrote about each frame, in short."""
    levels = [float(level) for level in _PSNR.findall(psnr)]
    finite = [level for level in levels if math.isfinite(level)]
    worst = min(finite, default=None)
    return Figures(
        frames=len(levels),
        equal=len(levels) - len(finite),
        psnr=fmean(finite) if finite else None,
        worst_psnr=worst,
        worst_seconds=None if worst is None else float(levels.index(worst) / rate),
        ssim=fmean(map(float, _SSIM.findall(ssim))),
    )
