"""How well cuts are told from motion, fades and flashes: `dain bench cuts`, with cuts that are made of real clips."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from worker.cuts import Thumbnail, Transition, difference, transition
from worker.media.decode import Decoder, Plane
from worker.media.sandbox import probe
from worker.media.times import frame_times

FRAMES = 32  # of each clip
WIDTH = 480  # samples about, of which frames are compared
PANS = (0.06, 0.12)  # of the width, a frame
CLOSER = 0.7  # of the picture, in a cut to a closer shot of the same scene
FLASH = 2.2  # times the light
FADE = np.array([0, 0, 0, 1 / 3, 2 / 3, 1, 1])  # the share of the second scene in each frame

Light = Callable[[Plane], Plane]

#: What is done to brightness between 0 and 1.
LIGHTS: dict[str, Light] = {
    "as filmed": lambda light: light,
    "a quarter of the light": lambda light: light / 4,
    "night (gamma 2.2, x0.3)": lambda light: 0.3 * light**2.2,
    "fog (contrast x0.15)": lambda light: 0.6 + 0.15 * (light - 0.6),
    "dark (x0.1)": lambda light: light / 10,
    "night with noise (deviation 5)": lambda light: 0.3 * light**2.2 + _noise(light.shape, 5 / 219),
}


@dataclass(frozen=True)
class Row:
    """What is found in one light, at one threshold. Each field is (how many, of how many)."""

    light: str
    cuts: tuple[int, int]
    closer: tuple[int, int]  #: cuts to a closer shot of the same scene
    motion: tuple[int, int]  #: pairs of neighbours in a clip that are taken for cuts, fades or flashes
    pans: tuple[int, int]  #: the same, of made pans
    flashes: tuple[int, int]  #: flashes of one frame, both of whose sides are told
    fades: tuple[int, int]  #: pairs of frames in fades of three frames

    @property
    def precision(self) -> float:
        """Of what is taken for a cut, the share that is one; with as many cuts as were made here."""
        return self.cuts[0] / max(1, self.cuts[0] + self.motion[0] + self.pans[0])


def read(path: Path) -> Plane:
    """The first frames' brightness, from 0 to 1: frames x rows x columns."""
    info, timeline = probe(path), frame_times(path)
    step = max(1, info.width // WIDTH)
    with Decoder(path, info, 0, min(FRAMES, len(timeline.times)) - 1, timeline) as decoder:
        lumas = np.stack([frame.planes[0][::step, ::step] for frame in decoder])
    deep = 4 if lumas.dtype != np.uint8 else 1
    black, white = (0, 255) if info.full_range else (16, 235)
    light = np.clip((lumas.astype(np.float32) / deep - black) / (white - black), 0, 1)
    clip: Plane = light.astype(np.float16)
    return clip


def measure(clips: Sequence[Plane], name: str, threshold: float) -> Row:
    """What is found in ``clips``, as `read` gives them, in the light ``LIGHTS[name]``."""
    light = LIGHTS[name]
    thumbnails = [_thumbnails(clip, light) for clip in clips]
    pairs = [(one[-1], other[0]) for one, other in itertools.permutations(thumbnails, 2)]
    closer = [(_thumbnails(clip[:1], light)[0], _thumbnails(_middle(clip[1:2]), light)[0]) for clip in clips]
    pans = [_thumbnails(pan, light) for clip in clips for pan in map(_pan(clip[0]), PANS)]
    follows = [clips[(k + 1) % len(clips)] for k in range(len(clips))]
    faded = [
        _fade(clip, other) for clip, other in zip(clips, follows, strict=True) if len(clip) > 6 < len(other)
    ]
    lit = [_flash(clip) for clip in clips if len(clip) > 6]
    return Row(
        light=name,
        cuts=_count(difference(*pair) > threshold for pair in pairs),
        closer=_count(difference(*pair) > threshold for pair in closer),
        motion=_count(_is_no_motion(frames, threshold) for frames in thumbnails),
        pans=_count(_is_no_motion(frames, threshold) for frames in pans),
        flashes=_count(
            _told(_thumbnails(clip, light), threshold)[2:4] == [Transition.FLASH, Transition.FLASH_ENDS]
            for clip in lit
        ),
        fades=_count(
            told is Transition.FADE
            for clip in faded
            for told in _told(_thumbnails(clip, light), threshold)[2:5]
        ),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    heads = ("light", "cuts found", "precision", "to a closer shot", "motion", "pans", "flashes", "fades")
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        shares = [f"{100 * row.cuts[0] / row.cuts[1]:.1f} %", f"{100 * row.precision:.1f} %"]
        counts = [
            f"{found} of {of}" for found, of in (row.closer, row.motion, row.pans, row.flashes, row.fades)
        ]
        lines.append(f"| {' | '.join([row.light, *shares, *counts])} |")
    return "\n".join(lines)


def _noise(shape: tuple[int, ...], deviation: float) -> Plane:
    return np.random.default_rng(0).normal(0, deviation, shape).astype(np.float32)


def _thumbnails(clip: Plane, light: Light) -> list[Thumbnail]:
    coded = np.clip(np.rint(16 + 219 * light(clip.astype(np.float32))), 0, 255).astype(np.uint8)
    return [Thumbnail.of(frame) for frame in coded]


def _told(frames: Sequence[Thumbnail], threshold: float) -> list[Transition]:
    around = [None, *frames, None]
    quartets: Any = zip(around, around[1:], around[2:], around[3:], strict=False)
    return [transition(before, first, second, after, threshold) for before, first, second, after in quartets]


def _is_no_motion(frames: Sequence[Thumbnail], threshold: float) -> list[bool]:
    return [told is not Transition.MOTION for told in _told(frames, threshold)]


def _count(found: Any) -> tuple[int, int]:
    flat = [each for some in found for each in (some if isinstance(some, list) else [some])]
    return sum(map(bool, flat)), len(flat)


def _middle(clip: Plane) -> Plane:
    """The middle of the picture."""
    rows, columns = clip.shape[1:]
    down, across = round(rows * (1 - CLOSER) / 2), round(columns * (1 - CLOSER) / 2)
    return clip[:, down : rows - down, across : columns - across]


def _pan(picture: Plane) -> Callable[[float], Plane]:
    """Frames of a camera that goes over a still picture, by a share of its width a frame."""

    def pan(share: float) -> Plane:
        width = round(picture.shape[1] * 0.6)
        lefts = range(0, picture.shape[1] - width + 1, round(share * width))
        return np.stack([picture[:, left : left + width] for left in lefts])

    return pan


def _flash(clip: Plane) -> Plane:
    """Seven frames, the fourth of them under a flash."""
    lit = clip[:7].copy()
    lit[3] = np.minimum(lit[3] * FLASH, 1)
    return lit


def _fade(clip: Plane, other: Plane) -> Plane:
    """Seven frames that fade from one clip to another of about its size."""
    rows, columns = (min(sizes) for sizes in zip(clip.shape[1:], other.shape[1:], strict=True))
    one, two = clip[:7, :rows, :columns], other[:7, :rows, :columns]
    share = FADE[:, None, None].astype(np.float32)
    faded: Plane = one * (1 - share) + two * share
    return faded


@click.command()
@click.argument(
    "clips", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--threshold", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="As scene_threshold."
)
def cuts(clips: tuple[Path, ...], threshold: float) -> None:
    """Measure how well cuts are found: a table, in Markdown, of cuts that are made of CLIPS in several lights."""
    if len(clips) < 2:
        raise click.UsageError("cuts are made of two clips or more: name more of them")
    read_clips = [read(clip) for clip in clips]
    click.echo(table([measure(read_clips, light, threshold) for light in LIGHTS]))
