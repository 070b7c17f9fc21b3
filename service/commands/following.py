"""Waits for jobs until each is over, through lost connections, and says how far they are."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from click.core import ParameterSource

from service.client import Client, ClientError, Job, NotFound, Unreachable
from service.commands import text
from service.commands.connection import exit_code
from service.commands.progress import Report
from service.exits import Exit

Ended = Callable[[Job], Exit]  #: what becomes of a job that is over, and the exit code by it

LOST_SECONDS = 600.0  # that the service may be away; whoever updates it needs a few minutes
QUICKEST, SLOWEST = 0.5, 2.0  # seconds between two looks


class Following:
    """The jobs of one command that are not over."""

    def __init__(self, client: Client, report: Report) -> None:
        self.live: dict[str, str] = {}  #: what people call each, by its id
        self.exit = Exit.DONE  #: of the first job that did not go well
        self._client = client
        self._report = report
        self._begun = time.monotonic()
        self._lost_at: float | None = None

    def add(self, job: Job, name: str) -> None:
        """Follows a job, which people call `name`."""
        self.live[job.id] = name
        if not job.is_over:
            self._show(job)

    def finish(self, ended: Ended, *, leave: int = 0) -> None:
        """Returns once no more than `leave` jobs are not over. `ended` gets each that is."""
        while len(self.live) > leave:
            self.look(ended)
            if len(self.live) > leave:
                self._pause()

    def look(self, ended: Ended) -> None:
        """Looks at each job once."""
        for job_id in list(self.live):
            with self._patience():
                try:
                    job = self._client.job(job_id)
                except NotFound as error:  # it was removed meanwhile
                    self._report.say(f"Error: {self.live[job_id]}: {error}")
                    self._end(job_id, exit_code(error))
                    continue
                self._lost_at = None
                if job.is_over:
                    self._end(job_id, ended(job))
                else:
                    self._show(job)

    def _end(self, job_id: str, code: Exit) -> None:
        self.exit = self.exit or code
        del self.live[job_id]
        self._report.end(job_id)

    def _pause(self) -> None:
        """Waits until it is worth looking again: soon at first, since a short job is soon over."""
        time.sleep(min(max((time.monotonic() - self._begun) / 10, QUICKEST), SLOWEST))

    def _show(self, job: Job) -> None:
        fraction = job.progress.fraction if job.progress.frames_total else None
        self._report.show(job.id, self.live[job.id], job.status, fraction, text.progress(job))

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Bears a lost connection for `LOST_SECONDS`, and says once that it is lost."""
        try:
            yield
        except Unreachable as error:
            now = time.monotonic()
            if self._lost_at is None:
                self._lost_at = now
                self._report.say(
                    f"{error} The jobs go on there; looking again for {LOST_SECONDS / 60:.0f} min."
                )
            elif now - self._lost_at > LOST_SECONDS:
                raise


def leave(client: Client, job_ids: list[str], report: Report) -> None:
    """Says how to go on with jobs that are no longer waited for. One may be over, and its result half fetched."""
    if job_ids:
        what = "The job is" if len(job_ids) == 1 else f"{len(job_ids)} jobs are"
        report.say(f"{what} left to the service. To fetch what comes of it:")
        report.say(f"    {shlex.join(['dain', 'fetch', *job_ids, *_given(client)])}")


def _given(client: Client) -> Iterator[str]:
    """The options of this command that `dain fetch` takes, too; no token, and no login in the URL."""
    ctx = click.get_current_context()
    if ctx.params.get("output"):
        yield from ("-o", ctx.params["output"])
    if ctx.params.get("overwrite"):
        yield "--overwrite"
    if ctx.get_parameter_source("url") is ParameterSource.COMMANDLINE:
        yield from ("--url", str(client.url))


def cancel(client: Client, job_ids: list[str], report: Report) -> None:
    """Cancels jobs that are waited for."""
    for job_id in job_ids:
        try:
            job = client.cancel(job_id)
            over = f"Job {job_id} was over: {job.status}. `dain fetch {job_id}` fetches what came of it."
            report.say(f"Cancelled job {job_id}." if job.status == "cancelled" else over)
        except ClientError as error:
            report.say(f"Job {job_id} is not cancelled: {error}")


def ask(job_ids: list[str]) -> str:
    """What becomes of jobs after Ctrl-C on a terminal: ``detach``, ``cancel`` or ``wait``. Another one detaches."""
    what = "A job goes on" if len(job_ids) == 1 else f"{len(job_ids)} jobs go on"
    choice = click.Choice(["detach", "cancel", "wait"])
    try:
        return str(click.prompt(f"{what} at the service. What now?", type=choice, default="detach", err=True))
    except click.Abort:
        click.echo(err=True)
        return "detach"
