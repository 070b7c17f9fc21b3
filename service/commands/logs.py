"""`dain logs`: what happened to a job."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from service.client import Client, Job
from service.commands import text
from service.commands.connection import connected
from service.commands.options import job_argument, json_option, server

#: What a job's metrics count that people want to know, and its words.
COUNTS = {
    "attempts_failed": "attempts at its tasks that failed and were repeated",
    "recomputed_frames": "frames that were computed again in fp32",
}


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
    last = job.finished_at or time.time()
    counts = ((job.metrics.get(name), words) for name, words in COUNTS.items())
    lines += [_line(last, "note", f"{words}: {count}") for count, words in counts if count]
    if job.status == "running":
        lines.append(_line(last, "job.running", f"{job.progress.fraction:.0%} {text.progress(job)}"))
    elif not job.is_over:
        lines.append(_line(last, f"job.{job.status}", text.progress(job)))
    else:
        lines.append(_end(job))
    if job.expired and job.expires_at:
        lines.append(_line(job.expires_at, "job.expired", "the result was removed"))
    return lines


def _end(job: Job) -> dict[str, Any]:
    """How a job ended."""
    words = (job.error or {}).get("detail", "")
    if job.output:
        words = f"{job.output.frames} frames, {text.size(job.output.size_bytes)}"
    return _line(job.finished_at or time.time(), f"job.{job.status}", words)


def _delivery(attempt: Any) -> dict[str, Any]:
    answer = attempt.get("status") or attempt.get("error") or ""
    words = f"{attempt['type']}, attempt {attempt['attempt']}: {attempt['outcome']} {answer}".rstrip()
    return _line(attempt.get("time", 0.0), "webhook", words)


def _events(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    """What happens from now on; of its progress each tenth."""
    tenths = 0
    for event in client.events(job_id):
        if event.type == "job":  # as it stands, which may be over by now
            job = Job.of(event.data)
            if job.is_over:
                yield _end(job)
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
