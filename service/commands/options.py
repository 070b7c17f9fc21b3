"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from service.client import Client, ClientError

Command = TypeVar("Command", bound=Callable[..., object])

COMPLETION_SECONDS = 2.0  # that whoever presses Tab waits at most
COMPLETED = 20  # the newest jobs


def server(command: Command) -> Command:
    """Adds the options that say which service a command talks to, and as whom."""
    url = click.option(
        "--url",
        envvar="DAIN_URL",
        default="http://127.0.0.1:8000",
        show_default=True,
        is_eager=True,  # for `_known_jobs`
        help="The service.  [DAIN_URL]",
    )
    token = click.option(
        "--token", envvar="DAIN_TOKEN", is_eager=True, help="The token of your key for it.  [DAIN_TOKEN]"
    )
    return url(token(command))


def json_option(what: str) -> Callable[[Command], Command]:
    """Adds `--json`, which prints `what`."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


def _known_jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest jobs, for a shell that completes an id."""
    try:
        with Client(
            ctx.params["url"], token=ctx.params["token"], timeout=COMPLETION_SECONDS, patience=0
        ) as client:
            jobs = client.jobs(limit=COMPLETED)
    except ClientError:
        return []
    return [
        CompletionItem(job.id, help=f"{job.status} {job.filename}")
        for job in jobs
        if job.id.startswith(incomplete)
    ]


#: The id of a job.
job_argument = click.argument("job_id", metavar="ID", shell_complete=_known_jobs)
#: The ids of one job or several.
jobs_argument = click.argument(
    "job_ids", metavar="ID...", nargs=-1, required=True, shell_complete=_known_jobs
)


def pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """What several options KEY=VALUE say."""
    found: dict[str, str] = {}
    for key, equals, value in (text.partition("=") for text in values):
        if not (key and equals):
            raise click.BadParameter(f"{key + equals + value!r} is not of the form KEY=VALUE.")
        if found.setdefault(key, value) != value:
            raise click.BadParameter(f"{key!r} is given twice, with two values.")
    return found
