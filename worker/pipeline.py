"""One segment of a video: decoding, interpolation and encoding at the same time.

    decoder ▶ [decode thread] ▶ decoded ▶ [caller's thread] ▶ made ▶ [encode thread] ▶ encoder
                 to the device             gives it work       from the device

The caller's thread does nothing but give the device work, a few frames ahead. The queues `decoded` and `made` are
short, so memory stays bounded whatever is slowest.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dain_core.runtime.color import ColorSpec
from dain_core.runtime.pixels import PixelFormat
from service.jobs.notes import Note
from worker import grain, mask
from worker.alpha import OnBackground
from worker.channel import CHECK_SECONDS, Channel, Closed, checked, nothing
from worker.cuts import Thumbnail, Transition, transition
from worker.media import captions, fields, messages, sandbox
from worker.media.containers import COPY
from worker.media.decode import Decoder, Frame, Plane
from worker.media.encode import Encoder
from worker.media.facts import Choice
from worker.media.join import NOTHING, Said, join
from worker.media.moments import Moments
from worker.media.stills import ZIP, unpacked
from worker.pictures import Kept, Source
from worker.plan import ON_BACKGROUND, JobPlan, check_losses
from worker.schedule import Between, Copy, OutputFrame
from worker.transfer import Finish, Pending, Stopwatch, Transfer, Uploaded

AHEAD = 4  # frames in each queue
SLOWEST_DECODER = 5e6  # pixels a second
ALWAYS = nullcontext()  # the turn of one who has the interpolator alone

Show = Callable[[Sequence[Plane], Sequence[Plane]], None]


def unseen(before: Sequence[Plane], made: Sequence[Plane]) -> None:
    """Nobody looks at new frames while they are made."""


class Interpolator(Protocol):
    """The part of ``dain_core.runtime.engine.Interpolator`` that is used here."""

    recomputed: int

    @property
    def replanned(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def frame(self, rgb: Tensor, mask: Tensor | None = None) -> Any: ...
    def pair(self, first: Any, second: Any) -> Any: ...
    def moved(self, pair: Any, first: Tensor, second: Tensor, time: float) -> Tensor: ...
    def submit(self, pair: Any, time: float) -> Pending: ...


class Sink(Protocol):
    """Where frames go. ``close`` waits for the last of them, ``kill`` ends a wait. An ``Encoder``."""

    def write(self, planes: Sequence[Plane]) -> None: ...
    def close(self) -> None: ...
    def kill(self) -> None: ...


@dataclass
class SegmentStats:
    """The frames of a segment, and what they took. Stages overlap: their seconds add up to more than the segment's."""

    frames: int = 0
    new_frames: int = 0
    scene_cuts: int = 0
    recomputed_frames: int = 0  # in float32, because half precision was not enough
    replans: int = 0  # how often a GPU's memory ran out, and frames were made in smaller parts from then on
    seconds_decode: float = 0.0
    seconds_inference: float = 0.0
    seconds_encode: float = 0.0
    vram_peak_bytes: int = 0
    cuts: list[Fraction] = field(
        default_factory=list
    )  # when the first frames after cuts are shown in the source
    is_new: list[bool] = field(default_factory=list)  # of each frame, whether the network made it
    notes: list[Note] = field(default_factory=list)  # on what of the source did not come through

    def sums(self) -> dict[str, float]:
        """The numbers that a job has totals of, by name. The job keeps the largest ``vram_peak_bytes``."""
        return {
            name: number for name, number in vars(self).items() if name not in ("cuts", "is_new", "notes")
        }


