"""Damaged videos: ten small ones of ten formats, and what a mutator makes of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import imageio_ffmpeg

PICTURE = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=0.4"]
SOUND = ["-f", "lavfi", "-i", "sine=duration=0.4"]
SEEDS = {
    "h264.mp4": ["-c:v", "libx264", "-c:a", "aac", "-movflags", "+faststart"],
    "h264-tail.mov": ["-c:v", "libx264", "-bf", "2", "-an"],
    "hevc.mp4": ["-c:v", "libx265", "-x265-params", "log-level=none", "-an"],
    "fragments.mp4": ["-c:v", "libx264", "-an", "-movflags", "frag_keyframe+empty_moov"],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-c:a", "libopus"],
    "h264.mkv": ["-c:v", "libx264", "-c:a", "flac"],
    "mpeg4.avi": ["-c:v", "mpeg4", "-c:a", "mp3"],
    "mpeg2.ts": ["-c:v", "mpeg2video", "-c:a", "mp2"],
    "flv1.flv": ["-c:v", "flv1", "-an"],
    "raw.y4m": ["-f", "yuv4mpegpipe", "-an"],
}
TELLING = (
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)  # where sums and sizes overflow
HEADER_BYTES = 4096


def seeds(folder: Path) -> list[bytes]:
    """The whole videos, made in `folder`."""
    made = []
    for name, arguments in SEEDS.items():
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", *PICTURE, *SOUND]
        path = folder / name
        subprocess.run([*command, "-pix_fmt", "yuv420p", *arguments, str(path)], check=True)
        made.append(path.read_bytes())
    return made


def mutants(originals: list[bytes], random: Random) -> Iterator[bytes]:
    """Damaged ones without end; each has one to four kinds of damage."""
    while True:
        video = bytearray(random.choice(originals))
        for _ in range(random.randint(1, 4)):
            random.choice(DAMAGES)(video, originals, random)
        yield bytes(video)


def _flip(video: bytearray, originals: list[bytes], random: Random) -> None:
    for _ in range(random.choice((1, 8, 64))):
        video[_place(video, random)] ^= 1 << random.randrange(8)


def _truncate(video: bytearray, originals: list[bytes], random: Random) -> None:
    del video[max(_place(video, random), 1) :]


def _write_number(video: bytearray, originals: list[bytes], random: Random) -> None:
    """Into the first or last bytes, where the headers are."""
    size = random.choice((1, 2, 4, 8))
    number = (random.choice(TELLING) % 256**size).to_bytes(size, random.choice(("big", "little")))
    header = min(HEADER_BYTES, len(video))
    place = (
        random.randrange(header) if random.random() < 0.5 else len(video) - header + random.randrange(header)
    )
    video[place : place + size] = number


def _splice(video: bytearray, originals: list[bytes], random: Random) -> None:
    """A piece of any video, in place of a piece of this or between two."""
    other = random.choice(originals)
    begin = random.randrange(len(other))
    piece = other[begin : begin + random.choice((4, 64, 1024))]
    place = _place(video, random)
    video[place : place + random.choice((0, len(piece)))] = piece


def _cut_out(video: bytearray, originals: list[bytes], random: Random) -> None:
    place = _place(video, random)
    del video[place : place + random.choice((1, 16, 512))]
    video.extend(b"" if video else b"\0")


def _blank(video: bytearray, originals: list[bytes], random: Random) -> None:
    place, size = _place(video, random), random.choice((4, 64, 1024))
    video[place : place + size] = random.choice((b"\0", b"\xff")) * size


def _place(video: bytearray, random: Random) -> int:
    return random.randrange(len(video))


DAMAGES = (_flip, _truncate, _write_number, _splice, _cut_out, _blank)
