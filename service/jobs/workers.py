"""The records of the workers in Redis. Each worker renews its own; a worker whose record has expired counts as dead."""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis

NAMES = "dain:workers"

#: What may slow a machine down, and what each means.
THROTTLES = {
    "heat": "a processor or GPU is too hot",
    "over-current": "a rail gave more current than it may, as under a Jetson with a weak supply",
    "power-brake": "the power supply asks the GPU to take less",
    "power-cap": "the GPU takes all the power that it may, which is usual under load",
    "under-voltage": "the supply is too weak for a Raspberry Pi",
}


class TaskInHand(BaseModel):
    """A task that a worker has taken."""

    job: str
    task: str


class WorkerRecord(BaseModel):
    """One worker as it last reported."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: str
    host: str
    pid: int
    version: str | None = Field(
        default=None, description="the worker's version of this project. Null from a worker that does not say"
    )
    device: str = Field(description="cpu, cuda:0, …")
    device_name: str
    backend: str = Field(
        description="which operators are in use: cuda (compiled kernels), cpu (PyTorch) or onnxruntime"
    )
    model: str = Field(description="the model that runs for jobs which name none")
    models: list[str] = Field(default_factory=list, description="every model that a job may name here")
    codecs: list[str] | None = Field(
        default=None, description="codecs that a result can have here. Null from a worker that does not say"
    )
    precision: str
    ready: bool = Field(description="the model is loaded and a warm-up inference ran")
    vram_used_bytes: int = 0
    vram_total_bytes: int = 0
    celsius: dict[str, float] = Field(
        default_factory=dict, description="the highest temperature of each sensor of the machine and the GPU"
    )
    throttled_by: list[str] = Field(
        default_factory=list,
        description=f"what slows the machine down, or did within half a minute: {', '.join(THROTTLES)}",
    )
    power_mode: str | None = Field(
        default=None,
        description="as the machine calls it: MAXN or 15W of a Jetson, a platform profile, a governor",
    )
    watts: float | None = Field(default=None, description="that the GPU takes; null without a sensor")
    utilisation: float | None = Field(
        default=None,
        description="how busy the GPU is, or else the machine's processors, from 0 to 1; null where nothing says it",
    )
    frames_per_second: float = Field(default=0.0, description="output frames over the last minute of work")
    megapixels_per_second: dict[str, float] = Field(
        default_factory=dict,
        description="new frames over the last minute of work with each model, in megapixels",
    )
    frames_total: int = 0
    job: str | None = None
    task: str | None = None
    tasks: list[TaskInHand] | None = Field(
        default=None,
        description="every task in hand: one that ends may overlap the next. Null from a worker that does not say",
    )
    started_at: float
    heartbeat_at: float = 0.0
    error: str | None = Field(
        default=None, description="why this worker's record cannot be read, where it cannot"
    )

    def may_serve(self, model: str) -> bool:
        """Whether this worker lists the model, or has a record that cannot be read, which may list it."""
        return model in (self.model, *self.models) or self.error is not None


def text(reply: Any) -> str:
    """A string that Redis sent, which comes as bytes."""
    decoded: str = reply.decode()
    return decoded


def worker_key(name: str) -> str:
    return f"dain:worker:{name}"


class Workers:
    """The workers of one Redis; a record lives `ttl_seconds` past its last heartbeat."""

    def __init__(self, redis: Redis, *, ttl_seconds: float):
        self._redis = redis
        self._ttl = ttl_seconds

    @property
    def heartbeat_seconds(self) -> float:
        """How often a worker is to report: a record survives four reports that do not get through."""
        return self._ttl / 5

    def heartbeat(self, record: WorkerRecord) -> None:
        """Write the record and put off its expiry."""
        record = record.model_copy(update={"heartbeat_at": time.time()})
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(worker_key(record.name), record.model_dump_json(), px=int(self._ttl * 1000))
            pipe.sadd(NAMES, record.name)
            pipe.execute()

    def leave(self, name: str) -> None:
        """Forget a worker that stops in good order."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(worker_key(name))
            pipe.srem(NAMES, name)
            pipe.execute()

    def all(self) -> list[WorkerRecord]:
        """The records of the living workers, by name."""
        return living_workers(self._redis)


def living_workers(redis: Redis) -> list[WorkerRecord]:
    """The records of the living workers, by name. Names whose record has expired are struck off."""
    names = sorted(text(raw) for raw in redis.smembers(NAMES))
    records = redis.mget([worker_key(name) for name in names]) if names else []
    dead = [name for name, raw in zip(names, records, strict=True) if raw is None]
    if dead:
        redis.srem(NAMES, *dead)
    return [_read(name, raw) for name, raw in zip(names, records, strict=True) if raw is not None]


def _read(name: str, raw: bytes | str) -> WorkerRecord:
    """A worker's record; one that this version cannot read still says that the worker lives."""
    try:
        return WorkerRecord.model_validate_json(raw)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, fault["loc"])) or "all" for fault in error.errors()}))
        return WorkerRecord(
            name=name,
            host="",
            pid=0,
            device="",
            device_name="",
            backend="",
            model="",
            precision="",
            ready=False,
            started_at=0.0,
            error=f"This worker's record cannot be read ({fields}): it may be of another version.",
        )
