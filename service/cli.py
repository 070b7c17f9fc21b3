"""`dain`: the commands that talk to a service, and those that other installed parts bring along."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from service.client import Client, ClientError

COMMANDS = "dain.commands"


class Commands(click.Group):
    """The commands of every installed part, imported when used: the service alone has no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(entry.name for entry in entry_points(group=COMMANDS))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        for entry in entry_points(group=COMMANDS, name=name):
            return _load(entry)
        return None


def _load(entry: EntryPoint) -> click.Command:
    try:
        command: click.Command = entry.load()
    except ModuleNotFoundError as error:
        reason = f"needs {error.name}, which is not installed: pip install 'dain-service[worker]'"
        return click.Command(
            entry.name, callback=lambda: _stop(f"`dain {entry.name}` {reason}."), help=f"({reason})"
        )
    return command


def _stop(text: str) -> None:
    raise click.ClickException(text)


@click.group(cls=Commands)
def cli() -> None:
    """Make video smoother: depth-aware frame interpolation, as a service or right here."""


server = click.option(
    "--url",
    envvar="DAIN_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="The service.  [DAIN_URL]",
)


@click.command()
@click.argument("clip", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File or folder for the result.  [beside CLIP]"
)
@click.option("--factor", type=int, help="Frames per source frame, 2 to 16.  [2]")
@click.option("--target-fps", help="Frame rate instead of a factor: 60, 59.94, 60000/1001.")
@click.option("--speed", help="Slow motion, without sound: 0.5, 1/3, down to 1/16.")
@click.option("--model", help="dain, dain-lite, or auto: what suits the worker.  [auto]")
@click.option("--quality", type=int, help="H.264 CRF, 0 (lossless) to 51.  [18]")
@click.option("--scene-threshold", type=float, help="How unlike two frames at a cut are, 0 to 1.")
@click.option("--no-audio", is_flag=True, help="Leave the sound out.")
@click.option("--detach", is_flag=True, help="Print the job's id and do not wait.")
@server
def submit(
    clip: Path, output: Path | None, detach: bool, no_audio: bool, url: str, **options: object
) -> None:
    """Send CLIP to a service, wait, and fetch the result."""
    given = {name: str(value) for name, value in options.items() if value is not None}
    if no_audio:
        given["audio"] = "none"
    if output and not output.parent.is_dir():
        raise click.BadParameter(f"there is no folder {output.parent}: make it first", param_hint="--output")
    with Client(url) as client:
        job = client.submit(clip, given)
        if detach:
            click.echo(job["id"])
            return
        job = _wait(client, job["id"])
        if job["status"] != "succeeded":
            _stop((job["error"] or {}).get("detail", f"The job was {job['status']}."))
        path = output or clip.parent
        if path.is_dir():
            path /= job["output"]["filename"]
        try:
            client.download(job["id"], path)
        except OSError as error:
            kept = f"the service still has the result, at {url.rstrip('/')}/jobs/{job['id']}/result"
            _stop(f"{path} cannot be written: {error.strerror}; {kept}.")
    click.echo(f"{path}: {job['output']['frames']} frames at {job['output']['frame_rate']} fps")


def _wait(client: Client, job_id: str) -> dict[str, Any]:
    """Follow a job with a progress bar; Ctrl-C cancels it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("queued", total=None)

        def show(job: dict[str, Any]) -> None:
            progress = job["progress"]
            speed = f" {progress['fps']:.1f} fps" if progress["fps"] else ""
            bars.update(
                bar,
                description=job["status"] + speed,
                total=progress["frames_total"],
                completed=progress["frames_done"],
            )

        try:
            return client.wait(job_id, show)
        except KeyboardInterrupt:
            client.cancel(job_id)
            click.echo(f"Cancelled job {job_id}.", err=True)
            sys.exit(130)


@click.command()
@click.option("--status", help="Only jobs in this state: queued, running, succeeded, failed, cancelled.")
@click.option("--json", "as_json", is_flag=True, help="Print the documents themselves.")
@server
def jobs(status: str | None, as_json: bool, url: str) -> None:
    """List the jobs of a service, newest first."""
    with Client(url) as client:
        found = client.jobs(status=status)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = Table(Column("id", no_wrap=True, min_width=28), "status", "done", "file", "note")
    for job in found:
        note = (job["error"] or {}).get("title", "")
        table.add_row(job["id"], job["status"], f"{job['progress']['fraction']:.0%}", job["filename"], note)
    Console().print(table)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the documents themselves.")
@server
def workers(as_json: bool, url: str) -> None:
    """List the workers of a service."""
    with Client(url) as client:
        found = client.workers()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = Table(
        Column("name", no_wrap=True),
        "device",
        "model",
        "precision",
        "operators",
        "frames/s",
        "VRAM GiB",
        "task in hand",
    )
    for worker in found:
        memory = f"{worker['vram_used_bytes'] / 2**30:.1f} / {worker['vram_total_bytes'] / 2**30:.1f}"
        in_hand = (
            f"{worker['task']} of {worker['job']}"
            if worker["task"]
            else ""
            if worker["ready"]
            else "warming up"
        )
        table.add_row(
            worker["name"], f"{worker['device']} {worker['device_name']}", worker["model"], worker["precision"],
            worker["backend"], f"{worker['frames_per_second']:.2f}", memory, in_hand,
        )  # fmt: skip
    Console().print(table)


@click.command()
@click.argument("job_id")
@server
def cancel(job_id: str, url: str) -> None:
    """Stop a job, or remove one that is over."""
    with Client(url) as client:
        client.cancel(job_id)


def main() -> None:
    """Run `dain`; what a service answers and what a network does wrong ends as one sentence."""
    try:
        cli()
    except ClientError as error:
        raise SystemExit(f"dain: {error}") from None
    except httpx.HTTPError as error:
        raise SystemExit(f"dain: the service cannot be reached: {error}; `dain up` starts one.") from None


if __name__ == "__main__":
    main()
