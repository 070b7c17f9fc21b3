"""`dain workers`: what works for a service."""

from __future__ import annotations

import json

import click

from service.client import Worker
from service.commands import text
from service.commands.connection import connected
from service.commands.options import json_option, server


@click.command()
@json_option("the documents themselves")
@server
def workers(as_json: bool, url: str, token: str | None) -> None:
    """List the workers of a service: what each is doing, how fast, and what it runs on."""
    with connected(url, token) as client:
        found = client.workers()
    if as_json:
        click.echo(json.dumps([worker.document for worker in found], indent=2))
    elif not found:
        click.echo("No worker is running. `dain up` starts one for each GPU.", err=True)
    else:
        for worker in found:
            click.echo(text.wrapped(f"{worker.name}  {_doing(worker)}; {_place(worker)}"))


def _doing(worker: Worker) -> str:
    """What the worker does, and how fast."""
    if worker.error:
        return worker.error
    if not worker.ready:
        return "warming up"
    fast = f", {worker.frames_per_second:.2f} frames/s"
    return f"{worker.task} of {worker.job}{fast}" if worker.task else "idle"


def _place(worker: Worker) -> str:
    """What the worker runs on, as far as it says."""
    named = "" if worker.device_name == worker.device else f" {worker.device_name}"
    parts = [f"{worker.device}{named}", f"{worker.model} in {worker.precision} by {worker.backend}"]
    if worker.vram_total_bytes:
        parts.append(f"{worker.vram_used_bytes / 2**30:.1f} of {worker.vram_total_bytes / 2**30:.1f} GiB")
    if worker.celsius:
        parts.append(f"{max(worker.celsius.values()):.0f} °C")
    parts += [f"slowed by {cause}" for cause in worker.throttled_by]
    parts += [f"version {worker.version}"] if worker.version else []
    return ", ".join(parts)
