"""The whole service as real processes to stop, kill and cut off: Redis with its AOF, API, janitors, workers.

    clients ─▶ web (proxy) ─▶ API ─┐
                                   ├─▶ link (proxy) ─▶ Redis
                janitors, workers ─┘
                                   └─▶ a store on this disk, or bucket_link (proxy) ─▶ S3
    sender of webhooks ─▶ hook_link (proxy) ─▶ receiver

Each process is started again as soon as it ends, as under a supervisor.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, TimeoutError
from redis.retry import Retry

from service.jobs.machine import Jobs
from service.jobs.queue import Queue
from service.jobs.workers import Workers
from service.settings import Settings
from service.store import Store
from service.up import _redis_command as redis_command
from tests.faults.proxy import Proxy
from tests.faults.receiver import SECRET, Receiver
from tests.s3 import CREDENTIALS, Bucket
from tests.s3 import serve as serve_s3
from tests.stack import free_port

PR_SET_CHILD_SUBREAPER = 36  # prctl(2): processes that lose their parent become ours, and are found
SETTINGS = {
    "DAIN_WORKER_TTL_SECONDS": "3",
    "DAIN_SEGMENT_FRAMES": "4",
    "DAIN_MAX_ATTEMPTS": "5",
    "DAIN_STALL_SECONDS": "30",
    "DAIN_MIN_FREE_BYTES": "1MiB",
    "DAIN_MODEL": "dain-lite",
    "DAIN_DEVICE": "cpu",
    "DAIN_PRECISION": "fp32",
    "DAIN_THREADS": "1",
    "DAIN_WEBHOOK_SECRET": SECRET,
    "DAIN_EGRESS_ALLOW": "127.0.0.1",
}
DISK_BYTES = 64 * 2**20
PYTHON = [sys.executable, "-P", "-m"]
JANITOR = [*PYTHON, "service.jobs.janitor"]
#: Redis is killed and stopped meanwhile.
PATIENCE = Retry(ConstantBackoff(0.2), 600, (ConnectionError, TimeoutError, BusyLoadingError))


class Program:
    """One process, which is started again whenever it has ended, unless it is `held` down."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.starts = 0
        self._command = command
        self._environment = environment
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._is_held = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def keep_up(self) -> None:
        """Start the process where it does not run."""
        with self._lock:
            if self._is_held or (self._process is not None and self._process.poll() is None):
                return
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            self.starts += 1

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # which does nothing to a process that has ended

    @contextmanager
    def held(self) -> Iterator[None]:
        """Kill the process, and do not start it again meanwhile."""
        self._is_held = True
        self.send(signal.SIGKILL)
        yield
        self._is_held = False

    def end(self) -> None:
        with self._lock:
            self._is_held = True
        if self._process is None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.send(signal.SIGKILL)
        self._process.wait()


