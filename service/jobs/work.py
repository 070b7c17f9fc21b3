"""What a video will cost the workers, estimated of its facts before it is planned.

The unit of work is a megapixel of new frames. A small frame counts for more pixels than it has, since what takes time
then is not the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from service.jobs.notes import Note
from service.jobs.options import Options

LEAST_PIXELS = 2**16  # that a frame counts for


@dataclass(frozen=True)
class Work:
    """How many frames a result has, how many of them are new, and what they cost in megapixels."""

    frames: int
    new_frames: int
    megapixels: float

    @classmethod
    def of(cls, video: Mapping[str, Any], options: Options) -> Work:
        """The work of a job with `options` on a video, of which `video` has the prober's facts.

        Scene cuts and frames that are not evenly spaced, which the facts do not tell, are passed over, and fields where
        neither flags nor a look at the first pictures tell of them.
        """
        frames, new = count_frames(video, options)
        return cls(frames, new, megapixels(new, video["width"], video["height"]))


def count_frames(video: Mapping[str, Any], options: Options) -> tuple[int, int]:
    """How many frames the result has, and how many of them are new."""
    stretch, part, fields = options.stretch, _part_wanted(video, options), _frames_of_one(video, options)
    sources = max(round(int(video["frames"]) * part * fields), 1)
    if options.rate is None and (options.factor or stretch.denominator == 1):
        factor = options.factor or stretch.numerator
        return factor * sources, (factor - 1) * max(sources - (not options.loop), 0)
    average, wanted = Fraction(video["average_rate"]) * fields, Fraction(video["duration"]) * part
    rate, until_last = (options.rate or average) * stretch, max(wanted - 1 / average, Fraction(0))
    return int(wanted * rate), max(int(until_last * rate) - int(until_last * _in_both(rate, average)), 0)


def doubts(video: Mapping[str, Any], options: Options) -> list[Note]:
    """Why a job may have other frames than those counted here, which a look at its pictures will tell."""
    doubted = (_doubt_of_fields(video, options), _doubt_of_repeats(options))
    return [Note.of("frames-unsure", what) for what in doubted if what]


def _doubt_of_fields(video: Mapping[str, Any], options: Options) -> str:
    fields = _frames_of_one(video, options)
    if options.deinterlace != "auto" or (fields == 1 and not video.get("field_order")):
        return ""
    found = "whole pictures" if fields == 1 else "telecined film"
    if fields == 2:
        found = "interlaced, with a frame of each field"
    how = "By its first pictures" if "frames_of_one" in video else "By its flags"
    return f"{how} the video is taken for {found}. The job looks at more of them, and may find other frames than these."


def _doubt_of_repeats(options: Options) -> str:
    if options.dedup != "retime":
        return ""
    return (
        "All frames are counted. The job looks for those that repeat, and leaves them out: dedup is retime."
    )


def _frames_of_one(video: Mapping[str, Any], options: Options) -> Fraction:
    """How many frames deinterlacing makes of one, by what was seen of the video, or else by its flags."""
    if options.deinterlace != "auto":
        return Fraction(2 if options.deinterlace == "bob" else 1)
    seen: str | None = video.get("frames_of_one")
    return Fraction(seen or (2 if video.get("field_order") else 1))


def _part_wanted(video: Mapping[str, Any], options: Options) -> Fraction:
    """How much of the video is taken, from 0 to 1."""
    if not options.is_excerpt:
        return Fraction(1)
    duration = Fraction(video["duration"])
    left = max(duration - options.beginning, Fraction(0))
    return (left if options.seconds is None else min(left, options.seconds)) / duration


def megapixels(frames: int, width: int, height: int) -> float:
    """The work of so many new frames."""
    return frames * max(width * height, LEAST_PIXELS) / 1e6


def _in_both(first: Fraction, second: Fraction) -> Fraction:
    """How many moments a second are in both of two rates' grids that begin together.

    >>> _in_both(Fraction(60), Fraction(24))
    Fraction(12, 1)
    """
    denominator = math.lcm(first.denominator, second.denominator)
    return Fraction(math.gcd(int(first * denominator), int(second * denominator)), denominator)
