"""Makes every video of a folder smoother, a few at a time: python batch.py FOLDER RESULTS

Run it again after a break: what is done is left alone, what was accepted is not sent again.
"""

import asyncio
import os
import sys
import uuid
from pathlib import Path

from dain_client import AsyncClient, JobCancelled, JobFailed, VideoRefused

AT_A_TIME = 4
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi"}


async def make(client: AsyncClient, video: Path, target: Path, turn: asyncio.Semaphore) -> bool:
    """Makes one video; says whether it could."""
    if target.exists():
        return True
    key = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{video.resolve()} {video.stat().st_mtime_ns}"))
    async with turn:
        try:
            job = await client.submit(video, {"target_fps": 60}, idempotency_key=key)
            await client.wait(job.id)
        except (JobCancelled, JobFailed, VideoRefused) as error:  # of this video; all else ends the run
            print(f"{video.name}: {error}", file=sys.stderr)
            return False
        await client.download(job.id, target)
        print(target)
        return True


async def main(folder: Path, results: Path) -> int:
    results.mkdir(exist_ok=True)
    turn = asyncio.Semaphore(AT_A_TIME)
    async with AsyncClient(os.environ.get("DAIN_URL", "http://127.0.0.1:8000")) as client:
        videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEOS)
        made = await asyncio.gather(
            *(make(client, video, results / f"{video.stem}-60fps.mp4", turn) for video in videos)
        )
    return 0 if all(made) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*map(Path, sys.argv[1:3]))))
