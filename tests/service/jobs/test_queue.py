"""RQ as it is used here: JSON only, one queue, a worker that runs tasks in its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import rq
from redis import Redis

from service.jobs import queue as queue_module
from service.jobs.queue import Queue, WarmWorker
from tests.api import until

JOB = "0123456789abcdef0123456789ab"


@pytest.fixture
def worker(
    redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], subprocess.Popen[bytes]]:
    """Starts a worker process whose task is the given body, with `redis`, `job_id`, `task` and `worker` at hand."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.getcwd()}")

    def start(body: str) -> subprocess.Popen[bytes]:
        (tmp_path / "probe_tasks.py").write_text(
            "import os, time\nfrom redis import Redis\n"
            "redis, worker = Redis.from_url(os.environ['PROBE_REDIS']), None\n"
            "def run(job_id, task):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        )
        script = """
import os, probe_tasks
from service.jobs import queue
queue.SEGMENT_TASK = "probe_tasks.run"
redis = probe_tasks.redis
probe_tasks.worker = queue.WarmWorker(redis, f"w-{os.getpid()}", lambda: redis.incr("drained"))
probe_tasks.worker.run()
"""
        return subprocess.Popen(
            [sys.executable, "-c", script], env={**os.environ, "PROBE_REDIS": redis_server}
        )

    monkeypatch.setattr(queue_module, "SEGMENT_TASK", "probe_tasks.run")
    return start


def test_what_lies_in_redis_is_json_and_names(redis: Redis) -> None:
    queue = Queue(redis)
    queue.enqueue(JOB, "segment-3")
    [delivery] = redis.lrange(queue.rq.key, 0, -1)
    stored = rq.job.Job.fetch(delivery.decode(), connection=redis, serializer=queue.rq.serializer)
    assert (stored.func_name, list(stored.args)) == ("worker.tasks.segment", [JOB, "segment-3"])
    zlib_data = redis.hget(rq.job.Job.key_for(delivery.decode()), "data")
    assert json.loads(zlib.decompress(zlib_data)) == [
        "worker.tasks.segment",
        None,
        [JOB, "segment-3"],
        {},
    ]
    assert queue.depth() == 1 and queue.waiting() == {(JOB, "segment-3")}


def test_a_task_runs_and_leaves_nothing_behind(
    redis: Redis, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    queue = Queue(redis)
    queue.enqueue(JOB, "segment-0")
    with worker("redis.set('ran', task)") as process:
        until(lambda: redis.get("ran") == b"segment-0")
        until(lambda: not [key for key in redis.scan_iter(match="rq:job:*")])
        process.terminate()
    assert queue.waiting() == set() and not redis.exists(queue.rq.started_job_registry.key)


def test_a_worker_calls_its_tasks_alone(
    redis: Redis, tmp_path: Path, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """Whatever function a stranger in Redis names, to be called in a task's place or after it."""
    queue, touched = Queue(redis), tmp_path / "touched"
    queue.rq.enqueue_call("pathlib.Path.touch", args=(str(touched),))
    after = rq.Callback("probe_tasks.after")
    queue.rq.enqueue_call("probe_tasks.run", args=(JOB, "plan"), on_success=after, on_failure=after)
    queue.enqueue(JOB, "segment-0")
    body = "redis.set('ran', task)\ndef after(*_): redis.set('after', 1)\nglobals()['after'] = after"
    with worker(body) as process:
        until(lambda: redis.get("ran") == b"segment-0")
        process.terminate()
    assert redis.get("after") is None and not touched.exists()


def test_sigterm_while_idle_ends_at_once(
    redis: Redis, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    with worker("pass") as process:
        until(lambda: [worker.get_state() for worker in rq.Worker.all(connection=redis)] == ["idle"])
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert redis.get("drained") == b"1"


def test_sigterm_drains_the_task_in_hand_and_ends(
    redis: Redis, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    queue = Queue(redis)
    queue.enqueue(JOB, "segment-0")
    queue.enqueue(JOB, "segment-1")
    with worker("redis.set('began', 1)\nwhile not redis.get('drained'): time.sleep(0.02)") as process:
        until(lambda: redis.get("began"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert queue.waiting() == {(JOB, "segment-1")}


def test_stop_after_task_ends_the_loop(
    redis: Redis, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    queue = Queue(redis)
    queue.enqueue(JOB, "segment-0")
    queue.enqueue(JOB, "segment-1")
    with worker("redis.incr('ran'); worker.stop_after_task()") as process:
        assert process.wait(timeout=60) == 0
    assert redis.get("ran") == b"1" and queue.waiting() == {(JOB, "segment-1")}


def test_what_a_killed_worker_held_can_be_dropped_and_delivered_again(
    redis: Redis, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    queue = Queue(redis)
    queue.enqueue(JOB, "segment-0")
    with worker("redis.incr('ran'); time.sleep(60)") as process:
        until(lambda: redis.get("ran") == b"1")
        process.kill()
    assert redis.zcard(queue.rq.started_job_registry.key) == 1  # RQ would notice after minutes
    [(entry, name)] = queue.held().items()
    assert name == f"w-{process.pid}"
    queue.drop(entry)
    assert queue.held() == {}
    assert redis.zcard(queue.rq.started_job_registry.key) == 0 and not list(redis.scan_iter(match="rq:job:*"))
    queue.enqueue(JOB, "segment-0")
    with worker("redis.incr('ran')") as process:
        until(lambda: redis.get("ran") == b"2")
        process.terminate()


def test_of_an_entry_that_was_dropped_under_a_living_worker_nothing_is_left(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an outage of Redis. What RQ writes of it afterwards is in none of its lists."""
    queue, worker = Queue(redis), WarmWorker(redis, "ann", lambda: None)
    queue.enqueue(JOB, "segment-0")
    [entry] = queue.rq.jobs
    worker.register_birth()

    def lose_the_entry(*_: object) -> None:
        redis.delete(queue.rq.key)
        queue.drop(entry.id)
        redis.hset(entry.key, "ended_at", "now")

    monkeypatch.setattr(worker, "perform_job", lose_the_entry)
    worker.execute_job(entry, queue.rq)
    assert not redis.exists(entry.key)


def test_a_task_without_time_limit_is_not_interrupted(redis: Redis) -> None:
    queue = Queue(redis)
    queue.enqueue(JOB, "plan")
    [delivery] = redis.lrange(queue.rq.key, 0, -1)
    assert rq.job.Job.fetch(delivery.decode(), connection=redis, serializer=queue.rq.serializer).timeout == -1


def test_a_worker_leaves_rqs_clean_up_to_the_janitor(redis: Redis) -> None:
    queue = Queue(redis)
    queue.enqueue(JOB, "segment-0")
    delivery = redis.lrange(queue.rq.key, 0, -1)[0]
    redis.zadd(queue.rq.started_job_registry.key, {delivery + b":execution": 1})  # long expired
    WarmWorker(redis, "sweeper", lambda: None).run_maintenance_tasks()
    assert redis.zcard(queue.rq.started_job_registry.key) == 1
