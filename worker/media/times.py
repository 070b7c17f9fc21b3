"""When each frame of a video is shown."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from worker.channel import nothing
from worker.media import ffmpeg, sandbox
from worker.media.errors import damaged
from worker.media.facts import usual_gap


class Timeline(NamedTuple):
    """When each frame is shown, and when the last one ends; seconds on the file's clock."""

    times: list[Fraction]  #: strictly increasing
    end: Fraction


def frame_times(path: Path, check: Callable[[], None] = nothing) -> Timeline:
    """The exact presentation time of every frame to be displayed, and the end of the last one.

    Times are read from packets, without decoding, where each packet is known to be one shown frame. Other videos are
    decoded, which takes its time. ``check`` is called several times a second, and may raise to stop.

    Raises:
        MediaError: the file is no video, or is damaged.
        MachineError: the machine was too slow, or ended the look.
    """
    packets = sandbox.look("times", path, read=_Packets.read, check=check)
    if packets.timeline:
        return packets.timeline
    return _decoded_times(path, packets.stream, packets.time_base, check)


class _Packets(NamedTuple):
    """What the packets of the video stream say: a timeline only where each of them is known to be one frame."""

    stream: int
    time_base: Fraction
    timeline: Timeline | None

    @classmethod
    def read(cls, answer: dict[str, Any]) -> _Packets:
        found = answer["times"]
        unit = Fraction(found["time_base"])
        if not found["exact"]:
            return cls(found["stream"], unit, None)
        return cls(found["stream"], unit, Timeline([pts * unit for pts in found["pts"]], found["end"] * unit))


def _decoded_times(path: Path, stream: int, unit: Fraction, check: Callable[[], None]) -> Timeline:
    """What the decoder says of each frame, by decoding all of them."""
    command = ffmpeg.command(stamps_output(ffmpeg.source(path)[str(stream)], "pipe:1", unit))
    with ffmpeg.Process(command, stdout=subprocess.PIPE) as process:
        with open(process.stdout.fileno(), "rb", closefd=False) as lines:
            shown = []
            for stamp in read_stamps(lines):
                shown.append(stamp)
                check()
        process.wait()
        messages = process.messages
    if not shown:
        raise damaged(f"no frame of it could be decoded ({messages})")
    times = sorted({time for time, _ in shown})
    last, lasting = max(shown)
    return Timeline(times, last + (lasting or usual_gap(times, Fraction(1, 25))))


def stamps_output(frames: Any, url: str, unit: Fraction) -> Any:
    """An output of ffmpeg-python that says when each of ``frames`` is shown, for ``read_stamps``."""
    return frames.output(
        url,
        format="framecrc",
        vcodec="wrapped_avframe",
        flush_packets=1,
        fps_mode="passthrough",
        enc_time_base=f"{unit.numerator}:{unit.denominator}",
    )


def read_stamps(lines: Iterable[bytes]) -> Iterator[tuple[Fraction, Fraction]]:
    """(presentation time, duration) in seconds of each frame, as ``stamps_output`` writes them."""
    unit = Fraction(0)
    for line in lines:
        if line.startswith(b"#tb 0:"):
            unit = Fraction(line.split(b":")[1].decode().strip())
        elif not line.startswith(b"#"):
            _, _, pts, duration, *_ = line.split(b",")
            yield int(pts) * unit, int(duration) * unit
