"""Malformed requests, byte by byte, as no HTTP library would send them."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from random import Random

PAUSE = 0.5  # seconds after which a request counts as not whole
PATIENCE = 20.0
BOUNDARY = b"b0undary"
HEADERS = (
    b"Content-Length", b"Transfer-Encoding", b"Content-Type", b"Content-Disposition", b"Idempotency-Key", b"Host",
    b"Range", b"If-None-Match", b"If-Range", b"Authorization", b"Origin", b"Expect", b"Connection", b"Accept",
    b"Last-Event-ID", b"X-Forwarded-For", b"Cookie", b"Sec-Fetch-Site", b"Upgrade", b"Tus-Resumable", b"Upload-Length",
)  # fmt: skip
VALUES = (
    b"", b" ", b"0", b"-1", b"1e9", b"99999999999999999999", b"+1", b"0x10", b"chunked", b"chunked, chunked", b"gzip",
    b"multipart/form-data", b"multipart/form-data; boundary=", b'multipart/form-data; boundary="', b"video/mp4",
    b"multipart/form-data; boundary=" + b"x" * 500, b'form-data; name="file"; filename*=utf-8\'\'%ff%00%2e%2e%2f',
    b"form-data; filename*" + b"9" * 5000 + b"=x", b'attachment; filename="\\"', b"bytes=0-", b"bytes=-0", b"bytes=9-1",
    b"bytes=" + b"0-1," * 200, b'"', b'"a', b"a" * 60_000, b"\xff\xfe", b"\x00", b"a\tb", b"100-continue", b"close",
    b"websocket", b"Bearer " + b"\xc3\xa9" * 100, b"Bearer", b"evil.example", b"[::1", b"127.0.0.1:99999", b"*", b"NaN",
)  # fmt: skip
PATHS = (
    b"/jobs", b"/jobs/", b"/jobs/0", b"/jobs/%00", b"/jobs/" + b"a" * 28, b"/jobs/" + b"a" * 28 + b"/result",
    b"/jobs?limit=1e9", b"/jobs?cursor=%ff", b"/jobs?status=unknown", b"/jobs?factor=%00", b"/jobs?wait=1e9",
    b"/events", b"/workers", b"/metrics", b"/readyz", b"/healthz", b"/docs", b"/openapi.json", b"/uploads",
    b"/uploads/0", b"*",
    b"//jobs", b"/../etc/passwd", b"/jobs?" + b"a=b&" * 5000, b"/\xff", b"http://evil.example/jobs", b"",
)  # fmt: skip
METHODS = (
    b"GET",
    b"POST",
    b"POST",
    b"POST",
    b"DELETE",
    b"HEAD",
    b"PUT",
    b"PATCH",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"\x16\x03\x01",
)
PART = b'Content-Disposition: form-data; name="file"; filename="a.mp4"\r\n'


def requests(random: Random) -> Iterator[bytes]:
    """Requests without end, each wrong in one place or several."""
    while True:
        method = random.choice(METHODS) if random.random() < 0.2 else b"POST"
        path = random.choice(PATHS) if random.random() < 0.3 else b"/jobs"
        head, body = [b"%s %s HTTP/1.1" % (method, path), b"Host: localhost"], _multipart(random)
        if random.random() < 0.8:
            head.append(b"Content-Type: multipart/form-data; boundary=" + BOUNDARY)
        if random.random() < 0.7:
            head.append(b"Content-Length: %d" % (len(body) + random.choice((0, 0, 0, 0, 5, -5))))
        else:
            head.append(b"Transfer-Encoding: chunked")
            body = _chunked(body, random)
        for _ in range(random.choice((0, 0, 0, 1, 1, 2, 50))):
            head.append(random.choice(HEADERS) + b": " + random.choice(VALUES))
        line_end = b"\n" if random.random() < 0.05 else b"\r\n"
        request = line_end.join(head) + 2 * line_end + body
        yield _damaged(request, random) if random.random() < 0.2 else request


def answer_to(request: bytes, port: int) -> tuple[int, bool]:
    """The status of the answer, and whether it is a problem document; 0 where the connection is closed without one.

    Raises TimeoutError where there is no answer although no more is to come.
    """
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(request)
            if not select.select([connection], [], [], PAUSE)[0]:  # it waits for the rest
                connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except ConnectionError:
            pass
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0
    return status, b"application/problem+json" in answer


def _multipart(random: Random) -> bytes:
    parts = []
    for _ in range(random.choice((0, 1, 1, 2, 40))):
        lines = [PART] if random.random() < 0.6 else []
        if random.random() < 0.4:
            lines.append(b"%s: %s\r\n" % (random.choice(HEADERS), random.choice(VALUES)))
        lines.append(random.choice((b"\r\n", b"\r\n", b"\n", b"")))
        content = random.randbytes(random.choice((0, 10, 3000)))
        parts.append(b"--" + BOUNDARY + b"\r\n" + b"".join(lines) + content + b"\r\n")
    end = random.choice((b"--" + BOUNDARY + b"--\r\n", b"--" + BOUNDARY, b""))
    return random.choice((b"", b"preamble")) + b"".join(parts) + end


def _chunked(body: bytes, random: Random) -> bytes:
    size = random.choice((b"%x" % len(body),) * 3 + (b"-1", b"zz", b"f" * 20, b"%x;a=b" % len(body)))
    return size + b"\r\n" + body + b"\r\n" + random.choice((b"0\r\n\r\n", b"0\r\n\r\n", b""))


def _damaged(request: bytes, random: Random) -> bytes:
    damaged = bytearray(request)
    for _ in range(random.choice((1, 3, 20))):
        damaged[random.randrange(len(damaged))] = random.randrange(256)
    return bytes(damaged[: random.randrange(1, len(damaged) + 1)] if random.random() < 0.3 else damaged)
