"""Tiny videos for the clients to send."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg

from tests.faults.clients import Order
from tests.faults.worker import POISON


def orders(folder: Path) -> list[Order]:
    """What clients ask for: some frames of 64x48, with and without sound, in one segment and in several."""
    silent = make(folder / "silent.mp4", "64x48", 4)
    sound = make(folder / "sound.mp4", "64x48", 10, "-f", "lavfi", "-i", "sine=duration=0.4", "-c:a", "aac")
    return [
        Order(silent),
        Order(silent, (("factor", "5"),)),
        Order(sound),
        Order(sound, (("target_fps", "60"),)),
        Order(sound, (("speed", "1/2"),)),
    ]


def poison(folder: Path) -> Order:
    """A video that kills every worker that takes it."""
    return Order(make(folder / "poison.mp4", f"{POISON}x48", 4))


def make(path: Path, size: str, frames: int, *sound: str) -> Path:
    source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration={frames / 25}"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", *source, *sound]
    subprocess.run([*command, "-pix_fmt", "yuv420p", "-shortest", str(path)], check=True)
    return path
