"""`dain submit`: sends videos to a service, follows their jobs, and fetches the results."""

from __future__ import annotations

import json
import sys
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from service.client import Busy, Client, ClientError, Estimate, Forbidden, Job, Refused, Unauthorized
from service.commands import text
from service.commands.connection import connected, exit_code, teller
from service.commands.following import Following, ask, cancel, leave
from service.commands.options import json_option, pairs, server
from service.commands.progress import Report, report
from service.commands.results import check_output, check_writable, fetched
from service.exits import Exit
from service.jobs.clips import clips_of
from service.jobs.formats import container_of, endings
from service.jobs.problems import figure
from service.jobs.stills import archived

Answer = TypeVar("Answer", Job, Estimate)


@dataclass(frozen=True)
class Clip:
    """A video to be sent, or a URL that the service fetches one from; `key` keeps it from becoming two jobs."""

    source: Path | str
    key: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def name(self) -> str:
        """What people call it."""
        return self.source.name if isinstance(self.source, Path) else self.source

    @property
    def path(self) -> Path | None:
        """The file; None of a URL."""
        return self.source if isinstance(self.source, Path) else None

    @property
    def folder(self) -> Path:
        """Where its result goes unless another place is given."""
        return self.source.parent if isinstance(self.source, Path) else Path()


def _clips(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> list[Clip]:
    """What the words mean: the videos that files, folders and patterns stand for, and URLs."""
    urls = [word for word in words if word.startswith(("https://", "http://"))]
    try:
        files = clips_of([word for word in words if word not in urls], partial(click.echo, err=True))
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None
    return [*map(Clip, files), *map(Clip, dict.fromkeys(urls))]


@click.command()
@click.argument("clips", metavar="CLIP...", nargs=-1, required=True, type=click.Path(), callback=_clips)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="File, or folder, for the result; of several clips a folder, which is made.  [beside CLIP, or here]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there; never CLIP itself.")
@click.option("--factor", type=int, help="Frames per source frame, 2 to 16.  [2]")
@click.option("--target-fps", help="Frame rate instead of a factor: 60, 59.94, 60000/1001.")
@click.option("--speed", help="Slow motion: 0.5, 1/3, down to 1/16.")
@click.option("--model", help="dain-refined, dain-lite, dain, or auto: what suits the worker.  [auto]")
@click.option(
    "--container", help="Kind of file: mp4, mkv, mov, webm, gif, ….  [what OUTPUT's name says, or mp4]"
)
@click.option(
    "--codec", help="h264, hevc, av1, vp9, prores, dnxhr, ffv1, …, or auto: the container's own.  [auto]"
)
@click.option("--quality", type=int, help="0 (lossless) to 51, on the scale of H.264's CRF.  [18]")
@click.option("--preset", help="How hard the encoder tries: ultrafast to veryslow.  [auto]")
@click.option(
    "--pixel-format", help="source, compatible (what all browsers play), or yuv420p and the like.  [source]"
)
@click.option("--max-bitrate", help="Most bits a second of the pictures: 8M, 800k.")
@click.option(
    "--audio",
    help="copy (what players know), best (all of it), aac, stretch (in slow motion) or none.  [copy]",
)
@click.option("--scene-threshold", type=float, help="How unlike two frames at a cut are, 0 to 1.")
@click.option("--deinterlace", help="Interlaced video: auto, off, bob or weave.  [auto]")
@click.option("--dedup", help="Frames that repeat the one before: auto, off or retime.  [auto]")
@click.option("--no-audio", is_flag=True, help="Leave the sound out.")
@click.option(
    "--mask",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A PNG that is white where CLIP stands still, such as text and logos.",
)
@click.option("--enhance", help="deband, denoise, sharpen, with commas between: all frames.  [none]")
@click.option("--grain", help="keep: new frames have as much grain as CLIP has.  [off]")
@click.option("--background", help="Colour behind what is transparent: #rrggbb, or a name.  [black]")
@click.option("--start", help="Where in CLIP the result begins: seconds, or 0:01:30.5.")
@click.option("--duration", help="How much of CLIP is taken: seconds, or 0:01:30.5.")
@click.option("--loop", is_flag=True, default=None, help="Make new frames from the last to the first, too.")
@click.option("--video-stream", type=int, help="Number in CLIP of the moving picture to take.  [the largest]")
@click.option("--source-fps", help="Frame rate of a CLIP that holds no times.  [its own, or 25]")
@click.option(
    "--strict", is_flag=True, default=None, help="Be refused where something of CLIP would be lost."
)
@click.option("--priority", help="low, normal or high, among your own jobs.  [normal]")
@click.option("--reference", help="Your own name for the job, by which `dain jobs` finds it.")
@click.option(
    "--metadata",
    metavar="KEY=VALUE",
    multiple=True,
    callback=pairs,
    help="Your own note on the job, by which `dain jobs` finds it; may be given several times.",
)
@click.option("--webhook-url", help="Where the service sends the job's events.")
@click.option("--webhook-events", help="Which of them: job.succeeded,job.failed.  [all]")
@click.option("--detach", is_flag=True, help="Print the jobs' ids and do not wait.")
@click.option("--dry-run", is_flag=True, help="Say what the jobs would take, and start none.")
@json_option("each job that is over, one a line, with the result's `path`,")
@server
def submit(
    clips: list[Clip],
    output: str | None,
    overwrite: bool,
    detach: bool,
    dry_run: bool,
    as_json: bool,
    no_audio: bool,
    metadata: dict[str, str],
    mask: Path | None,
    url: str,
    token: str | None,
    **options: object,
) -> None:
    """Send videos to a service, wait, and fetch the results.

    CLIP is a file, a folder of videos, a pattern such as 'clips/*.mp4', or a URL that the service fetches the video
    from. A folder of pictures is one video: they are sent as a ZIP archive, in the order of the numbers in their names.

    Ctrl-C asks whether to detach from the jobs, which go on then, or to cancel them. Where there is nobody to ask, it
    detaches. `dain fetch` goes on with a job from any machine.
    """
    given = {**options, "metadata": metadata or None}
    if no_audio:
        given["audio"] = "none"
    files = [clip.path for clip in clips if clip.path]
    if detach and (output or overwrite):
        raise click.UsageError(
            "With --detach nothing is fetched, so --output and --overwrite mean nothing: give them to `dain fetch`."
        )
    place = check_output(output, files, overwrite, len(clips))
    if place and not place.is_dir() and not given["container"]:
        meant = container_of(place.suffix)
        if meant is None:
            fault = f"{place.name}: give the result a name that ends in {endings()}, or say --container"
            raise click.BadParameter(fault, param_hint="--output")
        given["container"] = meant if meant != "mp4" else None  # which is the default
    if place is None and not (detach or dry_run):
        for folder in dict.fromkeys(clip.folder for clip in clips):
            check_writable(folder)
    if mask and not all(clip.path for clip in clips):
        raise click.BadParameter("a mask goes with a file, not with a URL", param_hint="--mask")
    said = report()
    with connected(url, token, on_retry=lambda *failure: batch.bear(*failure)) as client:
        batch: Batch = Batch(client, said, clips, given, mask)
        if dry_run:
            batch.estimate(as_json)
        elif detach:
            batch.detach(as_json)
        else:
            batch.run(Saving(place, files, overwrite, as_json))
    sys.exit(batch.exit)


