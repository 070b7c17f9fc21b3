"""Fitting a network into a machine's main memory: what it takes on a CPU, and what there is.

Main memory that runs out is no error that a process could catch: the system ends it. So a frame that would take more
than there is gets refused before it is begun.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dain_core.network.networks import NETWORKS, Config, is_narrowed
from dain_core.runtime.memory import GIB, FrameTooLargeError

#: The pixels of a band of the synthesis; see `dain_core.runtime.backends.cpu`.
BAND_PIXELS = 2**19
#: Bytes for each pixel of pictures: those that the caller gives, and results that wait to be fetched.
_CALLERS = 72
#: Bytes for libraries, and for what their allocators keep.
_LIBRARIES = GIB // 2


@dataclass(frozen=True)
class Need:
    """What a network takes on a CPU in float32, as measured: bytes for each pixel.

    Attributes:
        kept: of two frames and what lies between them.
        stages: of the largest stage at work, beside that, which sees whole frames.
        band: of the synthesis of a band, for each of its pixels; 0 where the synthesis is not made in bands.
    """

    kept: int
    stages: int
    band: int = 0

    def bytes(self, height: int, width: int) -> int:
        """The most that is taken at a time, without the weights."""
        pixels = height * width
        at_work = max(self.stages * pixels, self.band * min(pixels, BAND_PIXELS))
        return _LIBRARIES + (self.kept + _CALLERS) * pixels + at_work


#: From narrow to wide: a network whose widths lie between two is taken for the wider one.
NEEDS: Mapping[Config, Need] = {
    NETWORKS["dain-lite"]: Need(kept=900, stages=300, band=1600),
    NETWORKS["dain"]: Need(kept=2700, stages=600, band=5600),
    NETWORKS["dain-refined"]: Need(kept=550, stages=1100),
}


def check_fits(config: Config, height: int, width: int, budget: int) -> None:
    """Raise FrameTooLargeError where a frame needs more than `budget` bytes; see `needed_bytes`."""
    needed = needed_bytes(config, height, width)
    if needed > budget:
        raise FrameTooLargeError(
            f"a frame of {width}x{height} needs about {needed / GIB:.1f} GiB of main memory, and "
            f"{max(budget, 0) / GIB:.1f} GiB may be used: use a machine with more of it or with a GPU, "
            "choose a smaller model, or scale the video down",
            needed,
        )


def needed_bytes(config: Config, height: int, width: int) -> int:
    """What a frame takes of main memory, by `NEEDS`.

    A smaller network is taken to need as much as the one that it is a part of, and one that is a part of none as much
    as the largest of its kind.
    """
    needs = [need for wide, need in NEEDS.items() if is_narrowed(config, wide)]
    largest = [need for wide, need in NEEDS.items() if type(wide) is type(config)][-1]
    return [*needs, largest][0].bytes(height, width)


def usable_ram(beside: int = 0) -> int:
    """Four fifths of the main memory that this process has or can still get, in bytes; no bound where none is known.

    Args:
        beside: bytes of it that this process has and that are in none of its pages, as a GPU's are.
    """
    if sys.platform != "linux":
        return sys.maxsize
    limits = [_available(), *_left_in_groups()]
    return int(0.8 * (min(limits) + resident() + beside))


def _available() -> int:
    """What the system could give without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo does not say how much memory is available")


def resident() -> int:
    """The bytes that this process has. What it freed is among it, and is used again."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _left_in_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[int]:
    """What each control group around this process, of either version, lets it have yet. Caches are given up first."""
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left(root, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            yield from _left(
                root / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            )


def _left(root: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    inner = root / path.lstrip("/")
    for group in (inner, *inner.parents):
        with suppress(OSError, ValueError):  # no such group is seen from here, or it has no limit ("max")
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            yield (
                int((group / limit).read_text()) - int((group / usage).read_text()) + int(stat.get(cache, 0))
            )
        if group == root:
            break