def render_segment(
    plan: JobPlan,
    index: int,
    source_path: Path,
    out_path: Path,
    interpolator: Interpolator,
    *,
    mask_path: Path | None = None,
    on_frame: Callable[[int], None] = lambda frames: None,
    show: Show = unseen,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
    turn: AbstractContextManager[object] = ALWAYS,
) -> SegmentStats:
    """Make the output frames of segment ``index`` of the plan and encode them into ``out_path``.

    ``mask_path`` is a picture of what stands still (see ``worker.mask``).
    ``on_frame`` is told how many more frames are made. ``show`` is given the planes of each new frame, after those of
    the source frame before it. ``check`` is called several times a second, and may raise to stop. ``progressed`` is
    called for each frame that is read, made or encoded, by any thread. Within ``turn`` the interpolator is used.

    Raises:
        MediaError: the source cannot be decoded, or the result not be encoded, or be whole in a strict job.
    """
    info, schedule, segment, options = plan.info, plan.schedule, plan.segments[index], plan.options
    # One frame more at either end tells fades and flashes from motion, as they are told within the segment.
    first, last = max(segment.first_source - 1, 0), segment.last_source
    last += last < len(plan.pictures.times) - 1
    numbers = plan.pictures.numbers
    with ExitStack() as stack:
        span = range(numbers[first], numbers[last] + 1)
        source_path = stack.enter_context(
            _readable(plan, source_path, out_path.parent, span, check, progressed)
        )
        # Neighbouring segments share frames, of which one of them tells.
        after = plan.segments[index + 1 : index + 2]
        stop = numbers[after[0].first_source] if after else len(plan.timeline.times)
        told = range(numbers[segment.first_source], stop)
        decoder = Decoder(
            source_path, info, span[0], span[-1], plan.timeline, told=told, progressed=progressed
        )
        stack.enter_context(decoder)
        colors = ColorSpec(info.color_matrix, info.full_range)
        pixels = PixelFormat.named(plan.delivery.pixel_format)
        frames: Source = decoder
        if info.alpha and not pixels.alpha:
            frames = OnBackground(decoder, PixelFormat.named(info.decoded_format), colors, options.background)
        encoder = stack.enter_context(Encoder(out_path, plan.delivery))
        stats = interpolate(
            Kept(frames, numbers),
            schedule[segment.first_output : segment.stop_output],
            interpolator,
            encoder,
            pixels,
            colors,
            scene_threshold=options.scene_threshold,
            keeps_grain=options.grain == "keep",
            still=None if mask_path is None else mask.read(mask_path, info),
            on_frame=on_frame,
            show=show,
            check=check,
            progressed=progressed,
            turn=turn,
        )
        stats.notes += decoder.notes
        if isinstance(frames, OnBackground) and frames.was_seen:  # the first frame alone was looked at before
            stats.notes.append(ON_BACKGROUND)
    check_losses(options, stats.notes)
    return stats


def assemble(
    plan: JobPlan,
    segment_paths: Sequence[Path],
    source_path: Path,
    out_path: Path,
    *,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
) -> None:
    """Join all segments of the plan, and what else of the source is delivered, into the result at ``out_path``."""
    moments = itertools.chain((frame.time for frame in checked(plan.schedule, check)), [plan.schedule.end])
    shown = Moments(map(plan.shown, moments))
    delivery = plan.delivery
    reads = delivery.captions or delivery.caption_track or delivery.described
    with ExitStack() as stack:
        source = None  # pictures have nothing that could come along
        if plan.info.container != ZIP:
            source = stack.enter_context(
                _readable(plan, source_path, out_path.parent, range(0), check, progressed)
            )
        join(
            segment_paths,
            shown,
            source,
            plan.begin,
            delivery,
            out_path,
            length=plan.length,
            said=_said(plan, source, shown, check, progressed) if source and reads else NOTHING,
            check=check,
            progressed=progressed,
        )


