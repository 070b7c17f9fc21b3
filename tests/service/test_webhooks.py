"""The sender, with real servers that receive, and what the service says about its deliveries."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from service.egress import Egress
from service.jobs.keys import Key, open_keys
from service.jobs.machine import Jobs
from service.jobs.names import PLAN, job_key
from service.jobs.options import Handling, Options
from service.jobs.problems import Problem
from service.jobs.records import State
from service.jobs.webhooks import DESTINATIONS, Deliveries, secret_of
from service.jobs.workers import worker_key
from service.settings import Settings
from service.webhooks import Sender, sign
from tests.api import assert_problem, serve, until
from tests.receiver import SECRET, receiver

OTHER_SECRET = "whsec_" + "c29tZSBvdGhlciBmb3J0eSBieXRlcyBvZiBzZWNyZXQh"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(
        **{
            **settings.model_dump(),
            "webhook_secret": SECRET,
            "egress_allow": "127.0.0.1",
        }
    )


@pytest.fixture
def deliveries(redis: Redis) -> Deliveries:
    return Deliveries(redis)


@contextmanager
def sending(
    redis: Redis, *, allow: str = "127.0.0.1", secrets: tuple[str, ...] = (SECRET,), **arguments: Any
) -> Iterator[None]:
    """A sender at work in a thread."""
    ready, handles = threading.Event(), []

    async def run() -> None:
        stop = asyncio.Event()
        handles.append((asyncio.get_running_loop(), stop))
        async with Egress([allow]).client() as client:
            ready.set()
            await Sender(Deliveries(redis), client, secrets, **arguments).run(stop)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield
    finally:
        loop, stop = handles[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture
def submit(jobs: Jobs, redis: Redis) -> Callable[..., str]:
    redis.set(worker_key("ann"), "alive")

    def submit(url: str, *events: str) -> str:
        job_id = jobs.new_id()
        asked = list(events) or ["job.started", "job.succeeded", "job.failed", "job.cancelled"]
        handling = Handling(webhook_url=url, webhook_events=asked, reference="order 7")
        jobs.create(
            job_id,
            source="uploads/x",
            filename="a.mp4",
            options=Options(),
            handling=handling,
            input={"frames": 3},
        )
        return job_id

    return submit


def outcomes(deliveries: Deliveries, job_id: str) -> list[str]:
    return [attempt.outcome for attempt in reversed(deliveries.log(job_id))]


def test_each_event_arrives_once_signed_with_the_job_as_it_was(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    with receiver() as inbox, sending(redis):
        job_id = submit(inbox.url)
        jobs.claim(job_id, PLAN, "ann")
        until(lambda: len(inbox.messages) == 1)
        jobs.finish(job_id, State.FAILED, error=Problem("damaged-video", "Frame 3 is damaged."))
        jobs.delete(job_id)
        until(lambda: not redis.exists(DESTINATIONS))
    started, failed = inbox.messages
    assert (started["type"], started["data"]["status"]) == ("job.started", "running")
    assert (failed["type"], failed["data"]["status"]) == ("job.failed", "failed")
    assert failed["data"]["id"] == job_id and failed["data"]["reference"] == "order 7"
    assert failed["data"]["error"]["type"] == "urn:dain:problem:damaged-video"
    assert failed["timestamp"].endswith("+00:00")
    assert len(set(inbox.ids)) == 2


def test_a_message_is_the_same_in_every_attempt(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    with receiver(500, 302, 503, 200) as inbox, sending(redis, pauses=(0.01, 0.01, 0.01)):
        job_id = submit(inbox.url, "job.cancelled")
        jobs.cancel(job_id)
        until(lambda: outcomes(deliveries, job_id) == ["failed", "failed", "failed", "delivered"])
    assert len(set(inbox.ids)) == 1 and len(inbox.ids) == 4
    assert all(message == inbox.messages[0] for message in inbox.messages)
    attempts = list(reversed(deliveries.log(job_id)))
    assert [attempt.status for attempt in attempts] == [500, 302, 503, 200]
    assert "redirect" in str(attempts[1].error)
    assert not redis.keys("dain:webhook:*")


def test_what_never_succeeds_is_given_up_and_said(
    redis: Redis,
    jobs: Jobs,
    deliveries: Deliveries,
    submit: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with receiver(500) as inbox, sending(redis, pauses=(0.01,)):
        job_id = submit(inbox.url, "job.cancelled")
        jobs.cancel(job_id)
        until(lambda: outcomes(deliveries, job_id) == ["failed", "given_up"])
    assert not redis.keys("dain:webhook:*")
    assert "given_up" in caplog.text
    assert "t0ken" not in caplog.text and SECRET not in caplog.text


def test_410_ends_the_webhook_of_the_job(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    with receiver(410) as inbox, sending(redis):
        job_id = submit(inbox.url)
        jobs.claim(job_id, PLAN, "ann")
        until(lambda: outcomes(deliveries, job_id) == ["given_up"])
        jobs.cancel(job_id)
    assert deliveries.is_gone(job_id) and not redis.exists(DESTINATIONS)
    assert inbox.types == ["job.started"]


def test_what_was_queued_before_a_410_is_not_sent(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    with receiver() as inbox:
        job_id = submit(inbox.url)
        jobs.cancel(job_id)
        redis.hset(job_key(job_id), "webhook_gone", 1)
        with sending(redis):
            until(lambda: outcomes(deliveries, job_id) == ["given_up"])
    assert not inbox.messages


def test_a_server_that_never_answers_holds_up_nobody_else(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    with receiver(None) as hung, receiver() as inbox, sending(redis, answer_seconds=20):
        for _ in range(20):
            jobs.cancel(submit(hung.url))
        until(lambda: len(hung.messages) >= 4)
        for _ in range(20):
            jobs.cancel(submit(inbox.url))
        until(lambda: len(inbox.messages) == 20)
        assert len(hung.messages) == 4
        hung.done.set()


def test_a_server_that_does_not_answer_in_time_is_asked_again(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    with receiver(None, 200) as inbox, sending(redis, answer_seconds=0.2, pauses=(0.01,)):
        job_id = submit(inbox.url, "job.cancelled")
        jobs.cancel(job_id)
        until(lambda: outcomes(deliveries, job_id) == ["failed", "delivered"])
    assert "no answer" in str(deliveries.log(job_id)[1].error)


def test_an_answer_that_never_ends_its_headers_is_none(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    stop = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stop.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener, sending(redis, answer_seconds=0.4, pauses=()):
        threading.Thread(target=drip, args=(listener,)).start()
        job_id = submit(f"http://127.0.0.1:{listener.getsockname()[1]}/", "job.cancelled")
        jobs.cancel(job_id)
        until(lambda: outcomes(deliveries, job_id) == ["given_up"])
        stop.set()
    assert "no answer" in str(deliveries.log(job_id)[0].error)


def test_an_address_that_is_not_public_gets_nothing(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    with receiver() as inbox, sending(redis, allow="192.0.2.1", pauses=()):
        job_id = submit(inbox.url, "job.cancelled")
        jobs.cancel(job_id)
        until(lambda: outcomes(deliveries, job_id) == ["given_up"])
    assert not inbox.messages
    assert "not public" in str(deliveries.log(job_id)[0].error)


def test_old_news_of_progress_are_not_sent(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    with receiver(500) as inbox:
        job_id = submit(inbox.url, "job.progressed")
        jobs.complete(jobs.claim(job_id, PLAN, "ann"), job={"segments_total": 1, "frames_total": 100})
        (key,) = redis.keys("dain:webhook:*")
        event = json.loads(redis.hget(key, "event") or "")
        redis.hset(key, "event", json.dumps(event | {"time": event["time"] - 61}))
        redis.hdel(job_key(job_id), "webhook_progressed_at")
        jobs.report(jobs.claim(job_id, "segment-0", "ann"), 50)
        with sending(redis):
            until(lambda: outcomes(deliveries, job_id) == ["given_up", "given_up"])
    (progress,) = (message["data"]["progress"] for message in inbox.messages)
    assert (progress["frames_done"], progress["fraction"]) == (50, 0.5)


def test_both_secrets_sign_while_one_takes_over(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    secrets = (OTHER_SECRET, SECRET)
    with receiver() as old, receiver(secret=OTHER_SECRET) as new, sending(redis, secrets=secrets):
        for inbox in (old, new):
            jobs.cancel(submit(inbox.url))
        until(lambda: not redis.exists(DESTINATIONS))
    assert len(old.messages) == len(new.messages) == 1


def test_a_receiver_refuses_what_is_old_or_from_the_future() -> None:
    headers = sign([SECRET], "msg_1", "{}")
    assert Webhook(SECRET).verify("{}", headers) == {}
    for skew in (-301, 301):
        skewed = headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + skew)}
        with pytest.raises(WebhookVerificationError, match="timestamp too"):
            Webhook(SECRET).verify("{}", skewed)
    with pytest.raises(WebhookVerificationError, match="signature"):
        Webhook(OTHER_SECRET).verify("{}", headers)


def test_the_receiver_of_the_documentation_takes_messages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    code = page[page.index("    import os\n") : page.index("- **Answer within")]
    monkeypatch.setenv("SECRET", SECRET)
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code), names)
    body = '{"type": "job.succeeded"}'

    async def post(secret: str, message: str) -> int:
        transport = httpx.ASGITransport(app=names["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as http:
            headers = sign([secret], message, body)
            return (await http.post("/dain", content=body, headers=headers)).status_code

    sent = [(SECRET, "msg_1"), (SECRET, "msg_1"), (OTHER_SECRET, "msg_2")]
    assert [asyncio.run(post(*each)) for each in sent] == [204, 204, 401]
    assert names["seen"] == {"msg_1": {"type": "job.succeeded"}}


def test_two_senders_send_each_message_once(
    redis: Redis, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    with receiver() as inbox, sending(redis), sending(redis):
        for _ in range(30):
            jobs.cancel(submit(inbox.url))
        until(lambda: not redis.exists(DESTINATIONS))
    assert len(inbox.ids) == len(set(inbox.ids)) == 30


def test_a_sender_that_is_killed_loses_nothing(
    redis: Redis, settings: Settings, jobs: Jobs, deliveries: Deliveries, submit: Callable[..., str]
) -> None:
    environment = os.environ | {
        "DAIN_REDIS_URL": str(settings.redis_url),
        "DAIN_WEBHOOK_SECRET": SECRET,
        "DAIN_EGRESS_ALLOW": "127.0.0.1",
    }
    with receiver(None, 200) as inbox:
        job_id = submit(inbox.url, "job.cancelled")
        with subprocess.Popen([sys.executable, "-m", "service.webhooks"], env=environment) as process:
            jobs.cancel(job_id)
            until(lambda: inbox.messages)
            process.send_signal(signal.SIGKILL)
        (lent,) = redis.zrange(f"{DESTINATIONS}:to:default {inbox.url.split('/hook')[0]}", 0, -1)
        redis.set("dain:clock", time.time() + 3600)  # a clock that is set back ends its loan
        with subprocess.Popen([sys.executable, "-m", "service.webhooks"], env=environment) as process:
            until(lambda: outcomes(deliveries, job_id) == ["delivered"])
            process.terminate()
        assert process.returncode == 0
    assert len(set(inbox.ids)) == 1 and lent.decode() in inbox.ids[0]


# -- the API ------------------------------------------------------------------------------------------


def post(http: httpx.Client, clip: Path, **options: str) -> httpx.Response:
    return http.post(
        "/jobs", params=options, content=clip.read_bytes(), headers={"Content-Type": "video/mp4"}
    )


def test_a_job_shows_its_webhook_and_what_became_of_its_messages(
    http: httpx.Client, redis: Redis, jobs: Jobs, clip: Path
) -> None:
    with receiver(500, 200) as inbox, sending(redis, pauses=(0.01,)):
        job = post(http, clip, webhook_url=inbox.url, webhook_events="job.succeeded, job.cancelled").json()
        assert job["webhook_url"] == inbox.url
        assert job["webhook_events"] == ["job.succeeded", "job.cancelled"]
        log = job["links"]["deliveries"]
        assert http.get(log).json() == {"attempts": []}
        http.delete(job["links"]["self"])
        until(lambda: len(http.get(log).json()["attempts"]) == 2)
        delivered, failed = http.get(log).json()["attempts"]
    assert (delivered["outcome"], delivered["status"], delivered["attempt"]) == ("delivered", 200, 2)
    assert (failed["outcome"], failed["status"], failed["type"]) == ("failed", 500, "job.cancelled")
    assert failed["next_attempt_at"] > failed["time"]
    assert SECRET not in json.dumps([delivered, failed])


def test_without_a_webhook_there_are_no_deliveries(http: httpx.Client, clip: Path) -> None:
    job = post(http, clip).json()
    assert job["webhook_url"] is None and job["webhook_events"] == []
    assert "deliveries" not in job["links"]
    assert http.get(f"/jobs/{job['id']}/deliveries").json() == {"attempts": []}


@pytest.mark.parametrize(
    ("webhook", "reason"),
    [
        ("https://10.0.0.1/", "not public"),
        ("https://[::1]/", "not public"),
        ("http://1.1.1.1/", "https://"),
        ("ftp://example.com/", "https://"),
        ("https://xn--a/x", "no URL"),
        ("https://127.0.0.1:99999/x", "no URL"),
        ("https://me:s3cret@example.com/", "leave it out"),
        ("nonsense", "https://"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused(
    http: httpx.Client, clip: Path, debris: Callable[[], list[str]], webhook: str, reason: str
) -> None:
    problem = assert_problem(post(http, clip, webhook_url=webhook), 422, "webhook-refused")
    assert reason in problem["detail"] and "s3cret" not in problem["detail"]
    assert not debris()


def test_a_key_has_a_webhook_for_jobs_that_name_none(
    http: httpx.Client, redis: Redis, settings: Settings, clip: Path
) -> None:
    own = secret_of("ann", SECRET)
    with receiver(secret=own) as default, receiver(secret=own) as named, sending(redis):
        key, token = Key.new("ann", {"submit", "read"}, webhook_url=default.url)
        open_keys(settings).put(key)
        http.headers["Authorization"] = f"Bearer {token}"
        for asked in ({}, {"webhook_url": named.url}):
            job = post(http, clip, **asked).json()
            assert job["webhook_url"] == asked.get("webhook_url", default.url)
            assert "job.cancelled" in job["webhook_events"]
            http.delete(job["links"]["self"])
        until(lambda: not redis.exists(DESTINATIONS))
    assert default.types == named.types == ["job.cancelled"]


@pytest.mark.parametrize(
    ("secret", "url", "reason"),
    [(SECRET, "http://10.9.9.9/x", "DAIN_EGRESS_ALLOW"), ("", "https://1.1.1.1/x", "DAIN_WEBHOOK_SECRET")],
)
def test_a_webhook_of_the_key_is_not_the_callers_fault(
    settings: Settings, clip: Path, secret: str, url: str, reason: str
) -> None:
    key, token = Key.new("ann", {"submit", "read"}, webhook_url=url)
    open_keys(settings).put(key)
    settings = Settings(**{**settings.model_dump(), "webhook_secret": secret})
    headers = {"Authorization": f"Bearer {token}"}
    with serve(settings) as base, httpx.Client(base_url=base, timeout=30, headers=headers) as http:
        detail = assert_problem(post(http, clip), 422, "webhook-refused")["detail"]
    assert detail.startswith("The webhook of your key") and reason in detail
    assert "Tell whoever runs the service" in detail and url not in detail


def test_events_without_a_webhook_are_refused(http: httpx.Client, clip: Path) -> None:
    problem = assert_problem(post(http, clip, webhook_events="job.failed"), 422, "invalid-option")
    assert "give webhook_url" in problem["detail"]


def test_a_webhook_in_the_query_is_refused_before_the_video_is_sent(http: httpx.Client) -> None:
    headers = {"Expect": "100-continue", "Content-Type": "video/mp4", "Content-Length": "100000000"}
    with socket.create_connection((http.base_url.host, http.base_url.port or 80), 10) as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        target = "/jobs?webhook_url=https://10.0.0.1/"
        connection.sendall(f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode())
        answer = connection.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 422 ") and b"webhook-refused" in answer


def test_an_event_that_there_is_not_is_refused(http: httpx.Client, clip: Path) -> None:
    response = post(http, clip, webhook_url="https://1.1.1.1/", webhook_events="job.done")
    assert "job.succeeded" in assert_problem(response, 422, "invalid-option")["detail"]


def test_a_service_without_a_secret_says_so(settings: Settings, clip: Path) -> None:
    without = settings.model_copy(update={"webhook_secret": ()})
    with serve(without) as url, httpx.Client(base_url=url, timeout=30) as http:
        problem = assert_problem(post(http, clip, webhook_url="https://1.1.1.1/"), 422, "webhook-refused")
    assert "DAIN_WEBHOOK_SECRET" in problem["detail"]