@dataclass(frozen=True)
class Saving:
    """Where results go (None: beside each clip), which files they never replace, and how that is said."""

    output: Path | None
    clips: list[Path]
    overwrite: bool
    as_json: bool


class Batch:
    """The videos of one command on their way through a service."""

    def __init__(
        self,
        client: Client,
        said: Report,
        clips: list[Clip],
        options: Mapping[str, object],
        mask: Path | None,
    ) -> None:
        self.exit = Exit.DONE  #: of the first video of which nothing came
        self._client = client
        self._said = said
        self._tell = teller(said.say)
        self._clips = clips
        self._options = options
        self._mask = mask
        self._sent: dict[str, Clip] = {}  # by the ids of their jobs
        self._unanswered: Clip | None = None  # which may be a job already, though no answer has come
        self._following = Following(client, said)

    def bear(self, error: ClientError, pause: float) -> None:
        """Says why the client makes a pause. While jobs of this command are under way, they are looked at instead."""
        if isinstance(error, Busy) and self._following.live:
            raise error
        self._tell(error, pause)

    def estimate(self, as_json: bool) -> None:
        """Says what a job of each video would take."""
        with self._said:
            for clip in self._clips:
                estimate = self._taken(clip, self._estimate)
                if estimate is not None:
                    line = json.dumps(estimate.document) if as_json else _summary(estimate)
                    self._said.result(line if as_json or len(self._clips) == 1 else f"{clip.name}: {line}")

    def detach(self, as_json: bool) -> None:
        """Sends each video, and prints the ids of the jobs."""
        with self._said:
            for clip in self._clips:
                job = self._taken(clip, self._send)
                if job is not None:
                    self._said.result(json.dumps(job.document) if as_json else job.id)

    def run(self, saving: Saving) -> None:
        """Sends the videos, and fetches the results. Ends the process where an interrupt is to end it."""

        def save(job: Job) -> Exit:
            clip = self._sent[job.id]
            target = saving.output or clip.folder
            return fetched(
                self._client, self._said, job, target, saving.clips, saving.overwrite, saving.as_json
            )

        waiting = deque(self._clips)
        while waiting or self._following.live:
            try:
                with self._said:
                    self._send_all(waiting, save)
                    self._following.finish(save)
            except KeyboardInterrupt:
                self._interrupted(waiting)
            except ClientError:
                leave(self._client, list(self._following.live), self._said)
                raise
        self.exit = self.exit or self._following.exit

    def _send_all(self, waiting: deque[Clip], save: Callable[[Job], Exit]) -> None:
        """Sends what waits. Where the service has no room, it waits until a job that was sent is over."""
        while waiting:
            clip = waiting[0]
            try:
                job = self._taken(clip, self._send)
            except Busy as error:
                if not self._following.live:
                    raise
                self._said.say(f"{error} {len(waiting)} more are sent when jobs before them are over.")
                self._following.finish(save, leave=len(self._following.live) - 1)
                continue
            waiting.popleft()
            if job is not None:
                self._sent[job.id] = clip
                self._following.add(job, clip.name)
            self._following.look(save)

    def _interrupted(self, waiting: deque[Clip]) -> None:
        """Asks what is to become of the jobs, where there is somebody to ask. Returns if they are to be waited for."""
        live = list(self._following.live)
        unsent = len(waiting)
        if waiting and waiting[0] is self._unanswered:
            unsent -= 1
            name = waiting[0].name
            self._said.say(f"{name} may have become a job: look with `dain jobs` before you send it again.")
        if unsent:
            self._said.say(
                f"{self._clips[0].name} is not sent."
                if len(self._clips) == 1
                else f"{unsent} of {len(self._clips)} videos are not sent."
            )
        if live and sys.stdin.isatty() and sys.stderr.isatty():
            match ask(live):
                case "wait":
                    return
                case "cancel":
                    cancel(self._client, live, self._said)
                    sys.exit(Exit.INTERRUPTED)
        leave(self._client, live, self._said)
        sys.exit(Exit.INTERRUPTED)

    def _taken(self, clip: Clip, call: Callable[[Clip], Answer]) -> Answer | None:
        """What the service answers of the video; None where this one of several cannot be sent, which is said."""
        try:
            return call(clip)
        except Refused as error:
            if len(self._clips) == 1 or isinstance(error, (Unauthorized, Forbidden)):
                raise
            fault, code = str(error), exit_code(error)
        except OSError as error:
            fault, code = f"it cannot be read: {error.strerror or error}.", Exit.FAILED
        finally:
            self._said.end(clip.key)
        self._said.say(f"Error: {clip.name}: {fault}")
        self.exit = self.exit or code
        return None

    def _send(self, clip: Clip) -> Job:
        self._unanswered = clip if self._mask or clip.path is None else None
        if not isinstance(clip.source, Path):
            self._said.show(clip.key, clip.name, "fetched by the service", None)
            return self._client.submit_url(clip.source, self._options, clip.key)
        with archived(clip.source) as file:
            return self._client.submit(
                file, self._options, clip.key, mask=self._mask, on_progress=self._show_upload(clip)
            )

    def _estimate(self, clip: Clip) -> Estimate:
        if not isinstance(clip.source, Path):
            return self._client.estimate_url(clip.source, self._options)
        with archived(clip.source) as file:
            return self._client.estimate(file, self._options, on_progress=self._show_upload(clip))

    def _show_upload(self, clip: Clip) -> Callable[[int, int | None], None]:
        def show(sent: int, total: int | None) -> None:
            self._unanswered = clip if sent == total else None
            more = f"{text.size(sent)} of {text.size(total)}" if total else text.size(sent)
            self._said.show(clip.key, clip.name, "uploading", sent / total if total else None, more)

        return show


def _summary(estimate: Estimate) -> str:
    """What a job would take, in a line."""
    parts = [f"{estimate.frames} frames, {estimate.new_frames} of them new"]
    parts.append(f"{figure(estimate.work)} megapixels of work")
    if estimate.eta_seconds is None or estimate.seconds is None:
        parts.append("no worker has measured its speed yet")
    else:
        parts.append(f"done in {estimate.eta_seconds:.0f} s, {estimate.seconds:.0f} s of them its own")
    parts.append(f"{estimate.queue_position} jobs are begun before it")
    return "; ".join(parts)