def _said(
    plan: JobPlan,
    source: Path,
    shown: Sequence[Fraction],
    check: Callable[[], None],
    progressed: Callable[[], None],
) -> Said:
    """What the pictures of the source say by messages, for the result."""
    found = sandbox.look(
        "messages",
        source,
        *Choice(plan.info.stream, plan.options.source_fps).arguments,
        read=lambda answer: answer["messages"],
        check=check,
        progressed=progressed,
        seconds=plan.info.frames * plan.info.width * plan.info.height / SLOWEST_DECODER,
    )
    unit, timeline = Fraction(found["time_base"]), plan.timeline

    def moment(time: int) -> Fraction:
        if timeline.numbered or not found["in_order"]:
            return time * unit
        index = time * fields.rate(timeline.fields) - timeline.skipped
        if 0 <= index < len(timeline.times):
            return timeline.times[index]
        return timeline.times[0] - 1 if index < 0 else timeline.end

    def dated(name: str) -> Iterator[tuple[Fraction, bytes]]:
        return ((plan.shown(moment(time)), data) for time, data in messages.unpacked(found[name]))

    carried = messages.of_frames(dated("described"), shown, plan.delivery.described)
    if plan.delivery.captions:
        for frame, triplets in captions.of_frames(dated("captions"), shown).items():
            carried[frame] = [*carried.get(frame, ()), captions.message(triplets)]
    if not (track := plan.delivery.caption_track):
        return Said(carried)
    heard, begin = list(dated("captions")), Fraction(0)
    if track != COPY:  # what is shown when a part begins was said before
        begin = min([begin, *(time for time, _ in heard)])
    return Said(carried, captions.scenarist(heard, begin, shown[-1]), begin)


def _readable(
    plan: JobPlan,
    source: Path,
    folder: Path,
    frames: range,
    check: Callable[[], None],
    progressed: Callable[[], None],
) -> AbstractContextManager[Path]:
    """The source in the form that the plan is of; `folder` has room for a copy. `frames` are needed of it."""
    if plan.restarts:
        return plan.restarts.copied(source, folder, check, progressed)
    if plan.info.container == ZIP:
        count = len(plan.timeline.times)
        numbers = {
            plan.timeline.skipped + frame % count for frame in frames
        }  # in a loop the first follows the last
        return unpacked(source, folder, numbers, check)
    return nullcontext(source)


def interpolate(
    source: Source,
    frames: Iterable[OutputFrame],
    interpolator: Interpolator,
    sink: Sink,
    pixels: PixelFormat,
    colors: ColorSpec,
    *,
    scene_threshold: float,
    keeps_grain: bool = False,
    still: Plane | None = None,
    on_frame: Callable[[int], None] = lambda frames: None,
    show: Show = unseen,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
    turn: AbstractContextManager[object] = ALWAYS,
) -> SegmentStats:
    """Write ``frames`` in order to ``sink``, made of the frames of ``source``; copies are the very same planes.

    Between frames that differ by more than ``scene_threshold`` nothing is blended: the nearer one is shown. At flashes
    and fades the network has nothing to do either (see ``worker.cuts``): frames are held or mixed. Where the job
    ``keeps_grain``, new frames get what they lack of it (see ``worker.grain``). What is ``still``, from 0 to 1, stands
    so in new frames. In the end ``sink`` is closed. Whatever ends this, its threads have ended too; an
    exception also kills ``source`` and ``sink``. For ``on_frame``, ``show``, ``check``, ``progressed`` and
    ``turn`` see `render_segment`.
    """
    stats, transfer = SegmentStats(), Transfer(interpolator.device, pixels, colors)
    decoded, made = Channel[Arrival](AHEAD), Channel[Frame | Made](AHEAD)
    reader = threading.Thread(
        target=_decode, args=(source, transfer, decoded, stats, progressed), name="decode"
    )
    writer = threading.Thread(
        target=_encode, args=(made, transfer, interpolator, sink, stats, show, progressed), name="encode"
    )
    reader.start()
    writer.start()
    try:
        with turn, transfer.on_device():
            replanned = interpolator.replanned
            maker = _Maker(interpolator, transfer, scene_threshold, stats, keeps_grain, still)
            window = _Window(decoded.read(check))
            for frame in frames:
                check()
                item = maker.make(frame.action, window)
                made.put(item, check)
                stats.frames += 1
                stats.is_new.append(isinstance(item, Made))
                on_frame(1)
            maker.finish()
            stats.replans = interpolator.replanned - replanned
        made.close()
        while writer.is_alive():
            writer.join(CHECK_SECONDS)
            check()
        if made.error:
            raise made.error
    except BaseException:
        source.kill()
        sink.kill()
        raise
    finally:
        decoded.close()
        made.close()
        reader.join()
        writer.join()
    return stats


@dataclass(frozen=True)
class Arrival:
    """A source frame, with what is prepared while the device is busy with the frames before it."""

    frame: Frame
    thumbnail: Thumbnail
    uploaded: Uploaded


