"""`dain keys`: makes, lists, revokes and rotates the API keys of a service."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import click
import httpx
from pydantic import ByteSize, TypeAdapter, ValidationError
from redis.exceptions import RedisError

from service.egress import Egress, EgressRefused, parse_url
from service.jobs.keys import (
    OWNER,
    Key,
    Keys,
    KeysMissing,
    KeysUnreadable,
    Quota,
    RecordUnreadable,
    Scope,
    open_keys,
)
from service.jobs.records import DEFAULT_OWNER
from service.jobs.webhooks import secret_of
from service.settings import read_settings

UNITS = {"m": 60, "h": 3600, "d": 24 * 3600}


class Size(click.ParamType):
    """A number of bytes, such as ``50GiB``."""

    name = "size"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(TypeAdapter(ByteSize).validate_python(value))
        except ValidationError:
            self.fail(f"{value!r} is no size such as 50GiB", param, ctx)


class Duration(click.ParamType):
    """A time in seconds, at least `least`, written as ``30m``, ``12h`` or ``90d``."""

    name = "time"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,5})([mhd])", value)
        if match is None:
            self.fail(f"{value!r} is no time such as 30m, 12h or 90d", param, ctx)
        seconds = int(match[1]) * UNITS[match[2]]
        if seconds < self._least:
            self.fail(f"{value!r} is over at once", param, ctx)
        return seconds


class Scopes(click.ParamType):
    """Scopes with commas between them."""

    name = "scopes"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        try:
            return frozenset(Scope(name.strip()).value for name in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of {', '.join(Scope)}, such as submit,read", param, ctx)


class Weight(click.FloatRange):
    """A number in a range, which NaN is not: click lets it through."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        weight: float = super().convert(value, param, ctx)
        if math.isnan(weight):
            self.fail(f"{value!r} is no number", param, ctx)
        return weight


class Owner(click.ParamType):
    """The name that keys and jobs belong to."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not OWNER.fullmatch(value):
            self.fail(
                f"{value!r} is no name of up to 64 lower-case letters, digits, dots, hyphens and underscores",
                param,
                ctx,
            )
        return value


class Url(click.ParamType):
    """Where a webhook may be."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(parse_url(value))
        except EgressRefused as error:
            self.fail(str(error), param, ctx)


_AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print the key's record with its token, as JSON."
)


@click.group()
def keys() -> None:
    """Make, list, revoke and rotate the API keys of a service.

    They are in the file DAIN_KEYS_FILE; where that is unset, in the Redis of DAIN_REDIS_URL; where that is unset, too,
    in keys.json of the state folder, where `dain up` finds them. A running service follows within a second.
    """


@keys.command()
@click.argument("owner", metavar="NAME", type=Owner())
@click.option(
    "--scope",
    "scopes",
    type=Scopes(),
    multiple=True,
    default=["submit,read"],
    show_default=True,
    help="What the key allows: submit, read, admin; may be given several times.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Most jobs of NAME queued or running.  [no limit]")
@click.option("--bytes", "size", type=Size(), help="Most bytes that NAME may upload a day (UTC).  [no limit]")
@click.option("--work", type=click.IntRange(min=1),
              help="Most work before NAME's jobs: megapixels of new frames.  [DAIN_MAX_WORK]")  # fmt: skip
@click.option("--weight", type=Weight(0.01, 100), default=1.0, show_default=True,
              help="NAME's share of the workers, against other names.")  # fmt: skip
@click.option("--rate", type=click.IntRange(min=1), help="Most requests a minute.  [no limit]")
@click.option("--expires", type=Duration(least=1), help="When the key ends: in 30m, 12h, 90d.  [never]")
@click.option(
    "--webhook-url",
    type=Url(),
    help="Where the events of jobs go that name no webhook: a public host, or one in DAIN_EGRESS_ALLOW. "
    "The service needs DAIN_WEBHOOK_SECRET.  [nowhere]",
)
@_AS_JSON
def add(
    owner: str,
    scopes: tuple[frozenset[str], ...],
    jobs: int | None,
    size: int | None,
    work: int | None,
    weight: float,
    rate: int | None,
    expires: int | None,
    webhook_url: str | None,
    as_json: bool,
) -> None:
    """Make a key for NAME, whose jobs no other name sees, and print its token: once, since only a hash is kept.

    NAME may have several keys. Jobs from the time before there were keys belong to the name `default`.
    """
    key, token = Key.new(
        owner,
        frozenset().union(*scopes),
        quota=Quota(jobs=jobs, bytes=size, work=work),
        weight=weight,
        rate=rate,
        expires_at=None if expires is None else time.time() + expires,
        webhook_url=webhook_url,
    )
    with _store() as store:
        store.put(key)
    if webhook_url is not None:
        _warn_of_webhook(webhook_url)
    _show_once(key, token, as_json)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the records, without their hashes.")
def list_keys(as_json: bool) -> None:
    """List all keys, those that are over, too: id, name, scopes and end, and in a second line what limits them."""
    found: list[Key] = []
    with _store() as store, suppress(KeysMissing):
        found = sorted(store.all().values(), key=lambda key: key.created_at)
    if not found:
        click.echo("There is no key yet. `dain keys add NAME` makes one.", err=True)
    if as_json:
        click.echo(json.dumps(list(map(_document, found)), indent=2))
        return
    for key in found:
        state = _state(key)
        click.echo(f"{key.id}  {key.owner}  {','.join(sorted(key.scopes))}{state and '  ' + state}")
        if limits := _limits(key):
            click.echo(f"    {limits}")


