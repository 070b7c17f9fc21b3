"""A client of the HTTP API, for other programs and for the command line. It needs httpx, and nothing else of ours.

with Client("http://127.0.0.1:8000") as client:
    job = client.submit(Path("in.mp4"), {"target_fps": "60"})
    job = client.wait(job["id"], on_progress=print)
    client.download(job["id"], Path("out.mp4"))
"""

from .calls import Client
from .errors import ClientError
from .events import Event

__all__ = ["Client", "ClientError", "Event"]