@dataclass(frozen=True)
class Made:
    """A new frame that the device is still making."""

    before: Frame  # the source frame
    pending: Pending
    stopwatch: Stopwatch
    sources: Sequence[Uploaded]  # that the device may not have looked at yet
    finish: Finish | None = None
    alpha: Tensor | None = None


@dataclass(frozen=True)
class Known:
    """What is known of a source frame, as long as it is of use."""

    frame: Any  # to the interpolator
    grain: Tensor | None  # where new frames are to have it
    alpha: Tensor | None  # where the frame has it


def _decode(
    source: Source,
    transfer: Transfer,
    decoded: Channel[Arrival],
    stats: SegmentStats,
    progressed: Callable[[], None],
) -> None:
    try:
        began = time.monotonic()
        for frame in source:
            progressed()
            stats.seconds_decode += time.monotonic() - began
            thumbnail = Thumbnail.of(frame.planes[0])
            decoded.put(Arrival(frame, thumbnail, transfer.upload(frame.planes)))
            began = time.monotonic()
        decoded.close()
    except Closed:
        pass  # nobody wants more
    except BaseException as error:  # raised again by whoever reads
        decoded.close(error)


def _encode(
    made: Channel[Frame | Made],
    transfer: Transfer,
    interpolator: Interpolator,
    sink: Sink,
    stats: SegmentStats,
    show: Show,
    progressed: Callable[[], None],
) -> None:
    try:
        for item in made.read():
            if isinstance(item, Made):
                stats.seconds_inference += item.stopwatch.seconds()
                recomputed = interpolator.recomputed
                planes = transfer.download(item.pending, item.finish, item.alpha)
                stats.recomputed_frames += interpolator.recomputed - recomputed
                show(item.before.planes, planes)
                progressed()
            else:
                planes = item.planes
            began = time.monotonic()
            sink.write(planes)
            progressed()
            stats.seconds_encode += time.monotonic() - began
        began = time.monotonic()
        sink.close()  # here, where a stop can reach it: the last frames of large pictures take their time
        stats.seconds_encode += time.monotonic() - began
    except BaseException as error:  # raised again by whoever puts
        made.close(error)


class _Window:
    """The few source frames in use, and the one before them."""

    def __init__(self, frames: Iterator[Arrival]) -> None:
        self._frames = frames
        self._held: deque[Arrival] = deque()

    def from_index(self, index: int) -> Arrival:
        """Return frame ``index``, and forget the frames before the one before it."""
        while self._held and self._held[0].frame.index < index - 1:
            self._held.popleft()
        return self.at(index)

    def thumbnail(self, index: int) -> Thumbnail | None:
        """That of frame ``index``; None where the source does not have that."""
        if index < 0 or (self._held and index < self._held[0].frame.index):
            return None
        try:
            return self.at(index).thumbnail
        except EOFError:
            return None

    def at(self, index: int) -> Arrival:
        """Return frame ``index``, reading on where it has not arrived. EOFError where the source ends before it."""
        while not self._held or self._held[-1].frame.index < index:
            arrival = next(self._frames, None)
            if arrival is None:
                raise EOFError(f"the source ended before its frame {index}")
            self._held.append(arrival)
        return next(arrival for arrival in self._held if arrival.frame.index == index)

    def over(self, first: int, second: int) -> Arrival:
        """Return frame ``second``, and forget what lies between frame ``first`` and the one before it: repeats."""
        while (last := self._held[-1].frame.index) < second:
            self.at(last + 1)
            needed = (each for each in self._held if not first < each.frame.index < last)
            self._held = deque(needed)
        return self.at(second)