@keys.command()
@click.argument("key_ids", metavar="ID...", nargs=-1, required=True)
def revoke(key_ids: tuple[str, ...]) -> None:
    """End keys for good, by the ids that `dain keys list` shows; also a key whose record cannot be read."""
    with _store() as store:
        for key in [_find_or_lost(store, key_id) for key_id in key_ids]:
            store.put(key.model_copy(update={"revoked_at": key.revoked_at or time.time()}))


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--keep", type=Duration(), default="0m", show_default=True,
              help="How long the old key still works: 30m, 12h, 1d.")  # fmt: skip
@_AS_JSON
def rotate(key_id: str, keep: int, as_json: bool) -> None:
    """Make a key like the key ID and print its token; the old key ends."""
    with _store() as store:
        old = _find(store, key_id)
        if old.over:
            raise click.ClickException(f"The key {old.id} is {old.over}; make one with `dain keys add`.")
        same = old.model_dump(exclude={"id", "sha256", "created_at"})
        key, token = Key.new(**same)
        store.put(key)
        _show_once(key, token, as_json)
        ends = time.time() + keep
        store.put(old.model_copy(update={"expires_at": min(ends, old.expires_at or ends)}))


@keys.command("webhook-secret")
@click.argument("owner", metavar="NAME", type=Owner())
def webhook_secret(owner: str) -> None:
    """Print what NAME verifies webhooks with; it follows from DAIN_WEBHOOK_SECRET, and from each of several."""
    secrets = read_settings().webhook_secret
    if not secrets:
        raise click.ClickException(
            "DAIN_WEBHOOK_SECRET is not set here. Run this with the settings of the service; without it, it sends no "
            "webhooks."
        )
    for secret in secrets:
        click.echo(secret_of(owner, secret.get_secret_value()))
    if owner != DEFAULT_OWNER:
        _warn_of_owner(owner)


@contextmanager
def _store() -> Iterator[Keys]:
    """The keys of this environment's settings. What goes wrong with them ends the command in a sentence."""
    settings = read_settings()
    try:
        if settings.keys_file is not None:
            settings.keys_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield open_keys(settings)
    except RedisError as error:
        raise click.ClickException(
            f"The Redis of DAIN_REDIS_URL, where the keys are, fails: {error}"
        ) from None
    except KeysUnreadable as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"The file of keys {settings.keys_file} cannot be used: {error.filename}: {error.strerror}. Correct "
            "DAIN_KEYS_FILE, or what is in its way."
        ) from None


def _find(store: Keys, key_id: str) -> Key:
    key = store.get(key_id)
    if key is None:
        raise click.ClickException(
            f"There is no key {key_id!r:.100}; `dain keys list` shows those there are."
        )
    return key


def _find_or_lost(store: Keys, key_id: str) -> Key:
    try:
        return _find(store, key_id)
    except RecordUnreadable:
        return Key.lost(key_id)


def _warn_of_owner(owner: str) -> None:
    """Says on standard error where no key has the name, or nobody knows."""
    try:
        with _store() as store:
            if not any(key.owner == owner for key in store.all().values()):
                click.echo(f"Warning: no key has the name {owner}.", err=True)
    except click.ClickException as error:
        click.echo(f"Warning: whether a key has the name {owner} is unknown. {error.message}", err=True)


def _warn_of_webhook(url: str) -> None:
    """Says on standard error why a service with the settings of this environment would send nothing to `url`."""
    settings = read_settings()
    reasons = [] if settings.webhook_secret else ["DAIN_WEBHOOK_SECRET is not set."]
    with suppress(httpx.TransportError):  # the host may be there when there is something to send
        try:
            asyncio.run(Egress(settings.egress_allow).addresses(httpx.URL(url)))
        except EgressRefused as error:
            reasons.append(str(error))
    if reasons:
        click.echo(
            "Warning: a service with the settings of this environment refuses every job of this key that names no "
            f"webhook of its own. {' '.join(reasons)}",
            err=True,
        )


def _show_once(key: Key, token: str, as_json: bool) -> None:
    """The token alone goes to standard output, so that a script can take it from there; or a document with it."""
    if as_json:
        click.echo(json.dumps(_document(key) | {"token": token}))
    else:
        click.echo(f"Key {key.id} of {key.owner}. This is the only time that its token is shown:", err=True)
        click.echo(token)
    sys.stdout.flush()


def _document(key: Key) -> dict[str, Any]:
    """The key's record without its hash."""
    return key.model_dump(mode="json", exclude={"sha256"})


def _limits(key: Key) -> str:
    """What the key has beside its scopes, as the options that gave it."""
    quota = key.quota
    given = {
        "--jobs": quota.jobs,
        "--bytes": None if quota.bytes is None else ByteSize(quota.bytes).human_readable(),
        "--work": quota.work,
        "--weight": None if key.weight == 1 else f"{key.weight:g}",
        "--rate": key.rate,
        "--webhook-url": key.webhook_url,
    }
    return "  ".join(f"{option} {value}" for option, value in given.items() if value is not None)


def _state(key: Key) -> str:
    if key.over or key.expires_at is None:
        return key.over or ""
    return f"until {datetime.fromtimestamp(key.expires_at, UTC):%Y-%m-%d %H:%M} UTC"
