"""Clients that send videos, insist until they are answered, and say what came of each."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

TRY_AGAIN = (408, 429, 503, 507)  # statuses; and 409 where an earlier request with the key is under way
TUS = {"Tus-Resumable": "1.0.0"}
PIECES = 3  # of an upload by tus
TERMINAL = ("succeeded", "failed", "cancelled")


class Refused(Exception):
    """The order is not taken; the argument is the problem document."""


@dataclass(frozen=True)
class Order:
    """A video, and what is to be made of it."""

    video: Path
    options: tuple[tuple[str, str], ...] = ()


@dataclass
class Client(threading.Thread):
    """Sends one order under one key, waits for the job's end and fetches the result.

    `fault` is what should not have been: an answer that nobody can act on, or no end at all.
    """

    url: str
    order: Order
    webhook: str = ""  #: where it is to be told
    patience: float = 240.0  #: seconds for everything
    cancel_after: float | None = None
    deletes: bool = False
    at_once: int = 1  #: how many times the order is sent at the same time
    in_pieces: bool = False  #: the video is sent by tus
    refusals: frozenset[str] = frozenset()  #: problems for which an order may be refused
    begun: set[str] = field(default_factory=set)  #: the kinds of requests that it or its friends have begun
    random: Random = field(default_factory=Random)

    job_id: str = ""
    status: str = ""
    sha256: str = ""
    error: dict[str, Any] | None = None
    gone: bool = False  #: it was deleted
    fault: str = ""

    def __post_init__(self) -> None:
        super().__init__(name="client", daemon=True)
        self._key = uuid.UUID(int=self.random.getrandbits(128)).hex
        self._content = self.order.video.read_bytes()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        self._end = time.monotonic() + self.patience
        try:
            with httpx.Client(
                base_url=self.url, timeout=10, limits=httpx.Limits(max_keepalive_connections=2)
            ) as http:
                self._http = http
                self._live()
        except Refused as refusal:
            self.status, self.error = "refused", refusal.args[0]
        except AssertionError as error:
            self.fault = str(error)

    @property
    def problem(self) -> str:
        """The kind of problem for which the order was refused, or failed; empty where there was none."""
        return _slug(self.error)

    def _live(self) -> None:
        self.begun.add("accept")
        self._submit(self._send_in_pieces() if self.in_pieces else "")
        if self.cancel_after is not None:
            time.sleep(self.cancel_after)
            self._ask("DELETE", self._job, accept=(200, 204, 404))
        job = self._wait()
        if job is None:
            self.gone = True
            assert self.cancel_after is not None, f"job {self.job_id} was accepted and is not known"
            return
        if self.status == "succeeded":
            result = self._ask("GET", f"{self._job}/result", accept=(200,))
            self.sha256 = hashlib.sha256(result.content).hexdigest()
            is_whole = self.sha256 == job["output"]["sha256"]
            assert is_whole, f"job {self.job_id}: the result is not what it is said to be"
        if self.deletes:
            self.begun.add("delete")
            self._ask("DELETE", self._job, accept=(204, 404))
            self.gone = True

    @property
    def _job(self) -> str:
        return f"/jobs/{self.job_id}"

    def _send_in_pieces(self) -> str:
        """The id of an upload by tus."""
        made = self._ask(
            "POST", "/uploads", accept=(201,), headers=TUS | {"Upload-Length": str(len(self._content))}
        )
        place = made.headers["Location"]
        while True:
            known = self._ask("HEAD", place, accept=(200,), headers=TUS)
            offset = int(known.headers["Upload-Offset"])
            if offset == len(self._content):
                return str(place.rpartition("/")[2])
            piece = self._content[offset : offset + len(self._content) // PIECES + 1]
            headers = TUS | {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
            headers["Upload-Checksum"] = f"sha256 {b64encode(hashlib.sha256(piece).digest()).decode()}"
            # 409: an earlier request, whose answer was lost, has brought the piece; 460: it came damaged.
            self._ask("PATCH", place, accept=(204, 409, 460), headers=headers, content=piece)

    def _submit(self, upload: str) -> None:
        query = dict(self.order.options) | ({"webhook_url": self.webhook} if self.webhook else {})
        request: dict[str, Any] = {
            "headers": {"Content-Type": "video/mp4", "Idempotency-Key": f'"{self._key}"'},
            "params": query | ({"upload": upload} if upload else {}),
            "content": b"" if upload else self._content,
        }
        ids: set[str] = set()
        errors: list[Exception] = []

        def send() -> None:
            try:
                ids.add(self._ask("POST", "/jobs", accept=(202,), **request).json()["id"])
            except (AssertionError, Refused) as error:
                errors.append(error)

        senders = [threading.Thread(target=send, daemon=True) for _ in range(self.at_once)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        if errors:
            raise errors[0]
        assert len(ids) == 1, f"one key made the jobs {sorted(ids)}"
        [self.job_id] = ids
        if upload:
            self._ask("DELETE", f"/uploads/{upload}", accept=(204, 404), headers=TUS)

    def _wait(self) -> dict[str, Any] | None:
        """The job at its end; None where it is not known any more."""
        while True:
            answer = self._ask("GET", self._job, accept=(200, 404), params={"wait": "5"})
            if answer.status_code == 404:
                return None
            job: dict[str, Any] = answer.json()
            self.status, self.error = job["status"], job["error"]
            if self.status in TERMINAL:
                return job

    def _ask(self, method: str, path: str, *, accept: tuple[int, ...], **request: Any) -> httpx.Response:
        """The answer, once it is one of those to accept. Broken connections and faults that pass are tried again."""
        last: object = None
        while time.monotonic() < self._end:
            try:
                answer = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                last = repr(error)
            else:
                if answer.status_code in accept:
                    return answer
                is_problem = answer.content and "problem" in answer.headers.get("content-type", "")
                last = slug = _slug(answer.json() if is_problem else None)
                if slug in self.refusals:
                    raise Refused(answer.json())
                may_pass = answer.status_code in TRY_AGAIN or slug == "idempotency-key-in-use"
                assert may_pass, (
                    f"{method} {path} of job {self.job_id}: {answer.status_code} {answer.text[:500]}"
                )
            time.sleep(0.3)
        raise AssertionError(f"{method} {path} of job {self.job_id}: no answer in time; the last was {last}")


def _slug(problem: Mapping[str, Any] | None) -> str:
    return str((problem or {}).get("type", "")).removeprefix("urn:dain:problem:")
