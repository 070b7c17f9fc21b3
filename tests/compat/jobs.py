"""Jobs in every state as this release records them, and all that it then has in Redis."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from redis import Redis

from service.api import idempotency
from service.api.options import parse_options
from service.api.uploads import Upload
from service.jobs.machine import Claim, Jobs
from service.jobs.names import ASSEMBLE, EVENTS, PLAN
from service.jobs.notes import Note
from service.jobs.problems import Problem
from service.jobs.records import DEFAULT_OWNER, Output, State
from service.jobs.workers import TaskInHand, WorkerRecord, Workers
from service.settings import Settings

WORKER = "ann-1"

#: The options of one request for each Idempotency-Key.
REQUESTS: dict[str, dict[str, str]] = {
    "plain": {},
    "rate": {"target_fps": "59.94", "audio": "none"},
    "slow": {"speed": "1/3"},
    "all": {"factor": "4", "quality": "20", "scene_threshold": "0.5", "model": "dain-lite"},
}


def write_jobs(redis: Redis, settings: Settings, facts: dict[str, Any]) -> dict[str, str]:
    """Make the jobs in an empty `redis`; returns their ids by name."""
    jobs = Jobs.from_settings(redis, settings)

    def accept(**options: object) -> str:
        job_id = jobs.new_id()
        jobs.create(
            job_id,
            source=f"uploads/{job_id}",
            source_sha256="cd" * 32,
            filename="clip.mp4",
            options=parse_options(options),
            input=facts,
            facts=facts,
            notes=[Note.of("audio-dropped", "The sound did not come through.", stream=1)],
        )
        return job_id

    def claim(job_id: str, task: str) -> Claim:
        return jobs.claim(job_id, task, WORKER)

    def plan(job_id: str, segments: int, frames: int) -> None:
        fields = {"segments_total": segments, "frames_total": frames}
        jobs.complete(
            claim(job_id, PLAN), task={"key": f"plans/{job_id}/a.json", "sha256": "ef" * 32}, job=fields
        )

    def output(job_id: str, frames: int) -> Output:
        return Output(
            key=f"results/{job_id}/a.mp4", filename="clip-2x.mp4", media_type="video/mp4", size_bytes=1234,
            sha256="ab" * 32, frames=frames, frame_rate="24", duration_seconds=1.5,
        )  # fmt: skip

    names = {"queued": accept(target_fps="59.94", audio="none")}

    running = names["running"] = accept()
    plan(running, 2, 24)
    sums = {
        "frames": 12,
        "new_frames": 6,
        "vram_peak_bytes": 123456789,
        "seconds_decode": 0.25,
        "seconds_network": 1.5,
    }
    jobs.complete(claim(running, "segment-0"), task={"key": "segments/x/0.mp4"}, add=sums)
    jobs.report(claim(running, "segment-1"), 5)

    succeeded = names["succeeded"] = accept(speed="1/3")
    plan(succeeded, 1, 36)
    segment = {"key": f"segments/{succeeded}/0.a.mp4", "sha256": "ab" * 32, "size_bytes": 9}
    jobs.complete(claim(succeeded, "segment-0"), task=segment, add={"frames": 36})
    last = claim(succeeded, ASSEMBLE)
    jobs.finish(succeeded, State.SUCCEEDED, output=output(succeeded, 36), claim=last)

    expired = names["expired"] = accept(factor="4", quality="20", scene_threshold="0.5", model="dain-lite")
    jobs.finish(expired, State.SUCCEEDED, output=output(expired, 48))
    jobs.mark_expired(expired)

    names["failed"] = accept()
    jobs.finish(names["failed"], State.FAILED, error=Problem("damaged-video", "It is cut off."))
    names["cancelled"] = accept()
    jobs.cancel(names["cancelled"])

    Workers(redis, ttl_seconds=15).heartbeat(
        WorkerRecord(
            name=WORKER,
            host="ann",
            pid=7,
            device="cuda:0",
            device_name="NVIDIA H200",
            backend="cuda",
            model="dain",
            precision="fp16",
            ready=True,
            job=running,
            task="segment-1",
            started_at=1764550000.0,
            tasks=[TaskInHand(job=running, task="segment-1")],
        )  # fmt: skip
    )
    return names


def bind_keys(redis: Redis, job_id: str, video: Path) -> None:
    """Bind each key of `REQUESTS` to the job, as requests that sent `video` with these options do."""
    sha256 = hashlib.sha256(video.read_bytes()).hexdigest()

    async def bind(name: str, options: dict[str, str]) -> None:
        upload = Upload(video, video.stat().st_size, sha256, video.name, parse_options(options))
        async with idempotency.hold(redis, f'"{name}"', DEFAULT_OWNER) as key:
            entry = key.entry(idempotency.Binding(job_id, upload.fingerprint))
            redis.set(entry.name, entry.value, ex=entry.seconds)

    for name, options in REQUESTS.items():
        asyncio.run(bind(name, options))


def read_keys(redis: Redis) -> dict[str, Any]:
    """Every key of the service as JSON: a hash is an object of strings, a sorted set one of numbers, a set a list."""
    keys: dict[str, Any] = {}
    for key in sorted(raw.decode() for raw in redis.scan_iter("dain:*")):
        match redis.type(key):
            case b"hash":
                keys[key] = {name.decode(): value.decode() for name, value in redis.hgetall(key).items()}
            case b"set":
                keys[key] = sorted(value.decode() for value in redis.smembers(key))
            case b"zset":
                keys[key] = {
                    name.decode(): score for name, score in redis.zrange(key, 0, -1, withscores=True)
                }
            case b"string":
                keys[key] = redis.get(key).decode()
            case b"stream":
                assert key == EVENTS
                keys[key] = [fields[b"event"].decode() for _, fields in redis.xrange(key)]
    return keys


def write_keys(redis: Redis, keys: dict[str, Any]) -> None:
    """Put back into `redis` what `read_keys` read."""
    for key, value in keys.items():
        if key == EVENTS:
            for event in value:
                redis.xadd(EVENTS, {"event": event})
        elif isinstance(value, str):
            redis.set(key, value)
        elif isinstance(value, list):
            redis.sadd(key, *value)
        elif all(isinstance(each, str) for each in value.values()):
            redis.hset(key, mapping=value)
        else:
            redis.zadd(key, value)