class _Maker:
    """Turns actions into frames. What the interpolator knows of frames and pairs is kept while it is of use."""

    def __init__(
        self,
        interpolator: Interpolator,
        transfer: Transfer,
        threshold: float,
        stats: SegmentStats,
        keeps_grain: bool,
        still: Plane | None,
    ) -> None:
        self._interpolator = interpolator
        self._transfer = transfer
        self._threshold = threshold
        self._stats = stats
        self._keeps_grain = keeps_grain
        self._still = None
        if still is not None:
            self._still = torch.from_numpy(still.copy())[None, None].to(interpolator.device)
        self._known: dict[int, Known] = {}  # by index
        self._pair_index = -1
        self._pair: Any = None  # None where the network has nothing to do
        self._transition = Transition.MOTION
        if interpolator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(interpolator.device)

    def make(self, action: Copy | Between, window: _Window) -> Frame | Made:
        if isinstance(action, Copy):
            return window.from_index(action.source).frame
        first, second = window.from_index(action.first), window.over(action.first, action.second)
        stopwatch = Stopwatch(self._interpolator.device)
        if self._pair_index != first.frame.index:
            self._enter(first, second, window)
        if self._transition is not Transition.MOTION:
            return _shown(self._transition, first.frame, second.frame, action.t)
        self._stats.new_frames += 1
        # Before the frame, with which they are waited for.
        finish, alpha = self._finish(action), self._alpha(action)
        pending = self._interpolator.submit(self._pair, float(action.t))
        stopwatch.stop()
        return Made(first.frame, pending, stopwatch, (first.uploaded, second.uploaded), finish, alpha)

    def _finish(self, action: Between) -> Finish | None:
        """What gives the new frame the grain of those around it."""
        one, two = (self._known[index].grain for index in (action.first, action.second))
        if one is None or two is None:
            return None
        wanted, depth = one.lerp(two, float(action.t)), self._transfer.depth
        return lambda planes: grain.add(planes, wanted, depth, action.first, action.t)

    def _alpha(self, action: Between) -> Tensor | None:
        """How opaque the new frame is."""
        one, two = (self._known[index].alpha for index in (action.first, action.second))
        if one is None or two is None:
            return None
        return self._interpolator.moved(self._pair, one, two, float(action.t))

    def finish(self) -> None:
        """Note the numbers that are known only at the end."""
        if self._interpolator.device.type == "cuda":
            self._stats.vram_peak_bytes = torch.cuda.max_memory_allocated(self._interpolator.device)

    def _enter(self, first: Arrival, second: Arrival, window: _Window) -> None:
        """Prepare the pair of ``first`` and ``second``. What is known of a frame from the pair before is used again."""
        self._pair_index = first.frame.index
        self._pair = None
        before, after = window.thumbnail(first.frame.index - 1), window.thumbnail(second.frame.index + 1)
        self._transition = transition(before, first.thumbnail, second.thumbnail, after, self._threshold)
        if self._transition is Transition.CUT:
            self._stats.scene_cuts += 1
            self._stats.cuts.append(second.frame.time)
        if self._transition is not Transition.MOTION:
            self._known.clear()
            return
        # A frame that is no longer of use is let go of before the next takes its memory.
        indices = {arrival.frame.index for arrival in (first, second)}
        self._known = {index: known for index, known in self._known.items() if index in indices}
        for arrival in (first, second):
            if arrival.frame.index not in self._known:
                self._known[arrival.frame.index] = self._look(arrival.uploaded)
        self._pair = self._interpolator.pair(*(self._known[index].frame for index in sorted(indices)))

    def _look(self, uploaded: Uploaded) -> Known:
        frame = self._interpolator.frame(self._transfer.rgb(uploaded), self._still)
        measured = grain.measure(uploaded.planes[:3], self._transfer.depth) if self._keeps_grain else None
        return Known(frame, measured, self._transfer.alpha(uploaded))


def _shown(change: Transition, first: Frame, second: Frame, t: Fraction) -> Frame:
    """What is shown at ``t`` between frames of which the network could make nothing."""
    if change is Transition.FADE:
        planes = (_mixed(*pair, t) for pair in zip(first.planes, second.planes, strict=True))
        return Frame(first.index, first.time + (second.time - first.time) * t, tuple(planes))
    if change is Transition.CUT:
        return first if t <= Fraction(1, 2) else second
    return first if change is Transition.FLASH else second


def _mixed(first: Plane, second: Plane, t: Fraction) -> Plane:
    mixed: Plane = first + (second.astype(np.float32) - first) * np.float32(t)
    return mixed.round().astype(first.dtype)
