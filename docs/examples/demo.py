"""`make demo`: the main job, end to end, on real video.

The demo starts the embedded service, sends it a clip over HTTP, waits for the clip with four times the frames, and
shows what was gained: a new frame enlarged, an animation, and a video of both side by side, slowed. The clip is a piece
of tests/data/bikes.mp4. With `--model dain-refined` it makes the README's animation, docs/images/before-after.webp.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import httpx
import imageio_ffmpeg
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from service.client import Client, Job
from worker.comparison import Clip, Comparison

ROOT = Path(__file__).parents[2]
OUT = ROOT / "demo"
START = "2.28"  # seconds; a taxi passes close by
FRAMES = 18  # up to a cut
RATE = 25
FACTOR = 4
SLOW = 4
SHOWN = 13  # the picture shows this source frame, the next one, and what lies between them
SIGN = 20, 96, 420, 196  # left, top, right and bottom of what it shows of them
STRIP = 0, 80, 480, 200  # and of what the animation shows
TITLE, GAP = 22, 4  # pixels

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


def titled(rows: Sequence[tuple[str, Image.Image]], columns: int = 1) -> Image.Image:
    """Pictures of one size under their titles, in so many columns."""
    width, height = rows[0][1].size
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, lines * (height + TITLE + GAP) - GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (title, picture) in enumerate(rows):
        corner = k % columns * (width + GAP), k // columns * (height + TITLE + GAP)
        pen.text((corner[0] + 2, corner[1] + 3), title, fill="black", font=ImageFont.load_default(15))
        sheet.paste(picture, (corner[0], corner[1] + TITLE))
    return sheet


def draw_frame(before: list[Image.Image], after: list[Image.Image], path: Path) -> None:
    """Draw a new frame enlarged, between its neighbours, beside what plain blending makes of them."""
    first, second = before[SHOWN : SHOWN + 2]
    rows = [
        ("a frame of the film", first),
        ("the next one", second),
        ("between them: both blended", Image.blend(first, second, 0.5)),
        ("between them: made by DAIN", after[FACTOR * SHOWN + FACTOR // 2]),
    ]
    x, y, right, bottom = SIGN
    size = 2 * (right - x), 2 * (bottom - y)
    titled(
        [(title, picture.crop(SIGN).resize(size, Image.Resampling.LANCZOS)) for title, picture in rows], 2
    ).save(path)


def draw_motion(before: list[Image.Image], after: list[Image.Image], path: Path) -> None:
    """Draw an animation, `SLOW` times as slow as the film: the film, plain blending, and what the service made."""
    steps = []
    for k, made in enumerate(after[: FACTOR * (len(before) - 1)]):
        n, t = divmod(k, FACTOR)
        rows = [
            (f"the film: {RATE} frames a second", before[n]),
            (f"blended: {FACTOR * RATE} frames a second", Image.blend(before[n], before[n + 1], t / FACTOR)),
            (f"DAIN: {FACTOR * RATE} frames a second", made),
        ]
        steps.append(titled([(title, picture.crop(STRIP)) for title, picture in rows]))
    milliseconds = 1000 * SLOW // (FACTOR * RATE)
    steps[0].save(
        path, save_all=True, append_images=steps[1:], duration=milliseconds, loop=0, quality=70, method=4
    )


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
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--model", default="auto")
    model = asked.parse_args().model
    OUT.mkdir(exist_ok=True)
    clip, result = OUT / "clip.mp4", OUT / "clip-4x.mp4"
    make_clip(clip)
    say(f"Clip: {FRAMES} frames of 'bikes', 640x272: a minute or so for a CPU with 2 cores.")
    began = time.monotonic()
    with service() as url:
        wait_until_ready(url)
        with Client(url) as client:
            job = client.submit(clip, {"factor": str(FACTOR), "model": model})
            say(f"Accepted as job {job.id}: {url}/jobs/{job.id}")
            client.wait(job.id, Narrator())
            client.download(job.id, result, overwrite=True)
    before, after = frames(clip), frames(result)
    assert len(after) == FACTOR * len(before), (len(before), len(after))
    say(
        f"{len(before)} frames in, {len(after)} frames out, {time.monotonic() - began:.0f} s. What was gained:"
    )
    draw_frame(before, after, OUT / "before-after.png")
    draw_motion(before, after, OUT / "before-after.webp")
    both = Comparison(Clip.of(clip), Clip.of(result), "side-by-side", slow=SLOW)
    both.make(OUT / "before-after.mp4")
    for what, path in (
        ("a new frame, enlarged, beside what blending makes", OUT / "before-after.png"),
        ("the same in motion, for a browser", OUT / "before-after.webp"),
        (f"before and after side by side, {SLOW} times as slow", OUT / "before-after.mp4"),
        ("the result", result),
    ):
        say(f"  {what + ':':51} {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
