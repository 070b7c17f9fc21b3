"""What the service answers, as frozen dataclasses.

A field that an older service does not send has its default. What a newer one sends besides is in `document`, the JSON
as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Result:
    """An answer of the service."""

    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `document` says."""
        return cls._of(document)

    @classmethod
    def _of(cls, document: Mapping[str, Any], **converted: Any) -> Self:
        """What `document` says, where `converted` does not say it as another type."""
        names = {each.name for each in fields(cls)} - {"document"}
        plain = {name: value for name, value in document.items() if name in names}
        return cls(document=document, **{**plain, **converted})


@dataclass(frozen=True, kw_only=True)
class Progress(Result):
    """How far a job is; frames are output frames."""

    frames_done: int = 0
    frames_total: int | None = None  #: known once the job is planned
    fraction: float = 0.0  #: 0 to 1
    fps: float | None = None  #: output frames per second since the job started
    eta_seconds: float | None = None  #: until the job is done
    queue_position: int | None = None  #: how many queued jobs are begun before this one; only while queued


@dataclass(frozen=True, kw_only=True)
class Output(Result):
    """The finished file."""

    filename: str
    media_type: str
    size_bytes: int
    sha256: str
    frames: int
    frame_rate: str  #: frames per second as an exact fraction, e.g. "60000/1001"; the mean where it varies
    duration_seconds: float


@dataclass(frozen=True, kw_only=True)
class Note(Result):
    """What of a video did not come through as it was, or what was found in it: a sentence with a code."""

    code: str = "note"
    text: str = ""
    stream: int | None = None  #: number of the stream in the file that it is about
    time: str | None = None  #: when it is in the source: seconds after its beginning, e.g. "1001/30000"

    @classmethod
    def all_of(cls, document: Mapping[str, Any]) -> tuple[Self, ...]:
        """The notes of a job or an estimate; release 0.1.0 has plain texts, or none."""
        notes = document.get("notes", ())
        return tuple(cls.of({"text": note} if isinstance(note, str) else note) for note in notes)


@dataclass(frozen=True, kw_only=True)
class Job(Result):
    """A job as it stood when the service answered. Times are seconds since the epoch."""

    id: str
    status: str  #: queued, running, succeeded, failed or cancelled; unknown where the service cannot read it
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None  #: when the result is removed
    expired: bool = False
    filename: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)  #: the caller's own notes on the job
    reference: str | None = None  #: the caller's own name for the job
    priority: str = "normal"
    work: float = 0.0  #: megapixels of new frames, as estimated
    webhook_url: str | None = None
    webhook_events: tuple[str, ...] = ()
    input: Mapping[str, Any] = field(
        default_factory=dict
    )  #: facts of the video: width, height, frames, frame_rate …
    notes: tuple[Note, ...] = ()
    progress: Progress = Progress()
    output: Output | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)  #: what the job cost so far
    error: Mapping[str, Any] | None = None  #: the problem document of a failed job
    links: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        output = document.get("output")
        return cls._of(
            document,
            webhook_events=tuple(document.get("webhook_events", ())),
            notes=Note.all_of(document),
            progress=Progress.of(document.get("progress", {})),
            output=output and Output.of(output),
        )

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not; nothing more is to be seen of one whose state is unknown."""
        return self.finished_at is not None or self.status == "unknown"


@dataclass(frozen=True, kw_only=True)
class Estimate(Result):
    """What a job would take."""

    input: Mapping[str, Any] = field(default_factory=dict)  #: facts of the video, as a job has them
    frames: int = 0  #: of the result, about
    new_frames: int = 0  #: that the network computes, about
    work: float = 0.0  #: megapixels of new frames
    seconds: float | None = (
        None  #: that the job has all workers; None where no living worker has run its model
    )
    eta_seconds: float | None = None  #: until it would be done, after what goes before it
    queue_position: int | None = None  #: how many queued jobs would be begun before it
    notes: tuple[Note, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        return cls._of(document, notes=Note.all_of(document))


@dataclass(frozen=True, kw_only=True)
class Frames(Result):
    """What each frame of a result is, and when it is shown. Times are seconds."""

    frames: str = ""  #: a letter for each: s, of the source; n, N, new; h, holds or mixes those around it
    start: float = 0.0  #: when the first is shown
    rate: float | None = None  #: frames a second; None where they are not evenly spaced
    times: tuple[float, ...] | None = None  #: when each is shown; None where `rate` says it

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        times = document.get("times")
        return cls._of(document, times=None if times is None else tuple(times))


@dataclass(frozen=True, kw_only=True)
class Worker(Result):
    """A worker as it last reported."""

    name: str
    host: str = ""
    pid: int = 0
    version: str | None = None  #: of the project, where the worker runs; None from a worker that does not say
    device: str = ""  #: cpu, cuda:0, …
    device_name: str = ""
    backend: str = ""
    model: str = ""  #: that runs for jobs which name none
    models: tuple[str, ...] = ()
    precision: str = ""
    ready: bool = False
    vram_used_bytes: int = 0
    vram_total_bytes: int = 0
    celsius: Mapping[str, float] = field(default_factory=dict)  #: the highest temperature of each sensor
    throttled_by: tuple[str, ...] = ()  #: what slows the machine down
    power_mode: str | None = None
    watts: float | None = None  #: that the GPU takes
    utilisation: float | None = None  #: of the GPU, or else of the processors, from 0 to 1
    frames_per_second: float = 0.0  #: output frames over the last minute of work
    frames_total: int = 0
    job: str | None = None  #: in hand
    task: str | None = None
    started_at: float = 0.0
    heartbeat_at: float = 0.0
    error: str | None = None  #: why its record cannot be read

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        lists = {name: tuple(document.get(name, ())) for name in ("models", "throttled_by")}
        return cls._of(document, **lists)
