"""A job's plan: what its tasks agree on. Made once, stored as JSON, and enough to make any segment by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from service.jobs.options import Options
from worker import schedule
from worker.channel import nothing
from worker.media import probe as media
from worker.media.probe import Limits, Timeline, VideoInfo
from worker.schedule import Factor, Retime, Schedule, Segment, TargetRate


@dataclass(frozen=True)
class Plan:
    """How one video becomes another."""

    info: VideoInfo
    timeline: Timeline
    options: Options
    segments: tuple[Segment, ...]

    @classmethod
    def make(
        cls,
        source: Path,
        options: Options,
        *,
        limits: Limits,
        segment_frames: int,
        check: Callable[[], None] = nothing,
    ) -> Plan:
        """Look into `source` and lay out the result, in segments of about `segment_frames` output frames.

        `check` is called often where that takes long, and may raise to stop.

        Raises:
            MediaError: the video cannot be taken.
        """
        info, timeline = media.probe(source, limits), media.frame_times(source, check)
        whole = cls(info, timeline, options, ())
        if limits.max_frames is not None and whole.frames > limits.max_frames:
            raise media.exceeded(f"{whole.frames} frames in the result", f"{limits.max_frames} frames")
        source_frames = max(1, round(segment_frames * len(timeline.times) / whole.frames))
        return cls(info, timeline, options, tuple(schedule.segments(whole.schedule, source_frames)))

    @cached_property
    def schedule(self) -> Schedule:
        """Every output frame, in order."""
        return schedule.build(self.timeline.times, self.timeline.end, self._retime())

    def _retime(self) -> Retime:
        """On the source's clock: in slow motion as many times the frames as it lasts longer."""
        options = self.options
        if options.factor:
            return Factor(options.factor)
        if options.rate is None and options.stretch.denominator == 1:
            return Factor(options.stretch.numerator)  # keeps all source frames, however they are spaced
        return TargetRate((options.rate or self.info.average_rate) * options.stretch)

    def shown(self, time: Fraction) -> Fraction:
        """When the result shows what `time` is on the source's clock: slow motion goes on from its first frame."""
        first = self.timeline.times[0]
        return first + (time - first) * self.options.stretch

    @property
    def frames(self) -> int:
        """Output frames."""
        return len(self.schedule)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first output frame to the end of the last."""
        return (self.timeline.end - self.timeline.times[0]) * self.options.stretch

    @property
    def frame_rate(self) -> Fraction:
        """Of the result; the mean where the source's varies."""
        return self.options.rate or self.info.average_rate * (self.options.factor or 1)

    @property
    def suffix(self) -> str:
        """What the result's file name says of it: `2x`, `59.94fps`, `4x-slower`, `4x-slower-60fps`."""
        options = self.options
        parts = [f"{options.factor}x"] if options.factor else []
        parts += [f"{float(options.stretch):.4g}x-slower"] if options.speed else []
        parts += [f"{float(options.rate):.5g}fps"] if options.rate else []
        return "-".join(parts)

    def to_json(self) -> str:
        denominator = math.lcm(*(time.denominator for time in (*self.timeline.times, self.timeline.end)))
        return json.dumps(
            {
                "info": self.info.as_dict(),
                "unit": str(Fraction(1, denominator)),
                "times": [int(time * denominator) for time in self.timeline.times],
                "end": int(self.timeline.end * denominator),
                "options": self.options.model_dump(),
                "segments": [asdict(segment) for segment in self.segments],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        stored = json.loads(text)
        unit = Fraction(stored["unit"])
        return cls(
            info=VideoInfo.from_dict(stored["info"]),
            timeline=Timeline([time * unit for time in stored["times"]], stored["end"] * unit),
            options=Options.model_validate(stored["options"]),
            segments=tuple(Segment(**segment) for segment in stored["segments"]),
        )
