"""The commands that talk to a service: `dain submit`, `fetch`, `jobs`, `workers` and `cancel`."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from service.client import Client, Estimate, Job, Worker
from service.jobs.formats import container_of
from service.jobs.notes import Note, sentences
from service.jobs.problems import figure
from service.jobs.stills import archived

Command = TypeVar("Command", bound=Callable[..., object])


def server(command: Command) -> Command:
    """Adds the options that say which service a command talks to, and as whom."""
    url = click.option(
        "--url",
        envvar="DAIN_URL",
        default="http://127.0.0.1:8000",
        show_default=True,
        help="The service.  [DAIN_URL]",
    )
    token = click.option("--token", envvar="DAIN_TOKEN", help="The token of your key for it.  [DAIN_TOKEN]")
    return url(token(command))


def _pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """What several options KEY=VALUE say."""
    pairs: dict[str, str] = {}
    for key, equals, value in (text.partition("=") for text in values):
        if not (key and equals):
            raise click.BadParameter(f"{key + equals + value!r} is not of the form KEY=VALUE.")
        if pairs.setdefault(key, value) != value:
            raise click.BadParameter(f"{key!r} is given twice, with two values.")
    return pairs


class Clip(click.Path):
    """A video: a file, a folder of pictures, or a URL that the service fetches it from."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        is_url = isinstance(value, str) and value.startswith(("https://", "http://"))
        return value if is_url else super().convert(value, param, ctx)


