"""A job's plan: what its tasks agree on. It is made once, stored as JSON, and enough to make any segment by itself.

A plan may be read by another release than the one that made it, while workers are updated. So a reader ignores fields
that it does not know; a missing field has a default, which means what releases without that field did; ``VERSION``
rises only where an older reader would make something else of the plan, and a reader refuses a newer version. Nobody
writes a plan again, so what a reader ignores is not lost.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path

from dain_core.runtime.pixels import PixelFormat
from service.jobs.notes import Note, refusal
from service.jobs.options import Options
from worker.channel import checked, nothing
from worker.media import encode, sandbox, tracks
from worker.media.choose import choose
from worker.media.delivery import Delivery
from worker.media.errors import MediaError, exceeded
from worker.media.facts import Choice, VideoInfo, check_version
from worker.media.moments import Moments, packed, unpacked
from worker.media.restarts import Restarts
from worker.media.times import Timeline
from worker.pictures import Pictures
from worker.schedule import Factor, Retime, Schedule, Segment, TargetRate, longest_gap, segments

_SEGMENT = [each.name for each in fields(Segment)]
VERSION = 6  # the newest that is read here: packs the times of very many frames
FIFTH = 5  # has fields, or frames that repeat
FOURTH = 4  # takes a part of the video, or loops
THIRD = 3  # holds frames across long gaps
SECOND = 2  # has restarts, or frames that are known by their numbers
FIRST = 1  # plans without a version are of the first, too
MOST_TOLD = 20  # notes of one kind
MOST_CUTS_TOLD = 200
CUT = "A scene ends and the next begins: nothing is made of both."
ON_BACKGROUND = Note.of(
    "alpha-dropped",
    "The video is transparent in places, and the result cannot be: it is shown on the colour of the option background. "
    "A result of codec=prores (MOV), ffv1 (MKV) or vp9 (WebM) is transparent, too.",
)
MOST_PLAIN = 500_000  # source frames whose times are stored as plain numbers
MOST_KEPT = 1_000_000  # source frames in the plans that a worker keeps: a tenth of a gigabyte


@dataclass(frozen=True)
class JobPlan:
    """How one video becomes another."""

    info: VideoInfo
    pictures: Pictures
    options: Options
    delivery: Delivery
    segments: tuple[Segment, ...]
    #: Where the source's timestamps start again. What else is in the plan is of a copy of it where they go on.
    restarts: Restarts | None = None
    #: Seconds between two source frames, above which the first is held; None in plans of releases that held none.
    longest_gap: Fraction | None = None

    @classmethod
    def make(
        cls,
        source: Path,
        info: VideoInfo,
        options: Options,
        *,
        segment_frames: int,
        max_frames: int | None = None,
        scratch: Path | None = None,
        check: Callable[[], None] = nothing,
        progressed: Callable[[], None] = nothing,
    ) -> JobPlan:
        """Read the times of `source` and lay out the result, in segments of about `segment_frames` output frames.

        `info` are the facts that `worker.media.sandbox.probe` found about `source`. `check` is called several times a
        second, and may raise to stop. `progressed` is called while times are read. A copy of the video may be needed
        for a while: `scratch` is a folder for it.

        Raises:
            MediaError: the video cannot be read, the codec is not to be had here, or the result would have more than
                `max_frames` frames, or lack something in a strict job.
            MachineError: the machine was too slow for the file's size.
        """
        restarts = Restarts.find(source, info, check, progressed)
        with ExitStack() as stack:
            path, choice = source, Choice(info.stream, options.source_fps)
            if restarts:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
                path = stack.enter_context(restarts.copied(source, folder, check, progressed))
                choice = Choice(stream=restarts.place(info.stream))
                found = sandbox.probe(path, check=check, progressed=progressed, choice=choice)
                info = replace(found, notes=tuple(dict.fromkeys((*info.notes, *found.notes))))
            cut_out = partial(_excerpt, info=info, options=options)
            pictures = Pictures.find(path, info, options, choice, cut_out, check, progressed)
        info = replace(info, average_rate=pictures.rate(info))
        longest = longest_gap(pictures.times)
        whole = _schedule(pictures, info, options, longest)
        if max_frames is not None and len(whole) > max_frames:
            raise exceeded(f"{len(whole)} frames in the result", f"{max_frames} frames")
        source_frames = max(1, round(segment_frames * len(pictures.times) / len(whole)))
        delivery = tracks.that_can_be_made(
            source,
            info,
            choose(info, options, whole.average_rate),
            check=check,
            progressed=progressed,
        )
        encode.check(delivery)
        cut = tuple(segments(whole, source_frames, check))
        plan = cls(info, pictures, options, delivery, cut, restarts, longest)
        check_losses(options, plan.notes)
        return plan

    @cached_property
    def schedule(self) -> Schedule:
        """Every output frame, in order."""
        return _schedule(self.pictures, self.info, self.options, self.longest_gap)

    @property
    def timeline(self) -> Timeline:
        """The frames that are decoded."""
        return self.pictures.timeline

    @cached_property
    def begin(self) -> Fraction:
        """The moment on the source's clock with which the result begins.

        It is a whole number of milliseconds, which is exact on every clock in use, FFmpeg's own microseconds among
        them. Slow motion begins with its first frame.
        """
        if self.options.speed is None:
            return Fraction(math.floor((self.info.start + self.options.beginning) * 1000), 1000)
        return self.timeline.times[0]

    @property
    def length(self) -> Fraction | None:
        """Seconds of sound and text that the result has; None where these are as long as they are."""
        return self.timeline.end - self.begin if self.options.is_excerpt else None

    def shown(self, time: Fraction) -> Fraction:
        """When the result, which begins at 0, shows what is at `time` on the source's clock."""
        first = self.timeline.times[0]
        return first + (time - first) * self.options.stretch - self.begin

    @property
    def frames(self) -> int:
        """Number of output frames."""
        return len(self.schedule)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first output frame to the end of the last."""
        return (self.timeline.end - self.timeline.times[0]) * self.options.stretch

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second of the result; the mean where the source's rate varies."""
        return self.options.rate or self.info.average_rate * (self.options.factor or 1)

    @property
    def notes(self) -> list[Note]:
        """What of the source does not come through as it was."""
        restarts = [self.restarts.note] if self.restarts else []
        shown = PixelFormat.named(self.delivery.pixel_format)
        alpha = [ON_BACKGROUND] if self.info.transparent and not shown.alpha else []
        return [
            *self.info.notes,
            *self._timeline_notes,
            *restarts,
            *self.pictures.notes,
            *_held(self.schedule.long_gaps, self.info.start),
            *alpha,
            *self.delivery.notes,
        ]

    @property
    def _timeline_notes(self) -> tuple[Note, ...]:
        lost = self.timeline.lost
        if not lost:
            return self.timeline.notes
        frames = "1 frame" if len(lost) == 1 else f"{len(lost)} frames"
        what = f"{frames} of the video cannot be decoded. New ones are made between the frames around them."
        return (*self.timeline.notes, Note.of("frames-lost", what, time=lost[0] - self.info.start))

    def cut_notes(self, cuts: Sequence[Fraction]) -> list[Note]:
        """Notes on scene cuts, whose second frames are shown at `cuts` on the source's clock."""
        told = [Note.of("scene-cut", CUT, time=time - self.info.start) for time in cuts[:MOST_CUTS_TOLD]]
        more = len(cuts) - len(told)
        return [*told, Note.of("scene-cut", f"There are {more} more scene cuts.")] if more else told

    def to_json(self, check: Callable[[], None] = nothing) -> str:
        """The plan as it is stored. `check` may raise to stop."""
        times, end = Moments(self.timeline.times), self.timeline.end
        parts = math.lcm(times.parts, end.denominator)
        ticks, checksums = times.in_parts(parts), array("q", self.timeline.checksums)
        return json.dumps(
            {
                "version": self._version,
                "info": self.info.as_dict(),
                "unit": str(Fraction(1, parts)),
                "end": int(end * parts),
                **(
                    {"times": packed(ticks), "checksums": packed(checksums)}
                    if self._is_packed
                    else {"times": list(ticks), "checksums": list(checksums)}
                ),
                "numbered": self.timeline.numbered,
                "frame_bytes": self.timeline.frame_bytes,
                "skipped": self.timeline.skipped,
                "lead": list(map(str, self.timeline.lead)),
                "timeline_notes": [note.as_dict() for note in self._timeline_notes],
                "fields": self.timeline.fields,
                "repeats": self.pictures.repeats.hex(),
                "moments": list(map(str, checked(self.pictures.moments, check))),
                "picture_notes": [note.as_dict() for note in self.pictures.notes],
                "options": self.options.model_dump(),
                "delivery": self.delivery.as_dict(),
                "restarts": self.restarts and self.restarts.as_json(),
                "longest_gap": self.longest_gap and str(self.longest_gap),
                "segments": [asdict(segment) for segment in checked(self.segments, check)],
            }
        )

    @classmethod
    def from_json(cls, text: str, check: Callable[[], None] = nothing) -> JobPlan:
        """The plan that `to_json` gave, in this release or another. `check` may raise to stop.

        Raises:
            MachineError: the plan is of a newer version.
        """
        stored = json.loads(text)
        check_version("the plan", stored.get("version", FIRST), VERSION)
        unit = Fraction(stored["unit"])
        info, options = VideoInfo.from_dict(stored["info"]), Options.model_validate(stored["options"])
        timeline = Timeline(
            times=Moments.of(_numbers(stored["times"]), unit),
            end=stored["end"] * unit,
            checksums=array("I", _numbers(stored.get("checksums", []))) or (),
            numbered=stored.get("numbered", False),
            notes=Note.read_all(stored.get("timeline_notes", ())),
            frame_bytes=stored.get("frame_bytes", 0),
            skipped=stored.get("skipped", 0),
            lead=tuple(map(Fraction, stored.get("lead", ()))),
            fields=stored.get("fields", ""),
        )
        pictures = Pictures(
            timeline,
            repeats=bytes.fromhex(stored.get("repeats", "")),
            moments=Moments(map(Fraction, checked(stored.get("moments", ()), check))) or (),
            notes=Note.read_all(stored.get("picture_notes", ())),
        )
        if "delivery" in stored:
            delivery = Delivery.from_dict(stored["delivery"])
        else:  # releases without it delivered what is chosen by default
            delivery = choose(info, options, _schedule(pictures, info, options, None).average_rate)
        return cls(
            info=info,
            pictures=pictures,
            options=options,
            delivery=delivery,
            segments=tuple(
                Segment(**{name: each[name] for name in _SEGMENT})
                for each in checked(stored["segments"], check)
            ),
            restarts=Restarts.from_json(stored.get("restarts")),
            longest_gap=Fraction(stored["longest_gap"]) if stored.get("longest_gap") else None,
        )

    @property
    def _is_packed(self) -> bool:
        return len(self.timeline.times) > MOST_PLAIN

    @property
    def _version(self) -> int:
        """The oldest version whose readers make the same of the plan."""
        if self._is_packed:
            return VERSION
        if self.timeline.fields or self.pictures.repeats or self.pictures.moments:
            return FIFTH
        if self.options.is_excerpt or self.options.loop or not self.delivery.is_plain:
            return FOURTH
        if self.schedule.long_gaps:
            return THIRD
        return SECOND if self.restarts or self.timeline.numbered else FIRST


