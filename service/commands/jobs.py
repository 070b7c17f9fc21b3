"""The commands about jobs: `dain jobs`, `show`, `cancel` and `delete`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from service.client import Client, Job
from service.commands import text
from service.commands.connection import connected, of_each
from service.commands.options import job_argument, jobs_argument, json_option, pairs, server

WATCH_SECONDS = 2.0
LEFT_TO_THE_SERVICE = (None, False, "auto", "none", "off", "source")
COLUMNS = ("ID", "STATUS", "AGE", "DONE", "FPS", "LEFT", "FILE")


@click.command()
@click.option(
    "--status",
    type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]),
    help="Only jobs in this state.",
)
@click.option("--reference", help="Only jobs that were submitted with it.")
@click.option(
    "--metadata",
    metavar="KEY=VALUE",
    multiple=True,
    callback=pairs,
    help="Only jobs that were submitted with it; may be given several times.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Most jobs that are listed; 0: all.",
)
@click.option("--watch", is_flag=True, help="List them again every 2 s, until Ctrl-C.")
@json_option("the documents themselves")
@server
def jobs(limit: int, watch: bool, as_json: bool, url: str, token: str | None, **filters: Any) -> None:
    """List the jobs of a service, newest first."""
    most = limit or None
    with connected(url, token) as client:
        if watch and not as_json:
            _watch(client, most, filters)
            return
        found = client.jobs(limit=most and most + 1, **filters)
    shown = found[:most]
    if as_json:
        click.echo(json.dumps([job.document for job in shown], indent=2))
        return
    click.echo("\n".join(_table(shown)))
    if len(found) > len(shown):
        click.echo("There are more: --limit 100, or --limit 0 for all.", err=True)


def _watch(client: Client, most: int | None, filters: dict[str, Any]) -> None:
    console = Console()
    rows = most if most is None else min(most, console.height - 2)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        try:
            while True:
                lines = _table(client.jobs(limit=rows, **filters))
                live.update(Text("\n".join(lines), no_wrap=True), refresh=True)
                time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            return


def _table(found: list[Job]) -> list[str]:
    now = time.time()
    rows = [
        (
            job.id,
            job.status,
            text.span(now - job.created_at),
            f"{job.progress.fraction:.0%}",
            f"{job.progress.fps:.1f}" if job.progress.fps else "",
            "" if job.is_over else text.span(job.progress.eta_seconds),
            ": ".join(filter(None, (job.filename, (job.error or {}).get("title")))),
        )
        for job in found
    ]
    return text.table(COLUMNS, rows, right=("AGE", "DONE", "FPS", "LEFT"))


@click.command()
@job_argument
@json_option("the document itself")
@server
def show(job_id: str, as_json: bool, url: str, token: str | None) -> None:
    """Show all about a job: how far it is, what came of it, its video and its options."""
    with connected(url, token) as client:
        job = client.job(job_id)
    if as_json:
        click.echo(json.dumps(job.document, indent=2))
        return
    for name, value in _facts(job):
        click.echo(text.wrapped(f"{name:<10} {value}", indent=11))


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    """What people want to know of a job, by name."""
    yield "id", job.id
    yield "file", job.filename
    yield "status", ", ".join(filter(None, (job.status, "" if job.is_over else text.progress(job))))
    if job.progress.frames_total and not job.is_over:
        now = job.progress
        yield "frames", f"{now.frames_done} of {now.frames_total}, {now.fraction:.0%}"
    for name in ("created", "started", "finished", "expires"):
        at = getattr(job, f"{name}_at")
        if at is not None:
            yield name, text.moment(at)
    if job.input:
        yield "input", _video(job.input)
    if job.output:
        result = job.output
        yield (
            "result",
            (
                f"{result.filename}, {result.frames} frames at {result.frame_rate} fps, {text.size(result.size_bytes)}"
                + (", removed" if job.expired else "")
            ),
        )
    chosen = {name: value for name, value in job.options.items() if value not in LEFT_TO_THE_SERVICE}
    yield "options", ", ".join(f"{name}={value}" for name, value in chosen.items())
    for name in ("reference", "metadata", "webhook_url"):
        if value := getattr(job, name):
            yield name.replace("_url", ""), str(value) if isinstance(value, str) else json.dumps(dict(value))
    for sentence in text.sentences(job.notes):
        yield "note", sentence
    if job.error:
        yield "error", str(job.error.get("detail", job.error.get("title", "")))


def _video(facts: Mapping[str, Any]) -> str:
    """The facts of a video that people look for, as far as the service sends them."""
    forms = (
        ("width", "{width}x{height}"),
        ("frames", "{frames} frames"),
        ("average_rate", "{average_rate} fps"),
    )
    return ", ".join(form.format(**facts) for name, form in forms if facts.get(name))


@click.command()
@jobs_argument
@json_option("each job, one a line,")
@server
def cancel(job_ids: tuple[str, ...], as_json: bool, url: str, token: str | None) -> None:
    """Stop jobs. One that is over stays as it is."""

    def stop(job_id: str) -> None:
        job = client.cancel(job_id)
        if as_json:
            click.echo(json.dumps(job.document))
        elif job.status == "cancelled":
            click.echo(f"Cancelled job {job_id}.", err=True)
        else:
            click.echo(f"Job {job_id} was over: {job.status}. `dain delete {job_id}` removes it.", err=True)

    with connected(url, token) as client:
        ended = of_each(job_ids, stop, partial(click.echo, err=True))
    sys.exit(ended)


@click.command()
@jobs_argument
@server
def delete(job_ids: tuple[str, ...], url: str, token: str | None) -> None:
    """Remove jobs with their results. One that is not over is stopped."""

    def remove(job_id: str) -> None:
        client.delete(job_id)
        click.echo(f"Removed job {job_id}.", err=True)

    with connected(url, token) as client:
        ended = of_each(job_ids, remove, partial(click.echo, err=True))
    sys.exit(ended)
