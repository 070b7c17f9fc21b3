"""A client of the HTTP API, for other programs and for the command line. It needs httpx, and nothing else of ours.

with Client("http://127.0.0.1:8000") as client:
    job = client.submit("in.mp4", {"target_fps": 60})
    job = client.wait(job.id, on_progress=print)
    client.download(job.id, "out.mp4")

`AsyncClient` has the same calls, to be awaited.
"""

__version__ = "0.2.0.dev0"  # that of the whole project

from .async_client import AsyncClient
from .errors import (
    Busy,
    ClientError,
    Damaged,
    Forbidden,
    Gone,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    JobNotFinished,
    NoSpace,
    NotFound,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    Refused,
    ServiceError,
    TimedOut,
    Unauthorized,
    Unavailable,
    Unreachable,
    VideoRefused,
)
from .events import Event
from .options import Options
from .results import Estimate, Frames, Job, Note, Output, Progress, Result, Worker
from .sync_client import Client

__all__ = [
    "AsyncClient",
    "Options",
    "Busy",
    "Client",
    "ClientError",
    "Damaged",
    "Estimate",
    "Event",
    "Forbidden",
    "Frames",
    "Gone",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobNotFinished",
    "NoSpace",
    "NotFound",
    "Note",
    "Output",
    "Progress",
    "QueueFull",
    "QuotaExceeded",
    "RateLimited",
    "Refused",
    "Result",
    "ServiceError",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "VideoRefused",
    "Worker",
]