class RecentPlans:
    """The plans that a worker used last: it reads a plan once, not once a segment. Any thread may ask."""

    def __init__(self) -> None:
        self._plans: OrderedDict[str, JobPlan] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, read: Callable[[], JobPlan]) -> JobPlan:
        """The plan that is stored under `key`, of which `read` is called where it is not at hand."""
        with self._lock:
            plan = self._plans.pop(key, None)
        plan = plan or read()
        with self._lock:
            self._plans[key] = plan
            while len(self._plans) > 1 and self._source_frames() > MOST_KEPT:
                self._plans.popitem(last=False)
        return plan

    def _source_frames(self) -> int:
        return sum(len(plan.timeline.times) for plan in self._plans.values())


def _held(gaps: Sequence[tuple[Fraction, Fraction]], start: Fraction) -> Iterator[Note]:
    """Notes on the long gaps between frames; `start` is when the video begins."""
    for time, length in gaps[:MOST_TOLD]:
        what = f"The video has no frame for {float(length):.4g} s. The frame before is held; none are made."
        yield Note.of("times-gap", what, time=time - start)
    if len(gaps) > MOST_TOLD:
        yield Note.of("times-gap", f"The same is so in {len(gaps) - MOST_TOLD} more places.")


def _numbers(stored: str | list[int]) -> array[int]:
    """The numbers that `to_json` stored, packed or plain."""
    return unpacked(stored) if isinstance(stored, str) else array("q", stored)


