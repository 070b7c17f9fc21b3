"""What `dain interpolate` does with one video: the way from the file to the finished file, with what is said of it."""

from __future__ import annotations

import os
import tempfile
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
from worker.media import sandbox
from worker.media.errors import MediaError
from worker.media.facts import Choice
from worker.plan import JobPlan

SEGMENT_FRAMES = 2000  # output frames; what is encoded of a segment is lost if the command is stopped


@dataclass(frozen=True)
class Interpolation:
    """A video, what is to be made of it, and where that goes."""

    source: Path
    result: Path
    options: Options
    mask: Path | None
    overwrite: bool

    def run(self, device: str, precision: str, profile: Path | None = None) -> None:
        """Makes the result. ClickException where that is not possible."""
        try:
            self._run(device, precision, profile)
        except MediaError as error:
            raise click.ClickException(error.detail) from error
        except FrameTooLargeError as error:
            raise click.ClickException(f"There is too little memory: {error}.") from error
        except (WeightsError, ValueError) as error:
            raise click.ClickException(str(error)) from error

    def _run(self, device: str, precision: str, profile: Path | None) -> None:
        options = self.options
        info = sandbox.probe(self.source, choice=Choice(options.video_stream, options.source_fps))
        plan = JobPlan.make(self.source, info, options, segment_frames=SEGMENT_FRAMES)
        _say(f"Loading the network for {device if device != 'auto' else 'the best device here'}.")
        interpolator = Interpolator.load(
            options.model,
            device=device,
            precision=precision,
            profile=read_profile(profile) if profile else None,
        )
        _say(f"Making {plan.frames} frames of {len(plan.timeline.times)} on {interpolator.device}.")
        with writing(self.result):
            made, notes = self._follow(plan, interpolator)
        for sentence in sentences([*plan.notes, *notes]):
            _say(f"Note: {sentence}")
        _say(
            f"{made}: {plan.frames} frames, {float(plan.frame_rate):.5g} a second, "
            f"{float(plan.duration):.2f} s."
        )

    def _follow(self, plan: JobPlan, interpolator: pipeline.Interpolator) -> tuple[Path, list[Note]]:
        """Follow the plan from the first segment to the finished file. Return where that is, and what was changed."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        folder = self.result.absolute().parent
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".dain-") as scratch,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            bar = progress.add_task(self.source.name, total=plan.frames)
            parts = [Path(scratch, str(index)) for index in range(len(plan.segments))]
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
            whole = Path(scratch, "whole")
            pipeline.assemble(plan, parts, self.source, whole)
            return publish(whole, self.result, self.overwrite), [*notes, *plan.cut_notes(cuts)]


def publish(whole: Path, result: Path, overwrite: bool) -> Path:
    """Give the finished file its name, and return it.

    A file that came there meanwhile is not lost, and neither is the work: the result gets another name beside it.
    """
    if not overwrite:
        taken = result
        while os.path.lexists(result):
            result = result.with_stem(f"{result.stem}-new")
        if result != taken:
            _say(f"Another program made {taken} meanwhile: it stays, and the result has another name.")
    whole.replace(result)
    return result


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