@click.command()
@click.argument("clip", type=Clip(exists=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File or folder for the result.  [beside CLIP, or here]",
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
    callback=_pairs,
    help="Your own note on the job, by which `dain jobs` finds it; may be given several times.",
)
@click.option("--webhook-url", help="Where the service sends the job's events.")
@click.option("--webhook-events", help="Which of them: job.succeeded,job.failed.  [all]")
@click.option("--detach", is_flag=True, help="Print the job's id and do not wait.")
@click.option("--dry-run", is_flag=True, help="Say what the job would take, and start none.")
@server
def submit(
    clip: Path | str,
    output: Path | None,
    overwrite: bool,
    detach: bool,
    dry_run: bool,
    no_audio: bool,
    metadata: dict[str, str],
    mask: Path | None,
    url: str,
    token: str | None,
    **options: object,
) -> None:
    """Send CLIP to a service, wait, and fetch the result. CLIP may be a URL, which the service fetches.

    CLIP may be a folder of pictures, too: they are sent as a ZIP archive, in the order of the numbers in their names.
    """
    given = {**options, "metadata": metadata or None}
    if no_audio:
        given["audio"] = "none"
    if output and not output.is_dir():
        meant = container_of(output.suffix)
        given["container"] = given["container"] or (meant if meant != "mp4" else None)  # which is the default
    file = clip if isinstance(clip, Path) else None
    if mask and not file:
        raise click.BadParameter("a mask goes with a file, not with a URL", param_hint="--mask")
    folder = file.parent if file else Path()
    if output and not output.is_dir():
        _check_output(output, file, overwrite)
    if isinstance(clip, Path):
        try:
            clip = click.get_current_context().with_resource(archived(clip))
        except ValueError as error:
            raise click.BadParameter(f"{error}.", param_hint="CLIP") from None
    with Client(url, token=token) as client:
        if dry_run:
            estimate = (
                client.estimate(clip, given) if isinstance(clip, Path) else client.estimate_url(clip, given)
            )
            click.echo(_summary(estimate))
            return
        job = (
            client.submit(clip, given, mask=mask)
            if isinstance(clip, Path)
            else client.submit_url(clip, given)
        )
        if detach:
            click.echo(job.id)
            return
        try:
            job = _wait(client, job.id)
        except KeyboardInterrupt:
            client.cancel(job.id)
            click.echo(f"Cancelled job {job.id}.", err=True)
            sys.exit(130)
        _save(client, job, output or folder, file, overwrite)


@click.command()
@click.argument("job_id", metavar="ID")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File or folder for the result.  [here]"
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@server
def fetch(job_id: str, output: Path | None, overwrite: bool, url: str, token: str | None) -> None:
    """Wait for the job ID, and fetch its result. Ctrl-C leaves the job as it is."""
    if output and not output.is_dir():
        _check_output(output, None, overwrite)
    with Client(url, token=token) as client:
        _save(client, _wait(client, job_id), output or Path(), None, overwrite)


def _save(client: Client, job: Job, target: Path, clip: Path | None, overwrite: bool) -> None:
    """Fetches the result of a job that has ended to the file or folder `target`; ClickException where it has none."""
    assert job.output is not None  # it has succeeded
    path = _destination(target, job.output.filename, clip, overwrite)
    try:
        client.download(job.id, path, overwrite=overwrite)
    except OSError as error:
        kept = f"the service still has the result, at {str(client.url).rstrip('/')}/jobs/{job.id}/result"
        raise click.ClickException(f"{path} cannot be written: {error.strerror}; {kept}.") from None
    for sentence in sentences(Note.read_all(job.document.get("notes", ()))):  # an older service has none
        click.echo(f"Note: {sentence}", err=True)
    click.echo(f"{path}: {job.output.frames} frames at {job.output.frame_rate} fps")


def _summary(estimate: Estimate) -> str:
    """What a job would take, in a line."""
    parts = [f"{estimate.frames} frames, {estimate.new_frames} of them new"]
    parts.append(f"{figure(estimate.work)} megapixels of work")
    if estimate.eta_seconds is None:
        parts.append("no worker has measured its speed yet")
    else:
        parts.append(f"done in {estimate.eta_seconds:.0f} s, {estimate.seconds:.0f} s of them its own")
    parts.append(f"{estimate.queue_position} jobs are begun before it")
    return "; ".join(parts)


def _check_output(output: Path, clip: Path | None, overwrite: bool) -> None:
    """Refuses, before anything is sent, a file `output` that the result cannot or must not become."""
    if not output.parent.is_dir():
        fault = f"there is no folder {output.parent}: make it first"
    elif _is_same(output, clip):
        fault = f"{output} is CLIP itself, which is never replaced: name another file"
    elif os.path.lexists(output) and not overwrite:
        fault = f"{output} exists: name another file, or replace it with --overwrite"
    else:
        return
    raise click.BadParameter(fault, param_hint="--output")


def _destination(target: Path, filename: str, clip: Path | None, overwrite: bool) -> Path:
    """The file for the result: `target` itself, or, in the folder `target`, a name like `filename` that is free."""
    if not target.is_dir():
        return target
    path = first = target / Path(filename).name
    for number in itertools.count(2):
        if not os.path.lexists(path) or (overwrite and not _is_same(path, clip)):
            break
        path = first.with_stem(f"{first.stem}-{number}")
    return path


def _is_same(path: Path, clip: Path | None) -> bool:
    """Whether both are one file, by whatever name or link."""
    return clip is not None and path.exists() and path.samefile(clip)


def _wait(client: Client, job_id: str) -> Job:
    """Follows a job with a progress bar until it has ended, and returns it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("queued", total=None)

        def show(job: Job) -> None:
            progress = job.progress
            speed = f" {progress.fps:.1f} fps" if progress.fps else ""
            bars.update(
                bar,
                description=job.status + speed,
                total=progress.frames_total,
                completed=progress.frames_done,
            )

        return client.wait(job_id, show)


@click.command()
@click.option("--status", help="Only jobs in this state: queued, running, succeeded, failed, cancelled.")
@click.option("--reference", help="Only jobs that were submitted with it.")
@click.option(
    "--metadata",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_pairs,
    help="Only jobs that were submitted with it; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the documents themselves.")
@server
def jobs(
    status: str | None,
    reference: str | None,
    metadata: dict[str, str],
    as_json: bool,
    url: str,
    token: str | None,
) -> None:
    """List the jobs of a service, newest first."""
    with Client(url, token=token) as client:
        found = client.jobs(status=status, reference=reference, metadata=metadata)
    if as_json:
        click.echo(json.dumps([each.document for each in found], indent=2))
        return
    table = Table(Column("id", no_wrap=True, min_width=28), "status", "done", "file", "note")
    for job in found:
        note = (job.error or {}).get("title", "")
        table.add_row(job.id, job.status, f"{job.progress.fraction:.0%}", job.filename, note)
    Console().print(table)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the documents themselves.")
@server
def workers(as_json: bool, url: str, token: str | None) -> None:
    """List the workers of a service."""
    with Client(url, token=token) as client:
        found = client.workers()
    if as_json:
        click.echo(json.dumps([each.document for each in found], indent=2))
        return
    table = Table(
        Column("name", no_wrap=True),
        "device",
        "model",
        "precision",
        "operators",
        "frames/s",
        "VRAM GiB",
        "°C",
        "task in hand",
    )
    for worker in found:
        memory = f"{worker.vram_used_bytes / 2**30:.1f} / {worker.vram_total_bytes / 2**30:.1f}"
        in_hand = f"{worker.task} of {worker.job}" if worker.task else "" if worker.ready else "warming up"
        table.add_row(
            worker.name, f"{worker.device} {worker.device_name}", worker.model, worker.precision,
            worker.backend, f"{worker.frames_per_second:.2f}", memory, _heat(worker), in_hand,
        )  # fmt: skip
    Console().print(table)


def _heat(worker: Worker) -> str:
    """The highest temperature of a worker's machine, and what slows it down; an older service knows neither."""
    celsius = worker.celsius.values()
    hottest = [f"{max(celsius):.0f}"] if celsius else []
    return " ".join([*hottest, *worker.throttled_by])


@click.command()
@click.argument("job_id", metavar="ID")
@server
def cancel(job_id: str, url: str, token: str | None) -> None:
    """Stop a job, or remove one that is over."""
    with Client(url, token=token) as client:
        if client.job(job_id).is_over:
            client.delete(job_id)
        else:
            client.cancel(job_id)
