"""A client of the HTTP API, for other programs and for the command line. It needs httpx, and nothing else of ours.

with Client("http://127.0.0.1:8000") as client:
    job = client.submit(Path("in.mp4"), {"target_fps": "60"})
    job = client.wait(job["id"], on_progress=print)
    client.download(job["id"], Path("out.mp4"))
"""

__version__ = "0.2.0.dev0"  # that of the whole project

from .calls import Client
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
from .results import Estimate, Job, Note, Output, Progress, Result, Worker

__all__ = [
    "Busy",
    "Client",
    "ClientError",
    "Damaged",
    "Estimate",
    "Event",
    "Forbidden",
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
