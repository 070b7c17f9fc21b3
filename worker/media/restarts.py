"""Streams whose timestamps start again: pieces of transport or program streams, one put after another.

Every frame of every piece is to be shown, one piece after the other, and the sound with it. So such a file is copied,
without decoding, into one with timestamps that go on. All else works on the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from service.jobs.notes import Note
from worker.channel import nothing
from worker.media import ffmpeg, sandbox
from worker.media.facts import VideoInfo

CONTAINERS = ("mpegts", "mpeg")  # those that are put together by putting one file after the other


@dataclass(frozen=True)
class Restarts:
    """Where timestamps start again.

    ``shifts`` has a list for each stream that is kept: (number of a packet in the order of the file, ticks to add to
    the timestamps of this packet and all after it).
    """

    shifts: Mapping[int, list[tuple[int, int]]]

    @classmethod
    def find(
        cls,
        path: Path,
        info: VideoInfo,
        check: Callable[[], None] = nothing,
        progressed: Callable[[], None] = nothing,
    ) -> Self | None:
        """The restarts of the video at ``path``, or None where there are none. Raises as ``sandbox.probe`` does."""
        if info.container not in CONTAINERS:
            return None
        return sandbox.look(
            "restarts",
            path,
            f"--stream={info.stream}",
            read=lambda answer: cls.from_json(answer["restarts"]),
            check=check,
            progressed=progressed,
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """The restarts that ``as_json`` gave."""
        if not stored:
            return None
        return cls({int(stream): [(int(n), int(by)) for n, by in found] for stream, found in stored.items()})

    def as_json(self) -> dict[str, Any]:
        """The restarts in plain JSON types."""
        return {str(stream): list(map(list, found)) for stream, found in self.shifts.items()}

    @property
    def note(self) -> Note:
        """What is wrong with the file."""
        pieces = 1 + max(map(len, self.shifts.values()))
        return Note.of(
            "times-restart",
            f"The file's times start again: it is made of {pieces} pieces, which follow each other in the result.",
        )

    def place(self, stream: int) -> int:
        """The number in the copy of what is stream `stream` in the file."""
        return list(self.shifts).index(stream)

    @contextmanager
    def copied(
        self,
        path: Path,
        folder: Path,
        check: Callable[[], None] = nothing,
        progressed: Callable[[], None] = nothing,
    ) -> Iterator[Path]:
        """A copy of the video at ``path`` in ``folder``, whose timestamps go on. It is removed in the end.

        ``check`` is called several times a second, and may raise to stop; ``progressed`` while the copy grows.
        """
        copy = folder / "copy.nut"
        try:
            with ffmpeg.Process(self._command(path, copy)) as process:
                if process.watch(check, progressed):
                    raise process.blame(ffmpeg.not_written("copied", process.messages))
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def _command(self, path: Path, copy: Path) -> list[str]:
        source = ffmpeg.source(path, fflags="+genpts")  # the copy has a time for every packet
        options: dict[str, Any] = {"c": "copy", "copyinkf": None, "avoid_negative_ts": "disabled"}
        for k, shifts in enumerate(self.shifts.values()):
            shift = "".join(f"+gte(N\\,{number})*({ticks})" for number, ticks in shifts)
            pts, dts = (f"if(eq({name}\\,NOPTS)\\,NOPTS\\,{name}{shift})" for name in ("PTS", "DTS"))
            options[f"bsf:{k}"] = f"setts=pts={pts}:dts={dts}"
        streams = [source[str(stream)] for stream in self.shifts]
        return ffmpeg.command(ffmpeg.output(*streams, url=ffmpeg.url(copy), format="nut", **options))
