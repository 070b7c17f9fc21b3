"""What connections may hold up: unfinished headers, and how many connections there are."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.api import server
from service.settings import Settings
from tests.api import serve, until

HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Half: "
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(url: str, data: bytes = b"") -> socket.socket:
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port or 80), timeout=30)
    connection.sendall(data)
    return connection


def until_closed(connection: socket.socket) -> bytes:
    """All that the service sends before it closes the connection. The body of an answer may come after its head."""
    sent = b""
    try:
        while part := connection.recv(4096):
            sent += part
    except ConnectionResetError:
        pass
    return sent


class TestPatience:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)

    @pytest.mark.parametrize("data", [b"", HALF], ids=["nothing", "half of the headers"])
    def test_who_sends_no_whole_headers_is_let_go(self, data: bytes, url: str) -> None:
        with connect(url, data) as connection:
            assert until_closed(connection) == b""

    def test_a_second_request_has_no_more_time_than_the_first(self, url: str) -> None:
        with connect(url, WHOLE) as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            connection.sendall(HALF)
            until_closed(connection)

    def test_an_answer_that_takes_longer_is_waited_for(
        self, url: str, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = clip.read_bytes()
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with connect(url, head + body[:1000]) as connection:
            connection.settimeout(0.6)
            with pytest.raises(TimeoutError):  # two patiences long
                connection.recv(1)
            connection.settimeout(30)
            connection.sendall(body[1000:])
            assert connection.recv(4096).startswith(b"HTTP/1.1 202 ")


def test_endless_headers_are_refused(url: str) -> None:
    with connect(url, HALF + b"x" * 2 * server.HEAD_BYTES) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")


class TestManyConnections:
    @pytest.fixture
    def url(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        monkeypatch.setattr(server, "MOST_CONNECTIONS", 4)
        with serve(settings) as url:
            yield url

    def test_who_has_waited_longest_makes_room(self, url: str) -> None:
        idle = [connect(url, HALF) for _ in range(4)]
        with connect(url, WHOLE) as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert until_closed(idle[0]) == b""
        idle[3].sendall(b"x\r\n\r\n")
        assert idle[3].recv(4096).startswith(b"HTTP/1.1 200 ")
        for connection in idle:
            connection.close()

    def test_requests_in_hand_are_not_cut_off(self, url: str) -> None:
        head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        busy = [connect(url, head) for _ in range(4)]
        with connect(url) as connection:
            answer, _, body = until_closed(connection).partition(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in answer
            assert json.loads(body)["type"] == "urn:dain:problem:busy"
        busy[0].close()
        until(lambda: httpx.get(f"{url}/healthz", verify=False).is_success)
        for connection in busy:
            connection.close()


def test_there_are_descriptors_for_all_connections() -> None:
    code = "from service.api.server import most_connections; print(most_connections())"
    for limit, most in ((128, 7), (1024, 231), (1 << 16, 4096)):
        if limit > resource.getrlimit(resource.RLIMIT_NOFILE)[1]:
            continue
        command = ["prlimit", f"--nofile=64:{limit}", sys.executable, "-c", code]
        done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
        assert done.stdout == f"{most}\n"
