"""Joined pictures into an animation, or into a zip of pictures: they are encoded at the end, as one."""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from worker.media import ffmpeg
from worker.media.containers import Rendering, container_of
from worker.media.delivery import Delivery

DIGITS = 8
TIMES = "times.csv"  # of a zip: when each picture is shown, in seconds
EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a file in a zip: the same pictures make the same zip


def render(
    picture: Path,
    shown: Sequence[Fraction],
    delivery: Delivery,
    out_path: Path,
    check: Callable[[], None],
    progressed: Callable[[], None],
) -> None:
    """Make the result of ``picture``, the joined pictures. Frame k is shown from ``shown[k]`` to ``shown[k + 1]``.

    Raises as `worker.media.join.join` does.
    """
    make = container_of(delivery).rendering
    assert make is not None
    rendering = make(delivery)
    scratch = out_path.with_name(f"{out_path.name}.pictures")
    scratch.mkdir()
    try:
        if not rendering.suffix:
            palette = scratch / "palette.png" if rendering.has_palette else None
            if palette:
                _run(_palette(picture, rendering, delivery, palette), check, progressed)
            last = shown[-1] - shown[-2]
            _run(_animation(picture, rendering, palette, last, delivery, out_path), check, progressed)
            return
        _run(_pictures(picture, rendering, delivery, scratch), check, progressed)
        _zip(scratch, shown, rendering.suffix, out_path, check, progressed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(command: list[str], check: Callable[[], None], progressed: Callable[[], None]) -> None:
    with ffmpeg.Process(command) as process:
        if process.watch(check, progressed):
            raise process.blame(ffmpeg.not_written("put together", process.messages))


def _filtered(picture: Path, rendering: Rendering, delivery: Delivery) -> Any:
    """The pictures as they are shown: upright, of square pixels, and these as they are to be in the file."""
    stream = ffmpeg.own_source(ffmpeg.url(picture), copyts=None, **_turned(delivery.display_matrix))["v:0"]
    if delivery.sample_aspect_ratio != 1:
        wider, higher = "round(iw*max(sar,1))", "round(ih*max(1/sar,1))"
        stream = stream.filter("scale", wider, higher, flags="bicubic+accurate_rnd").filter("setsar", 1)
    for name, options in rendering.filters:
        stream = stream.filter(name, **options)
    return stream


def _turned(matrix: Sequence[int]) -> dict[str, Any]:
    """FFmpeg's options for an input that is shown by a display matrix, which it turns upright then."""
    if not matrix:
        return {}
    a, b, _, c, d = matrix[:5]
    is_mirrored = a * d < b * c
    degrees = math.degrees(math.atan2(-c if is_mirrored else c, -a if is_mirrored else a))
    return {"display_rotation": f"{degrees:.3f}", **({"display_hflip": None} if is_mirrored else {})}


def _palette(picture: Path, rendering: Rendering, delivery: Delivery, palette: Path) -> list[str]:
    """The best 256 colours for all pictures: found first, so that no more than one of them is held at a time."""
    stream = _filtered(picture, rendering, delivery).filter("palettegen")
    return ffmpeg.command(ffmpeg.output(stream, url=ffmpeg.url(palette), format="image2", update=1))


def _animation(
    picture: Path,
    rendering: Rendering,
    palette: Path | None,
    last: Fraction,
    delivery: Delivery,
    out_path: Path,
) -> list[str]:
    stream = _filtered(picture, rendering, delivery)
    if palette:
        stream = ffmpeg.merged([stream, ffmpeg.own_source(ffmpeg.url(palette))], "paletteuse")
    options = {"format": container_of(delivery).muxer, "enc_time_base": "demux", **rendering.options}
    if rendering.final_delay:
        options["final_delay"] = rendering.final_delay(last)
    return ffmpeg.command(ffmpeg.output(stream, url=ffmpeg.url(out_path), fps_mode="passthrough", **options))


def _pictures(picture: Path, rendering: Rendering, delivery: Delivery, folder: Path) -> list[str]:
    named = ffmpeg.url(folder / f"frame-%0{DIGITS}d{rendering.suffix}")
    options = {"format": "image2", "fps_mode": "passthrough", **rendering.options}
    return ffmpeg.command(ffmpeg.output(_filtered(picture, rendering, delivery), url=named, **options))


def _zip(
    folder: Path,
    shown: Sequence[Fraction],
    suffix: str,
    out_path: Path,
    check: Callable[[], None],
    progressed: Callable[[], None],
) -> None:
    """Put the pictures, which are packed already, into a zip, and their times. Each is removed once it is there."""
    lines = ["picture,seconds\n"]
    with zipfile.ZipFile(out_path, "w") as made:
        for number, path in enumerate(sorted(folder.glob(f"*{suffix}"))):
            check()
            with made.open(zipfile.ZipInfo(path.name, EARLIEST), "w") as target, path.open("rb") as file:
                shutil.copyfileobj(file, target)
            path.unlink()
            lines.append(f"{path.name},{shown[number]}\n")
            progressed()
        made.writestr(zipfile.ZipInfo(TIMES, EARLIEST), "".join(lines))
