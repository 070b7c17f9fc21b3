"""How a command comes to a service, and how it ends where that goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import click

from service import client as clients
from service.client import Client, ClientError
from service.client.retries import FIRST_PAUSE
from service.exits import Exit

#: The exit code of each kind of error; the first that fits.
EXITS: tuple[tuple[type[ClientError], Exit], ...] = (
    (clients.Unreachable, Exit.UNREACHABLE),
    (clients.JobFailed, Exit.JOB_FAILED),
    (clients.JobCancelled, Exit.JOB_CANCELLED),
    (clients.Unauthorized, Exit.UNAUTHORIZED),
    (clients.Forbidden, Exit.UNAUTHORIZED),
    (clients.NotFound, Exit.NOT_FOUND),
    (clients.Gone, Exit.NOT_FOUND),
    (clients.Refused, Exit.REFUSED),
    (clients.Busy, Exit.BUSY),
    (clients.NoSpace, Exit.BUSY),
)


def exit_code(error: ClientError) -> Exit:
    """The exit code of a command that ends by `error`."""
    return next((code for kind, code in EXITS if isinstance(error, kind)), Exit.FAILED)


@contextmanager
def connected(
    url: str, token: str | None, on_retry: Callable[[ClientError, float], None] | None = None
) -> Iterator[Client]:
    """A client of the service. What it raises ends the command in a sentence, with the exit code for it."""
    try:
        client = Client(url, token=token, on_retry=on_retry or teller(partial(click.echo, err=True)))
    except ClientError as error:  # the URL or the token is none
        raise click.UsageError(str(error)) from None
    try:
        with client:
            yield client
    except ClientError as error:
        is_away = isinstance(error, clients.Unreachable)
        hint = " Start one with `dain up`, or say where it is with --url (DAIN_URL)." if is_away else ""
        click.echo(f"Error: {error}{hint}", err=True)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def of_each(job_ids: Iterable[str], call: Callable[[str], object], say: Callable[[str], None]) -> Exit:
    """Makes `call` with each id. One that the service refuses is told of, and keeps no other from its turn.

    Returns the exit code of the first that was refused.
    """
    ended = Exit.DONE
    for job_id in dict.fromkeys(job_ids):
        try:
            call(job_id)
        except (clients.Unauthorized, clients.Forbidden):
            raise  # as all others would be
        except clients.Refused as error:
            say(f"Error: {error}")
            ended = ended or exit_code(error)
    return ended


def teller(say: Callable[[str], None]) -> Callable[[ClientError, float], None]:
    """Says that a call is repeated: of a lost connection once, of a busy service at each of its long pauses."""

    def tell(error: ClientError, pause: float) -> None:
        if pause <= FIRST_PAUSE or isinstance(error, clients.Busy):
            say(f"{error} Trying again.")

    return tell
