"""Whom the service tells of its jobs: a webhook that keeps what it gets."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

SECRET = "whsec_" + "c2VjcmV0" * 4  # of 24 bytes


@dataclass(frozen=True)
class Message:
    """One delivery. The same `id` may come again."""

    id: str
    type: str
    job: str


class Receiver:
    """Answers each message with 204; `messages` are those whose signature is good, `forged` counts the others."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.forged = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(body, {name.lower(): value for name, value in self.headers.items()})
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)
        self._thread.start()

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        """Keep a message where its signature is good."""
        try:
            content = Webhook(SECRET).verify(body, headers)
        except WebhookVerificationError:
            self.forged += 1
        else:
            self.messages.append(Message(headers["webhook-id"], content["type"], content["data"]["id"]))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
