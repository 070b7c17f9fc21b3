"""`dain bench media`: how fast frames are decoded, copied and encoded here, without a network between.

Rates are frames a second of one segment at a time. Beside each stands what a core does, by the time that FFmpeg used:
that figure holds on a machine that is busy with other things, too.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from dain_core.outputs import OutputFile, writing
from service.jobs.formats import CODECS, CONTAINERS, PRESETS
from service.jobs.options import Options
from worker.bench.choices import Picture, Size
from worker.bench.job import MOTION
from worker.media import encode, ffmpeg
from worker.media.choose import choose
from worker.media.codecs import ENCODINGS
from worker.media.decode import Decoder, Plane
from worker.media.encode import Encoder
from worker.media.facts import VideoInfo
from worker.media.sandbox import probe
from worker.media.times import frame_times

SOURCE_FRAMES = 16  # that are kept, and encoded again and again


@dataclass(frozen=True)
class Row:
    """One measurement. Rates are frames a second."""

    what: str  # "copy", "encode" or "decode"
    codec: str
    preset: str
    rate: float
    core_rate: float  # frames for each second that a core worked on them
    frame_bytes: int  # of an encoded frame


@click.command()
@click.option("--size", type=Size(), default="1080p", show_default=True, help="Or WIDTHxHEIGHT.")
@click.option("--frames", default=60, show_default=True, help="Frames to time, of each codec and preset.")
@click.option(
    "--codec", "codecs", multiple=True, type=click.Choice(list(ENCODINGS)), help="[default: all here]"
)
@click.option(
    "--preset", "presets", multiple=True, type=click.Choice(PRESETS), help="[default: each codec's own]"
)
@click.option("--json", "json_path", type=OutputFile(), help="Write the figures here too.")
def media(
    size: Picture, frames: int, codecs: tuple[str, ...], presets: tuple[str, ...], json_path: Path | None
) -> None:
    """Time decoding, copies to FFmpeg and encoding, for each codec and preset, at quality 18."""
    _, height, width = size
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mkv")
        info, planes = _clip(clip, width, height)
        rows.append(_copied(info, planes, frames))
        for codec in codecs or [name for name in encode.codecs(has_gpu=True) if name in ENCODINGS]:
            for preset in presets if CODECS[codec].has_presets and presets else ["auto"]:
                rows += _coded(info, planes, frames, codec, preset, Path(folder))
    _show(rows)
    if json_path:
        with writing(json_path):
            json_path.write_text(json.dumps([asdict(row) for row in rows], indent=2))


def _clip(path: Path, width: int, height: int) -> tuple[VideoInfo, list[Sequence[Plane]]]:
    """The facts about a clip of this size, and its frames. Everything in it moves, under a little grain."""
    motion = MOTION.format(width=width, height=height)
    options = ["-frames:v", str(SOURCE_FRAMES), "-c:v", "ffv1", "-pix_fmt", "yuv420p"]
    command = [ffmpeg.binary(), "-v", "error", "-f", "lavfi", "-i", motion, *options, str(path)]
    subprocess.run(command, check=True)
    info = probe(path)
    with Decoder(path, info, 0, SOURCE_FRAMES - 1, frame_times(path)) as decoder:
        return info, [frame.planes for frame in decoder]


def _coded(
    info: VideoInfo, planes: list[Sequence[Plane]], frames: int, codec: str, preset: str, folder: Path
) -> list[Row]:
    container = next(name for name, kind in CONTAINERS.items() if codec in kind.codecs)
    options = Options(container=container, codec=codec, preset=preset)
    delivery = choose(info, options, Fraction(60))
    path = folder / codec

    def encoded() -> None:
        with Encoder(path, delivery) as encoder:
            for k in range(frames):
                encoder.write(planes[k % len(planes)])

    def decoded() -> None:
        with Decoder(path, facts, 0, frames - 1, timeline) as decoder:
            for _ in decoder:
                pass

    rate, core_rate = _timed(encoded, frames)
    frame_bytes = path.stat().st_size // frames
    rows = [Row("encode", codec, delivery.preset, rate, core_rate, frame_bytes)]
    timeline, facts = frame_times(path), replace(probe(path), working_format=info.working_format)
    rows.append(Row("decode", codec, delivery.preset, *_timed(decoded, frames), frame_bytes))
    path.unlink()
    return rows


def _copied(info: VideoInfo, planes: list[Sequence[Plane]], frames: int) -> Row:
    """Frames that FFmpeg takes from its pipe, and drops."""
    size = f"{info.width}x{info.height}"
    source = ["-f", "rawvideo", "-pixel_format", info.working_format, "-video_size", size, "-i", "pipe:0"]
    command = [ffmpeg.binary(), "-v", "error", *source, "-c", "copy", "-f", "null", "-"]

    def written() -> None:
        with ffmpeg.Process(command, stdin=subprocess.PIPE) as process:
            for k in range(frames):
                for plane in planes[k % len(planes)]:
                    rest: Any = plane.data.cast("B")
                    while rest:
                        rest = rest[os.write(process.stdin.fileno(), rest) :]
            process.stdin.close()
            process.wait()

    return Row("copy", "", "", *_timed(written, frames), sum(plane.nbytes for plane in planes[0]))


def _timed(work: Callable[[], None], frames: int) -> tuple[float, float]:
    """Frames a second, and for each second of a core that the processes of ``work`` had."""
    began, used = time.monotonic(), _used()
    work()
    return frames / (time.monotonic() - began), frames / max(_used() - used, 1e-3)


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _show(rows: list[Row]) -> None:
    table = Table("", "codec", "preset", "frames/s", "frames/s of a core", "kB a frame")
    for row in rows:
        rates = f"{row.rate:.1f}", f"{row.core_rate:.1f}"
        table.add_row(row.what, row.codec, row.preset, *rates, f"{row.frame_bytes / 1000:.0f}")
    Console().print(table)
