"""Clients that send videos, insist until they are answered, and say what came of each."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

TRY_AGAIN = (408, 429, 503, 507)  # statuses; and 409 where an earlier request with the key is under way
TERMINAL = ("succeeded", "failed", "cancelled")


class Refused(Exception):
    """The order is not taken; the argument is the problem document."""


class Busy:
    """How many requests of each kind are under way."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def at(self, moment: str) -> Iterator[None]:
        with self._lock:
            self._counts[moment] += 1
        try:
            yield
        finally:
            with self._lock:
                self._counts[moment] -= 1

    def is_at(self, moment: str) -> bool:
        return self._counts[moment] > 0


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
    refusals: frozenset[str] = frozenset()  #: problems for which an order may be refused
    busy: Busy = field(default_factory=Busy)
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
        self._submit()
        if self.cancel_after is not None:
            time.sleep(self.cancel_after)
            self._ask("DELETE", accept=(200, 204, 404))
        while (answer := self._ask("GET", accept=(200, 404))).status_code == 200:
            job = answer.json()
            self.status, self.error = job["status"], job["error"]
            if self.status in TERMINAL:
                break
            time.sleep(0.2)
        else:
            self.gone = True
            assert self.cancel_after is not None, f"job {self.job_id} was accepted and is not known"
            return
        if self.status == "succeeded":
            result = self._ask("GET", "/result", accept=(200,))
            self.sha256 = hashlib.sha256(result.content).hexdigest()
            assert self.sha256 == job["output"]["sha256"], (
                f"job {self.job_id}: the result is not what it is said to be"
            )
        if self.deletes:
            with self.busy.at("delete"):
                self._ask("DELETE", accept=(204, 404))
            self.gone = True

    def _submit(self) -> None:
        ids: set[str] = set()
        errors: list[Exception] = []

        def send() -> None:
            try:
                answer = self._ask("POST", accept=(202,))
                ids.add(answer.json()["id"])
            except (AssertionError, Refused) as error:
                errors.append(error)

        senders = [threading.Thread(target=send, daemon=True) for _ in range(self.at_once)]
        with self.busy.at("accept"):
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
        if errors:
            raise errors[0]
        assert len(ids) == 1, f"one key made the jobs {sorted(ids)}"
        [self.job_id] = ids

    def _ask(self, method: str, path: str = "", *, accept: tuple[int, ...]) -> httpx.Response:
        """The answer, once it is one of those to accept. Broken connections and faults that pass are tried again."""
        last: object = None
        while time.monotonic() < self._end:
            try:
                answer = self._request(method, path)
            except httpx.TransportError as error:
                last = repr(error)
            else:
                if answer.status_code in accept:
                    return answer
                slug = _slug(answer.json() if "json" in answer.headers.get("content-type", "") else None)
                if slug in self.refusals:
                    raise Refused(answer.json())
                assert answer.status_code in TRY_AGAIN or slug == "idempotency-key-in-use", (
                    f"{method} {path} of job {self.job_id}: {answer.status_code} {answer.text[:500]}"
                )
                last = slug
            time.sleep(0.3)
        raise AssertionError(
            f"{method} {path} of job {self.job_id or 'none'}: no answer in time; the last was {last}"
        )

    def _request(self, method: str, path: str) -> httpx.Response:
        if method == "POST":
            headers = {"Content-Type": "video/mp4", "Idempotency-Key": f'"{self._key}"'}
            query = dict(self.order.options) | ({"webhook_url": self.webhook} if self.webhook else {})
            return self._http.post("/jobs", content=self._content, params=query, headers=headers)
        return self._http.request(method, f"/jobs/{self.job_id}{path}")


def _slug(problem: Mapping[str, Any] | None) -> str:
    return str((problem or {}).get("type", "")).removeprefix("urn:dain:problem:")
