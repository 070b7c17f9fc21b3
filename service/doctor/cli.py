"""`dain doctor`: what is wrong with this machine's set-up, or makes it slow, and what to do about it.

It works where half of the set-up is missing, so it imports nothing but click at its top.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from itertools import chain

import click

from service import __version__
from service.doctor.findings import Finding, Level, error, examine

PATIENCE_SECONDS = 120.0  # for the next finding of a process that looks at the GPU
INDENT = 21  # columns before what a finding says
_MARKS = {Level.OK: ("ok", "green"), Level.WARNING: ("warn", "yellow"), Level.ERROR: ("FAIL", "red")}


@click.command()
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of lines.")
def doctor(is_json: bool) -> None:
    """Say what of this machine's set-up is wrong or slow, and what to do about it.

    Looks at the machine, GPU, kernels, networks, FFmpeg, Redis, store and port, with the settings (DAIN_...) of this
    shell, and makes one small frame in each precision. Changes nothing. docs/doctor.md explains each finding.

    The exit code is 1 where something does not work (FAIL), else 0.
    """
    found: list[Finding] = []
    for finding in findings():
        found.append(finding)
        if not is_json:
            _print(finding)
    errors, warnings = (sum(each.level is level for each in found) for level in (Level.ERROR, Level.WARNING))
    if is_json:
        document = {"version": __version__, "errors": errors, "warnings": warnings}
        click.echo(json.dumps({**document, "findings": [each._asdict() for each in found]}, indent=2))
    else:
        click.echo(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}, of {len(found)} findings.")
    sys.exit(errors > 0)


def findings() -> Iterator[Finding]:
    """All that there is to find, as it is found."""
    worker = elsewhere([sys.executable, "-P", "-m", "worker.doctor"], PATIENCE_SECONDS)
    return chain(examine("service.doctor.machine"), worker, examine("service.doctor.serving"))


def elsewhere(command: list[str], patience: float) -> Iterator[Finding]:
    """The findings of a process that may crash, or be silent for longer than `patience` seconds; then that is one."""
    last = "its start"
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
    }  # as `dain up`: threads that wait leave the cores alone
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        said: list[str] = []
        drain = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        drain.start()
        while True:
            timer = threading.Timer(patience, process.kill)
            timer.start()
            line = process.stdout.readline()
            timer.cancel()
            if not line:
                break
            check, level, says, fix = json.loads(line)
            last = check
            yield Finding(check, Level(level), says, fix)
        drain.join()
    if process.returncode == 0:
        return
    if process.returncode == -9:
        why = f"took more than {patience:.0f} s, or was killed"
    else:
        why = (
            f"ended with status {process.returncode}: {(said or ['no reason given'])[-1].strip().rstrip('.')}"
        )
    yield error(
        "worker", f"The process that looks at GPU, network and FFmpeg {why}, after {last}.",
        "A worker would end there, too. Look at what `nvidia-smi` and the kernel's log (dmesg) say, and install the "
        "project again.",
    )  # fmt: skip


def _print(finding: Finding) -> None:
    mark, color = _MARKS[finding.level]
    fix = [f"Fix: {finding.fix}"] if finding.fix else []
    lines = [line for text in (finding.says, *fix) for line in _fitted(text)]
    click.echo(f"{click.style(f'{mark:4}', fg=color)}  {finding.check:14} {lines[0]}")
    for line in lines[1:]:
        click.echo(f"{'':{INDENT}}{line}")


def _fitted(text: str) -> list[str]:
    """The lines of a text, as wide as the terminal; through a pipe one."""
    if not sys.stdout.isatty():
        return [text]
    return textwrap.wrap(text, max(shutil.get_terminal_size().columns - INDENT, 30), break_on_hyphens=False)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