@dataclass
class Stack:
    """A running service. `redis` and what is made with it go past the proxy."""

    folder: Path
    settings: Settings
    redis: Redis
    web: Proxy
    link: Proxy
    bucket_link: Proxy | None  #: to S3, where the store is a bucket
    receiver: Receiver
    hook_link: Proxy  #: to the receiver
    has_disks: bool  #: store, AOF and temporary files lie on small disks of their own
    has_clock: bool  #: the processes have a clock that `set_clock` sets
    programs: dict[str, Program] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    helpers: set[int] = field(default_factory=set)  #: processes that are no part of the service
    noticed: list[float] = field(
        default_factory=list
    )  #: seconds from a worker's death to the next hand for its task

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.web.port}"
        self.webhook = f"http://127.0.0.1:{self.hook_link.port}/"
        self.jobs = Jobs.from_settings(self.redis, self.settings)
        self.queue = Queue(self.redis)
        self.workers = Workers(self.redis, ttl_seconds=self.settings.worker_ttl_seconds)
        self.store: Store = self.settings.open_store()

    def add(self, name: str, command: list[str]) -> Program:
        """Run one more program from now on."""
        self.programs[name] = Program(name, command, self.environment, self.folder / "logs")
        return self.programs[name]

    def set_clock(self, ahead: int) -> None:
        """Set the clock of all processes so many seconds ahead of the machine's; it takes them a second to see it."""
        (self.folder / "clock").write_text(f"{ahead:+d}")

    def any_of(self, kind: str) -> list[Program]:
        """The programs of one kind, such as `worker`."""
        return [program for name, program in self.programs.items() if name.partition("-")[0] == kind]

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def strangers(self) -> list[str]:
        """Processes that are left over: those of dead programs, whose parent this process has become."""
        ours = self.helpers | {program.pid for program in self.programs.values()}
        found = []
        for child in psutil.Process().children():
            with suppress(psutil.Error, ChildProcessError):
                if child.pid in ours:
                    continue
                if child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)
                else:
                    found.append(f"{child.pid} {' '.join(child.cmdline())[:200]}")
        return found

    def until(self, true: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise AssertionError(f"{what} did not happen in {seconds:.0f} s")
            time.sleep(0.1)


@contextmanager
def running(
    *, workers: int = 2, disks: bool = True, clock: bool = False, s3: bool = False, **settings: str
) -> Iterator[Stack]:
    """A service that is ready; `settings` are environment variables. Its folder stays where the context fails.

    `disks` gives it small disks of its own where that may be, `clock` a clock of its own, and `s3` a bucket.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended by SIGTERM."))
    folder = Path(tempfile.mkdtemp(prefix="dain-faults-"))
    with ExitStack() as held:
        places = ("state" if s3 else "store", "redis", "tmp")
        has_disks = disks and all([held.enter_context(_disk(folder / name)) for name in places])
        for name in ("state", "store", "redis", "tmp", "logs", "inject"):
            (folder / name).mkdir(exist_ok=True)
        bucket_link, store_url = None, (folder / "store").as_uri()
        if s3:
            os.environ.update(CREDENTIALS)
            endpoint = held.enter_context(serve_s3(folder / "store"))
            bucket_link = Proxy(int(endpoint.rpartition(":")[2]))
            store_url = Bucket.make(endpoint).url_at(f"http://127.0.0.1:{bucket_link.port}")
        port = free_port()
        link, web = Proxy(folder / "redis.sock"), Proxy(port)
        receiver = held.enter_context(closing(Receiver()))
        chosen = SETTINGS | settings
        chosen |= {
            "DAIN_REDIS_URL": f"redis://127.0.0.1:{link.port}/0",
            "DAIN_STATE_DIR": str(folder / "state"),
            "DAIN_STORE_URL": store_url,
            "DAIN_PORT": str(port),
        }
        stack = Stack(
            folder,
            Settings(**{name.removeprefix("DAIN_").lower(): text for name, text in chosen.items()}),
            Redis(unix_socket_path=str(folder / "redis.sock"), retry=PATIENCE),
            web,
            link,
            bucket_link,
            receiver,
            Proxy(receiver.port),
            has_disks,
            clock,
        )
        stack.set_clock(0)
        stack.helpers = {child.pid for child in psutil.Process().children()}
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("DAIN_")}
        environment = (
            inherited
            | chosen
            | {
                "DAIN_FAULTS": str(folder / "inject"),
                "TMPDIR": str(folder / "tmp"),
                "OMP_WAIT_POLICY": "PASSIVE",
                **(_clock(folder / "clock") if clock else {}),
                "PYTHONPATH": str(Path(__file__).parents[2]),
            }
        )
        commands = {
            "redis": redis_command(folder / "redis", folder, memory="0"),
            "api": [*PYTHON, "service.api.app"],
            "janitor-0": JANITOR,
            "webhooks": [*PYTHON, "tests.faults.sender"],
            **{f"worker-{n}": [*PYTHON, "tests.faults.worker"] for n in range(workers)},
        }
        stack.environment = environment
        for name, command in commands.items():
            stack.add(name, command)
        held.enter_context(_supervised(stack))
        stack.until(stack.is_ready, "readiness", 120)
        yield stack
    shutil.rmtree(folder)


@contextmanager
def _disk(folder: Path) -> Iterator[bool]:
    """A disk of `DISK_BYTES` at `folder`; False where this user may not mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "dain-faults", str(folder)]
    is_mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _clock(file: Path) -> dict[str, str]:
    """The environment of processes whose clock `file` sets. Time that only passes, which no clock sets, stays real."""
    package = importlib.util.find_spec("libfaketime")
    if package is None or package.origin is None:
        raise RuntimeError("The clock of processes is set by the Python package libfaketime: install it.")
    return {
        "LD_PRELOAD": str(Path(package.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@contextmanager
def _supervised(stack: Stack) -> Iterator[None]:
    over = threading.Event()

    def keep_all_up() -> None:
        while not over.wait(0.1):
            for program in list(stack.programs.values()):
                program.keep_up()

    supervisor = threading.Thread(target=keep_all_up, name="supervisor", daemon=True)
    supervisor.start()
    try:
        yield
    finally:
        over.set()
        supervisor.join()
        for program in reversed(stack.programs.values()):  # Redis last
            program.end()
        for proxy in filter(None, (stack.link, stack.web, stack.bucket_link, stack.hook_link)):
            proxy.close()