def check_losses(options: Options, notes: Iterable[Note]) -> None:
    """Raise MediaError where a strict job would lose something."""
    if options.strict and (why := refusal(notes)):
        raise MediaError("loss-refused", why)


def _excerpt(timeline: Timeline, info: VideoInfo, options: Options) -> Timeline:
    """The frames that are wanted; MediaError where there are none."""
    if not options.is_excerpt:
        return timeline
    start = info.start + options.beginning
    try:
        return timeline.excerpt(start, None if options.seconds is None else start + options.seconds)
    except ValueError:
        begin, lasts = float(options.beginning), float(timeline.end - info.start)
        until = "on" if options.seconds is None else f"to {begin + float(options.seconds):g} s"
        what = f"no frame of the video begins within what start and duration ask (from {begin:g} s {until})"
        raise MediaError(
            "invalid-option", f"There is nothing to make: {what}. It lasts {lasts:g} s."
        ) from None


def _schedule(pictures: Pictures, info: VideoInfo, options: Options, longest: Fraction | None) -> Schedule:
    repeats = b"" if pictures.moments else pictures.repeats
    retime, end = _retime(info, options), pictures.timeline.end
    return Schedule(pictures.times, end, retime, longest, options.loop, repeats)


def _retime(info: VideoInfo, options: Options) -> Retime:
    """The rate on the source's clock: slow motion has as many times the frames as it lasts longer."""
    if options.factor:
        return Factor(options.factor)
    if options.rate is None and options.stretch.denominator == 1:
        return Factor(options.stretch.numerator)  # keeps all source frames, however they are spaced
    return TargetRate((options.rate or info.average_rate) * options.stretch)
