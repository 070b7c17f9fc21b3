"""A receiver of webhooks, as a user would write one: a real HTTP server that verifies what it gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

SECRET = "whsec_" + "Zm9ydHkgYnl0ZXMgb2YgYSBzZWNyZXQgb2YgdGhlIHRlc3Rz"


@dataclass
class Receiver:
    """What has arrived. `statuses` are answered one after the other, the last for ever; None: there is no answer."""

    url: str = ""
    secret: str = SECRET
    statuses: list[int | None] = field(default_factory=lambda: [204])
    headers: list[dict[str, str]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers in self.headers]

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]

    def receive(self, headers: dict[str, str], body: bytes) -> int | None:
        try:
            message = Webhook(self.secret).verify(body, headers)
        except WebhookVerificationError:
            return 401
        self.headers.append(headers)
        self.messages.append(message)
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@contextmanager
def receiver(*statuses: int | None, secret: str = SECRET) -> Iterator[Receiver]:
    """A server on 127.0.0.1 that answers with `statuses`."""
    inbox = Receiver(secret=secret)
    if statuses:
        inbox.statuses = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = inbox.receive({name.lower(): value for name, value in self.headers.items()}, body)
            if status is None:
                inbox.done.wait(30)
                return
            self.send_response(status)
            self.send_header("Location", inbox.url)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        inbox.url = f"http://127.0.0.1:{server.server_address[1]}/hook?token=t0ken"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield inbox
        finally:
            inbox.done.set()
            server.shutdown()
