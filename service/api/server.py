"""The HTTP server: uvicorn, with an end to what a connection can hold up.

A client that opens connections and never finishes a request's headers costs descriptors and memory. So a connection has
`HEAD_SECONDS` for the headers, and about `HEAD_BYTES`: what came with their end is not counted. There is a most of
connections, too. Beyond that the one goes that has waited longest for a request, since a client that means well sends
its headers at once. A client that takes nothing of its answer is let go, too. The body of an upload has limits of its
own; see `service.api.uploads`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.jobs.problems import Problem

log = logging.getLogger(__name__)

GRACE_SECONDS = 20  # after SIGTERM, for requests in hand; a client sends an upload again that is cut off then
HEAD_SECONDS = 20.0  # from the connection, or the last answer, to the end of the next request's headers
HEAD_BYTES = 1 << 16
SEND_SECONDS = 60.0  # that a client may take nothing of what is sent to it
MOST_CONNECTIONS = 4096
OTHER_DESCRIPTORS = 100  # of the process: Redis, logs, the prober
DESCRIPTORS = 4  # of a connection with an upload: socket, file, lock, pipe


class Server(uvicorn.Server):
    """Ends what waits for events as soon as it is to stop: uvicorn first waits for every request in hand."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.end_waiting()
        await super().shutdown(sockets)

    def end_waiting(self) -> None:
        """Ends long polls and streams of events."""
        assert isinstance(self.config.app, FastAPI)
        self.config.app.state.service.feed.close()


class Config(uvicorn.Config):
    """How `app` is served. `options` are uvicorn's: `host`, `port` …"""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        ours = {"http": Connection, "log_config": None, "access_log": False, "server_header": False}
        super().__init__(app, **{"timeout_graceful_shutdown": GRACE_SECONDS, **ours, **options})
        self.most_connections = most_connections()
        self.waiting: dict[
            Connection, None
        ] = {}  #: connections without a request, in the order of their arrival


def listeners(config: Config, metrics_port: int | None) -> list[socket.socket] | None:
    """What the server listens on where there is a port for metrics, too; None: what `config` says."""
    if metrics_port is None:
        return None
    metrics = uvicorn.Config("", host=config.host, port=metrics_port, log_config=None)
    return [config.bind_socket(), metrics.bind_socket()]


class Connection(HttpToolsProtocol):
    """A connection of a client, which closes itself where a request does not come to the end of its headers."""

    config: Config
    _end_of_patience: asyncio.TimerHandle
    _end_of_sending: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > self.config.most_connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        if self in self.config.waiting:
            self._head_bytes += len(data)
        super().data_received(data)
        if self in self.config.waiting and self._head_bytes > HEAD_BYTES:
            self._refuse(
                Problem("headers-too-large", f"The request's headers have more than {HEAD_BYTES} bytes.")
            )

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # the client has sent no further request yet
            self._await_request()

    def pause_writing(self) -> None:
        self._end_of_sending = self.loop.call_later(SEND_SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._end_of_sending:
            self._end_of_sending.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._end_of_sending:
            self._end_of_sending.cancel()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self._head_bytes = 0
        self._end_of_patience = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        self.config.waiting[self] = None

    def _stop_waiting(self) -> None:
        self._end_of_patience.cancel()
        self.config.waiting.pop(self, None)

    def _make_room(self) -> None:
        oldest = next(iter(self.config.waiting))
        if oldest is self:
            self._refuse(
                Problem("busy", "The service has as many connections as it can; try again in 5 seconds.")
            )
        else:
            oldest._stop_waiting()
            oldest.transport.abort()

    def _refuse(self, problem: Problem) -> None:
        """Answers with `problem`, outside of any request, and closes the connection."""
        self._stop_waiting()
        body = json.dumps(problem.as_dict()).encode()
        head = (
            f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def most_connections() -> int:
    """As many connections as this process has descriptors for; its limit is raised as far as it may be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(min((most - OTHER_DESCRIPTORS) // DESCRIPTORS, MOST_CONNECTIONS), 1)
