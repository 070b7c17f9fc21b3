"""A TCP proxy in front of one server, which can be told to misbehave while connections are open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BLOCK_BYTES = 2**16
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Listens on `port` of this machine and passes on to `upstream`, a Unix socket or a port of this machine.

    Each fault lasts as long as its context. It may be started from any thread.
    """

    def __init__(self, upstream: Path | int) -> None:
        self._upstream = upstream
        self._refuses = False
        self._delay = 0.0  # seconds before each block
        self._rate = 0.0  # bytes a second; 0 is no limit
        self._holds = False  # what arrives is kept until this ends
        self._fails = False
        self._most = 0  # bytes of a connection, after which it breaks; 0 is no limit
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def reset(self) -> None:
        """Break every connection that is open."""
        self._loop.call_soon_threadsafe(lambda: [connection.abort() for connection in list(self._open)])

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Break every connection, and refuse new ones."""
        self._refuses = True
        self.reset()
        yield
        self._refuses = False

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        self._delay = seconds
        yield
        self._delay = 0.0

    @contextmanager
    def throttled(self, bytes_per_second: float) -> Iterator[None]:
        self._rate = bytes_per_second
        yield
        self._rate = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Pass nothing on, and say nothing: a black hole. Afterwards all that was sent arrives."""
        self._holds = True
        yield
        self._holds = False

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Answer every HTTP request with 500, and pass none on."""
        self._fails = True
        self.reset()
        yield
        self._fails = False

    @contextmanager
    def breaking(self, bytes_passed: int) -> Iterator[None]:
        """Break each connection after so many bytes, both ways together."""
        self._most = bytes_passed
        yield
        self._most = 0

    @contextmanager
    def half_closed(self) -> Iterator[None]:
        """Close the server's half of every connection. The client's half stays open, and nobody answers there."""
        self._loop.call_soon_threadsafe(lambda: [connection.half_close() for connection in list(self._open)])
        yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        if self._fails:
            await reader.read(BLOCK_BYTES)
            writer.write(FAILURE)
            writer.close()
            return
        try:
            if isinstance(self._upstream, Path):
                there = await asyncio.open_unix_connection(str(self._upstream))
            else:
                there = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, there[1])
        self._open.add(connection)
        try:
            await asyncio.gather(
                self._pass_on(reader, there[1], connection), self._pass_on(there[0], writer, connection)
            )
        finally:
            self._open.discard(connection)
            connection.abort()

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        with suppress(OSError):
            while block := await source.read(BLOCK_BYTES):
                await asyncio.sleep(self._delay + (len(block) / self._rate if self._rate else 0.0))
                while self._holds:
                    await asyncio.sleep(0.05)
                if connection.is_half_closed:
                    continue
                connection.bytes_passed += len(block)
                if self._most and connection.bytes_passed > self._most:
                    connection.abort()
                    return
                sink.write(block)
                await sink.drain()
            if not connection.is_half_closed and not sink.is_closing():
                sink.write_eof()


class _Connection:
    """The two ways out of the proxy that belong together."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client, self._server = client, server
        self.is_half_closed = False
        self.bytes_passed = 0

    def abort(self) -> None:
        self._client.transport.abort()
        self._server.transport.abort()

    def half_close(self) -> None:
        self.is_half_closed = True
        self._server.transport.abort()
