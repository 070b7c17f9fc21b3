"""What `dain interpolate` does with a video: the way from the file to the finished file, with what is said of it."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dain_core.outputs import writing
from dain_core.runtime.engine import Interpolator
from dain_core.runtime.memory import FrameTooLargeError
from dain_core.runtime.profile import read_profile
from dain_core.weights.files import WeightsError
from service.jobs.notes import Note, sentences
from service.jobs.options import Options
from worker import pipeline
from worker.comparison import Clip, Comparison
from worker.media import sandbox
from worker.media.errors import MediaError, disk_full
from worker.media.facts import Choice
from worker.plan import JobPlan
from worker.publishing import publish

SEGMENT_FRAMES = 2000  # output frames; what is encoded of a segment is lost if the command is stopped


#: Of a preview: how much of the video it shows, and how many times as slow.
PREVIEW_SECONDS = Fraction(2)
PREVIEW_SLOW = 4

Load = Callable[[str], Interpolator]


def make_all(asked: Sequence[Interpolation], device: str, precision: str, profile: Path | None = None) -> int:
    """Make the videos that are asked for; return how many could not be made, each of which is said.

    Raises:
        click.ClickException: the only one could not be made.
    """

    @functools.cache
    def load(model: str) -> Interpolator:
        say(f"Loading the network for {device if device != 'auto' else 'the best device here'}.")
        chosen = read_profile(profile) if profile else None
        return Interpolator.load(model, device=device, precision=precision, profile=chosen)

    failed = 0
    for each in asked:
        try:
            each.run(load)
        except click.ClickException as error:
            if len(asked) == 1:
                raise
            failed += 1
            say(f"Error: {each.source.name}: {error.format_message()}")
    return failed


@dataclass(frozen=True)
class Interpolation:
    """A video, what is to be made of it, and where that goes; a preview shows a part of it, before and after."""

    source: Path
    result: Path
    options: Options
    mask: Path | None
    overwrite: bool
    is_preview: bool = False

    def run(self, load: Load) -> None:
        """Makes the result, by the model that `load` gives. ClickException where that is not possible."""
        try:
            self._run(load)
        except MediaError as error:
            raise click.ClickException(
                f"The disk of {self.result.absolute().parent} ran full while {self.source.name} was worked on. Make "
                "room there, or name an OUT on another disk."
                if error.slug == disk_full().slug
                else error.detail
            ) from error
        except FrameTooLargeError as error:
            raise click.ClickException(f"There is too little memory: {error}.") from error
        except (WeightsError, ValueError) as error:
            raise click.ClickException(str(error)) from error

    def _run(self, load: Load) -> None:
        options = self.options
        info = sandbox.probe(self.source, choice=Choice(options.video_stream, options.source_fps))
        if self.is_preview:
            options = _excerpt(options, info.duration)
        plan = JobPlan.make(self.source, info, options, segment_frames=SEGMENT_FRAMES)
        interpolator = load(options.model)
        say(f"Making {plan.frames} frames of {len(plan.timeline.times)} on {interpolator.device}.")
        with (
            writing(self.result),
            tempfile.TemporaryDirectory(dir=self.result.absolute().parent, prefix=".dain-") as scratch,
        ):
            whole, notes = self._follow(plan, interpolator, Path(scratch))
            if self.is_preview:
                whole, seen = self._beside(plan, whole)
            made = publish(whole, self.result, self.overwrite)
        for sentence in sentences([*plan.notes, *notes]):
            say(f"Note: {sentence}")
        if self.is_preview:
            say(f"{made}: {seen}.")
            _open(made)
            return
        say(
            f"{made}: {plan.frames} frames, {float(plan.frame_rate):.5g} a second, {float(plan.duration):.2f} s."
        )

    def _beside(self, plan: JobPlan, whole: Path) -> tuple[Path, str]:
        """Show the piece that was taken beside what was made of it. Return the file, and what is seen in it."""
        options = plan.options
        say("Setting before and after side by side.")
        before = Clip.of(self.source, options.beginning, options.stretch)
        slow = max(1, round(PREVIEW_SLOW / options.stretch))
        both = Comparison(before, Clip.of(whole), "side-by-side", slow=slow)
        path = whole.with_name("both")
        both.make(path)
        slower = f"{float(slow * options.stretch):.3g} times as slow as {self.source.name}"
        return path, f"before is on the left, after on the right, {slower}"

    def _follow(
        self, plan: JobPlan, interpolator: pipeline.Interpolator, scratch: Path
    ) -> tuple[Path, list[Note]]:
        """Follow the plan from the first segment to the finished file. Return where that is, and what was changed."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task(self.source.name, total=plan.frames)
            parts = [scratch / str(index) for index in range(len(plan.segments))]
            notes: list[Note] = []
            cuts: list[Fraction] = []
            for index, part in enumerate(parts):
                stats = pipeline.render_segment(
                    plan,
                    index,
                    self.source,
                    part,
                    interpolator,
                    mask_path=self.mask,
                    on_frame=lambda frames: progress.advance(bar, frames),
                )
                notes += stats.notes
                cuts += stats.cuts
            whole = scratch / "whole"
            pipeline.assemble(plan, parts, self.source, whole)
            return whole, [*notes, *plan.cut_notes(cuts)]


def _excerpt(options: Options, duration: Fraction) -> Options:
    """The options of a preview: of what they take, two seconds from its middle, or from where they begin."""
    taken = min(PREVIEW_SECONDS, options.seconds or duration)
    begin = options.beginning if options.is_excerpt else max(Fraction(0), (duration - taken) / 2)
    return options.model_copy(update={"start": str(begin), "duration": str(taken)})


def _open(video: Path) -> None:
    """Have the program for videos show it, where there is somebody who would see it."""
    if sys.stdout.isatty() and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        click.launch(str(video))


def say(sentence: str) -> None:
    click.echo(sentence, err=True)
