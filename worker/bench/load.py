"""`dain bench load`: how the API answers when many clients upload and ask at once.

A Redis and an API of its own are started, and no worker: jobs only queue up. Uploading clients send one clip after
another, each of them as soon as the last is answered, or at a common rate. Other clients ask about those jobs at a
fixed rate, and one asks /healthz. All clients are one process of plain sockets, so that they leave the cores to what is
measured; what they use is told.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil

from service.settings import Settings
from worker.bench.fleet import running_redis
from worker.bench.service_costs import MIB, Api

POLLERS = 20  # connections that share the polls
HEALTH_SECONDS = 0.1  # between looks at /healthz


@dataclass
class Answers:
    """The seconds that answers took; `others` counts those with another status than was hoped for."""

    seconds: list[float] = field(default_factory=list)
    others: dict[int, int] = field(default_factory=dict)

    def describe(self, name: str, during: float) -> str:
        if len(self.seconds) < 2:
            return f"{name:12} too few answers: {len(self.seconds)}; other statuses: {self.others}"
        hundredths = statistics.quantiles(self.seconds, n=100)
        p50, p95, p99, most = (
            1e3 * each for each in (*(hundredths[n - 1] for n in (50, 95, 99)), max(self.seconds))
        )
        return (
            f"{name:12} {len(self.seconds) / during:7.1f}/s   p50 {p50:6.0f}   p95 {p95:6.0f}   p99 {p99:6.0f}   "
            f"most {most:6.0f} ms   other statuses: {self.others or 'none'}"
        )


class Connection:
    """One connection that is kept alive."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes, wanted: int, answers: Answers) -> bytes:
        """Sends `request`, and returns the body of the answer."""
        begun = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
        body = await reader.readexactly(length)
        if status == wanted:
            answers.seconds.append(time.perf_counter() - begun)
        else:
            answers.others[status] = answers.others.get(status, 0) + 1
        if b"connection: close" in head:
            self.close()
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def request(method: str, path: str, body: bytes = b"") -> bytes:
    headers = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{headers}Content-Type: video/mp4\r\n\r\n".encode() + body


class Pace:
    """Moments at a common rate; as many as are asked for where there is none."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = time.perf_counter()

    async def moment(self) -> None:
        self._next = max(self._next + self._gap, time.perf_counter() - 1.0)  # what is late is not made up for
        await asyncio.sleep(self._next - time.perf_counter() if self._gap else 0)


async def run(port: int, clip: bytes, clients: int, rate: float, polls: float, seconds: float) -> list[str]:
    """Loads the API for `seconds`; gives a line for each kind of request."""
    posts, gets, healths = Answers(), Answers(), Answers()
    upload, health = request("POST", "/jobs", clip), request("GET", "/healthz")
    jobs: list[bytes] = []

    async def post(connection: Connection) -> None:
        body = await connection.ask(upload, 202, posts)
        jobs.append(request("GET", f"/jobs/{body[7:35].decode()}"))  # {"id":"…

    async def poll(connection: Connection) -> None:
        await connection.ask(jobs[len(gets.seconds) % len(jobs)], 200, gets)

    async def look(connection: Connection) -> None:
        await connection.ask(health, 200, healths)

    async def client(call: Callable[[Connection], Awaitable[None]], pace: Pace) -> None:
        with closing(Connection(port)) as connection:
            while True:
                await pace.moment()
                await call(connection)

    with closing(Connection(port)) as first:
        await post(first)
    await asyncio.sleep(1.0)
    posts.seconds.clear()
    uploads, asked = Pace(rate), Pace(polls)
    tasks = [asyncio.create_task(client(post, uploads)) for _ in range(clients)]
    tasks += [asyncio.create_task(client(poll, asked)) for _ in range(POLLERS if polls else 0)]
    tasks += [asyncio.create_task(client(look, Pace(1 / HEALTH_SECONDS)))]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    for task in done:
        await task  # which raises what ended it
    await asyncio.gather(*tasks, return_exceptions=True)
    named = (("POST /jobs", posts), ("GET /jobs/ID", gets), ("GET /healthz", healths))
    return [answers.describe(name, seconds) for name, answers in named]


@click.command()
@click.argument("clip", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--clients", default=50, show_default=True, help="Clients that upload.")
@click.option(
    "--rate", default=0.0, help="Uploads a second of all clients.  [default: as many as are answered]"
)
@click.option("--polls", default=500.0, show_default=True, help="Looks at a job a second.")
@click.option("--mib", default=1.0, show_default=True, help="Size that the clip is padded to.")
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--port", default=8124, show_default=True)
def load(clip: Path, clients: int, rate: float, polls: float, mib: float, seconds: float, port: int) -> None:
    """Upload CLIP, a short MP4, from many clients at once, and print how long the answers take."""
    body = clip.read_bytes()
    padding = max(int(mib * MIB) - len(body) - 8, 0)
    body += (padding + 8).to_bytes(4, "big") + b"free" + bytes(padding)
    with tempfile.TemporaryDirectory(prefix="dain-") as name, running_redis(Path(name), "always") as url:
        os.environ["DAIN_MAX_QUEUED_JOBS"] = "1000000"
        api = Api(Settings(state_dir=Path(name) / "state", redis_url=url), port)
        try:
            used, own = api.cpu(), time.process_time()
            for line in asyncio.run(run(port, body, clients, rate, polls, seconds)):
                print(line)
            own = time.process_time() - own
            print(
                f"cores in use: API and probers {(api.cpu() - used) / seconds:.2f}, clients {own / seconds:.2f}"
            )
            print(f"load of the machine: {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores")
        finally:
            api.close()
