"""The commands about jobs: `dain jobs`, `show`, `logs`, `cancel` and `delete`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from service.client import Client, Job
from service.commands import text
from service.commands.connection import connected
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
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until the job is over.")
@json_option("each line as a document, one a line,")
@server
def logs(job_id: str, follow: bool, as_json: bool, url: str, token: str | None) -> None:
    """Show what happened to a job, in order: its states, its notes, the messages to its webhook."""
    with connected(url, token) as client:
        job = client.job(job_id)
        lines = _history(job)
        if "deliveries" in job.links:
            lines += map(_delivery, client.deliveries(job_id))
        for line in sorted(lines, key=lambda line: line["time"]):
            _print(line, as_json)
        if follow and not job.is_over:
            try:
                for line in _events(client, job_id):
                    _print(line, as_json)
            except KeyboardInterrupt:
                return


def _line(at: float, event: str, words: str) -> dict[str, Any]:
    return {"time": at, "event": event, "text": words}


def _history(job: Job) -> list[dict[str, Any]]:
    """What the job's record tells, each with its time; a note has that of the state in which it was found."""
    lines = [_line(job.created_at, "job.queued", f"{job.filename} was accepted")]
    lines += [_line(job.created_at, "note", sentence) for sentence in text.sentences(job.notes)]
    if job.started_at:
        lines.append(_line(job.started_at, "job.started", "a worker took it"))
    metrics = job.metrics
    last = job.finished_at or time.time()
    if metrics.get("attempts_failed"):
        lines.append(
            _line(
                last,
                "attempts",
                f"{metrics['attempts_failed']} attempts at its tasks failed and were repeated",
            )
        )
    if metrics.get("recomputed_frames"):
        lines.append(
            _line(last, "recomputed", f"{metrics['recomputed_frames']} frames were computed again in fp32")
        )
    if job.status == "running":
        lines.append(_line(last, "job.running", f"{job.progress.fraction:.0%} {text.progress(job)}"))
    elif not job.is_over:
        lines.append(_line(last, f"job.{job.status}", text.progress(job)))
    elif job.output:
        lines.append(
            _line(last, "job.succeeded", f"{job.output.frames} frames, {text.size(job.output.size_bytes)}")
        )
    else:
        lines.append(_line(last, f"job.{job.status}", (job.error or {}).get("detail", "")))
    if job.expired and job.expires_at:
        lines.append(_line(job.expires_at, "job.expired", "the result was removed"))
    return lines


def _delivery(attempt: Any) -> dict[str, Any]:
    answer = attempt.get("status") or attempt.get("error") or ""
    words = f"{attempt['type']}, attempt {attempt['attempt']}: {attempt['outcome']} {answer}".rstrip()
    return _line(attempt.get("time", 0.0), "webhook", words)


def _events(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    """What happens from now on; of its progress each tenth."""
    tenths = 0
    for event in client.events(job_id):
        if event.type == "job":
            continue
        words = ""
        if event.type == "job.progressed":
            done, total = event.data["frames_done"], event.data["frames_total"]
            if 10 * done // total == tenths:
                continue
            tenths, words = 10 * done // total, f"{done / total:.0%}, {done} of {total} frames"
        yield _line(
            event.data.get("time", time.time()),
            event.type,
            words or (event.data.get("error") or {}).get("detail", ""),
        )


def _print(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(line))
    else:
        click.echo(f"{text.moment(line['time'])}  {line['event']:<14} {text.plain(line['text'])}".rstrip())


@click.command()
@jobs_argument
@json_option("each job, one a line,")
@server
def cancel(job_ids: tuple[str, ...], as_json: bool, url: str, token: str | None) -> None:
    """Stop jobs. One that is over stays as it is."""
    with connected(url, token) as client:
        for job_id in job_ids:
            job = client.cancel(job_id)
            if as_json:
                click.echo(json.dumps(job.document))
            elif job.status == "cancelled":
                click.echo(f"Cancelled job {job_id}.", err=True)
            else:
                click.echo(
                    f"Job {job_id} was over: {job.status}. `dain delete {job_id}` removes it.", err=True
                )


@click.command()
@jobs_argument
@server
def delete(job_ids: tuple[str, ...], url: str, token: str | None) -> None:
    """Remove jobs with their results. One that is not over is stopped."""
    with connected(url, token) as client:
        for job_id in job_ids:
            client.delete(job_id)
            click.echo(f"Removed job {job_id}.", err=True)
