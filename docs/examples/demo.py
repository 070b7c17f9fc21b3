"""`make demo`: the main job, end to end, on real video.

The demo starts the embedded service, sends it a clip over HTTP, waits for the clip with twice the frames, and draws a
picture of what went in and what came out. The clip is a piece of tests/data/bikes.mp4.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import httpx
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console

from service.client import Client, Job

ROOT = Path(__file__).parents[2]
OUT = ROOT / "demo"
START = "5.56"  # seconds; cars pass behind a fence here
FRAMES = 33
SHOWN = 4  # the picture shows this source frame, the next one, and what lies between them

say = Console().print


def make_clip(path: Path) -> None:
    """Write the piece of the film that the service is to make smoother."""
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    source = ["-ss", START, "-i", str(ROOT / "tests/data/bikes.mp4")]
    subprocess.run([*ffmpeg, *source, "-frames:v", str(FRAMES), "-crf", "12", str(path)], check=True)


@contextmanager
def service() -> Iterator[str]:
    """Run an embedded service of the demo's own on a free port; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    dain = [sys.executable, "-m", "service.cli"]
    command = [*dain, "up", "--port", str(port), "--state-dir", str(ROOT / ".dain")]
    with subprocess.Popen(command) as running:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            running.send_signal(signal.SIGTERM)


def wait_until_ready(url: str, seconds: float = 300) -> None:
    """Return once the service answers that it is ready; end the program after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.5)
    raise SystemExit(
        f"The service was not ready within {seconds:.0f} s; its logs are in {ROOT / '.dain' / 'logs'}."
    )


def frames(path: Path) -> list[Image.Image]:
    """Every frame of a video, decoded."""
    with av.open(str(path)) as video:
        return [frame.to_image() for frame in video.decode(video=0)]


def draw(before: list[Image.Image], after: list[Image.Image], path: Path) -> None:
    """Draw what a player shows within the same time, in one row without and in one row with the new frame."""
    rows = [
        (
            "before",
            [before[SHOWN], before[SHOWN], before[SHOWN + 1]],
            ["frame", "the same again", "next frame"],
        ),
        ("after", after[2 * SHOWN : 2 * SHOWN + 3], ["frame", "new frame", "next frame"]),
    ]
    width, height = before[0].size
    sheet = Image.new("RGB", (3 * width + 8, 2 * (height + 18)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, pictures, labels) in enumerate(rows):
        for column, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            corner = column * (width + 4), row * (height + 18)
            pen.text((corner[0] + 2, corner[1] + 3), f"{name}: {label}", fill="black")
            sheet.paste(picture, (corner[0], corner[1] + 18))
    sheet.save(path)


class Narrator:
    """Prints the job's progress each time that it has changed."""

    def __init__(self) -> None:
        self.said = ""

    def __call__(self, job: Job) -> None:
        progress = job.progress
        line = f"  {job.status}: {progress.frames_done} of {progress.frames_total or '?'} frames"
        if line != self.said:
            say(line, highlight=False)
        self.said = line


def main() -> None:
    OUT.mkdir(exist_ok=True)
    clip, result, picture = OUT / "clip.mp4", OUT / "clip-2x.mp4", OUT / "before-after.png"
    make_clip(clip)
    say(f"Clip: {FRAMES} frames of 'bikes', 640x272: a minute or so for a CPU with 2 cores.")
    began = time.monotonic()
    with service() as url:
        wait_until_ready(url)
        with Client(url) as client:
            job = client.submit(clip, {"factor": "2"})
            say(f"Accepted as job {job.id}: {url}/jobs/{job.id}")
            client.wait(job.id, Narrator())
            client.download(job.id, result, overwrite=True)
    before, after = frames(clip), frames(result)
    assert len(after) == 2 * len(before), (len(before), len(after))
    assert np.any(np.asarray(after[2 * SHOWN]) != np.asarray(after[2 * SHOWN + 1]))
    draw(before, after, picture)
    say(f"{len(before)} frames in, {len(after)} frames out, {time.monotonic() - began:.0f} s.")
    say(f"Result:       {result}\nBefore/after: {picture}")


if __name__ == "__main__":
    main()
