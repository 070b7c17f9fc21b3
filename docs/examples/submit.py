"""Makes a video smoother: python submit.py IN.mp4 OUT.mp4

DAIN_URL is the service; DAIN_TOKEN the token of your key, where it has keys.
"""

import os
import sys

from dain_client import Client, ClientError, Job


def show(job: Job) -> None:
    left = job.progress.eta_seconds
    print(f"{job.status}: {job.progress.fraction:.0%}" + (f", {left:.0f} s left" if left else ""))


def main(source: str, target: str) -> None:
    with Client(os.environ.get("DAIN_URL", "http://127.0.0.1:8000")) as client:
        job = client.submit(source, {"target_fps": 60})
        job = client.wait(job.id, show)
        client.download(job.id, target)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ClientError as error:  # JobFailed, VideoRefused, QueueFull, Unreachable, …
        sys.exit(f"{type(error).__name__}: {error}")
