"""Reads videos and benchmarks as samples: two frames that a method sees, and the true frames between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from dain_core.evaluation.pictures import (
    VIDEOS,
    EvaluationError,
    pictures_of,
    read_picture,
    read_video,
)

#: The default number of samples of a video. The mean hardly changes with more samples.
VIDEO_SAMPLES = 30


@dataclass(frozen=True)
class Sample:
    """Two frames and the true frames between them. All frames are (1, 3, H, W), uint8 RGB.

    Attributes:
        clip: the name of the clip.
        name: the name of the sample within its clip.
        place: the index of the first frame in the clip; None if the clip is not a sequence of frames.
        counted: whether the sample counts in means. A sample that does not count serves to measure flicker.
        first, last: the frames that a method sees.
        times: the times of the true frames; `first` is at 0, `last` at 1.
        truths: the true frames at `times`.
    """

    clip: str
    name: str
    place: int | None
    counted: bool
    first: Tensor
    last: Tensor
    times: tuple[float, ...]
    truths: tuple[Tensor, ...]

    def follows(self, other: Sample) -> bool:
        """Return whether this sample begins one frame after `other`, in the same clip."""
        if self.place is None or other.place is None:
            return False
        return self.clip == other.clip and self.place == other.place + 1


@dataclass(frozen=True)
class Selection:
    """The choice of the samples of a clip, and the preparation of their frames.

    Attributes:
        limit: the largest number of samples, which are spread evenly. None is 30 for a video and all for a list of a
            benchmark; 0 is all.
        every: only every n-th sample is taken.
        gap: the distance from the first frame to the last, in frames of a video. The `gap` - 1 frames between them are
            the truth.
        neighbours: whether the sample that begins one frame later is taken too, to measure flicker.
        downscale: the whole factor by which frames are shrunk, by means over areas.
        crop: the (width, height) that is cut out of the middle after that, in pixels; None keeps the whole frame.
    """

    limit: int | None = None
    every: int = 1
    gap: int = 2
    neighbours: bool = False
    downscale: int = 1
    crop: tuple[int, int] | None = None

    def places(self, count: int, default: int = 0) -> list[int]:
        """Return the indices of the chosen samples among `count` samples. `default` is the limit if there is none."""
        chosen = range(0, count, self.every)
        limit = default if self.limit is None else self.limit
        if not limit or limit >= len(chosen):
            return list(chosen)
        if limit == 1:
            return [chosen[len(chosen) // 2]]
        return [chosen[index * (len(chosen) - 1) // (limit - 1)] for index in range(limit)]

    def prepare(self, frame: Tensor, name: str) -> Tensor:
        """Downscale and crop `frame`, (..., H, W).

        Raises:
            EvaluationError: the frame is too small; the message begins with `name`.
        """
        rows, columns = frame.shape[-2:]
        if min(rows, columns) < self.downscale:
            raise EvaluationError(
                f"{name}: {columns}x{rows} cannot be shrunk {self.downscale} times: choose a smaller --downscale."
            )
        if self.downscale > 1:
            frame = F.avg_pool2d(frame.float(), self.downscale).round().to(frame.dtype)
        if self.crop:
            (width, height), (rows, columns) = self.crop, frame.shape[-2:]
            if width > columns or height > rows:
                raise EvaluationError(
                    f"{name}: {width}x{height} cannot be cut out of {columns}x{rows}: choose a smaller --crop."
                )
            top, left = (rows - height) // 2, (columns - width) // 2
            frame = frame[..., top : top + height, left : left + width]
        return frame


class Clip(Protocol):
    """A sequence of samples that has its own line in tables."""

    @property
    def name(self) -> str: ...

    def samples(self, selection: Selection) -> Iterator[Sample]:
        """Read the chosen samples in order.

        Raises:
            EvaluationError: a file cannot be read, or its size does not fit.
        """
        ...


@dataclass(frozen=True)
class Film:
    """A clip that is a sequence of frames.

    Attributes:
        name: the name of the clip.
        path: the video file or the folder of frames.
        read: reads the frames from `path`.
        count: counts the frames in `path`.
    """

    name: str
    path: Path
    read: Callable[[Path], Iterable[Tensor]]
    count: Callable[[Path], int]

    @classmethod
    def video(cls, path: Path) -> Film:
        """Make the clip of a video file."""
        # The number of frames in a file's header is not always true. Therefore the file is decoded twice.
        return cls(path.stem, path, read_video, lambda path: sum(1 for _ in read_video(path)))

    @classmethod
    def folder(cls, path: Path) -> Film:
        """Make the clip of a folder of frames."""
        return cls(path.name, path, _read_frames, lambda path: len(pictures_of(path)))

    def samples(self, selection: Selection) -> Iterator[Sample]:
        """Read the chosen samples; see `Clip.samples`."""
        gap = selection.gap
        count = self.count(self.path)
        if count <= gap:
            raise EvaluationError(
                f"{self.path}: has {count} frames, but a sample takes {gap + 1}. "
                + ("Give a longer clip." if gap == 2 else "Give a longer clip, or a smaller --gap.")
            )
        counted = set(selection.places(count - gap, VIDEO_SAMPLES))
        wanted = counted | {min(place + 1, count - gap - 1) for place in counted if selection.neighbours}
        window: deque[Tensor] = deque(maxlen=gap + 1)
        for index, frame in enumerate(self.read(self.path)):
            window.append(frame)
            place = index - gap
            if place in wanted:
                frames = [selection.prepare(x, str(self.path)) for x in window]
                yield _sample(self.name, f"{place}", place, place in counted, frames)


@dataclass(frozen=True)
class Listed:
    """A clip that is the list of a benchmark.

    Attributes:
        name: the name of the clip.
        entries: for each sample its name and its picture files: the first frame, the true frames, the last frame.
    """

    name: str
    entries: Sequence[tuple[str, Sequence[Path]]]

    def samples(self, selection: Selection) -> Iterator[Sample]:
        """Read the chosen samples; see `Clip.samples`."""
        for index in selection.places(len(self.entries)):
            name, paths = self.entries[index]
            frames = [selection.prepare(read_picture(path), str(path)) for path in paths]
            for path, frame in zip(paths, frames, strict=True):
                _same_size(frame, frames[0], path)
            yield _sample(self.name, name, None, True, frames)


def find_clips(path: Path) -> list[Clip]:
    """Return the clips at `path`.

    Args:
        path: a video, a folder of frames, the folder or list of a benchmark, or a folder of any of these.

    Raises:
        EvaluationError: there is no clip at `path`.
    """
    if not path.exists():
        raise EvaluationError(f"{path}: there is no such file or folder.")
    if path.is_file():
        return [_snu_film(path)] if path.suffix == ".txt" else [Film.video(path)]
    clips = _benchmark(path) or _frames_of(path)
    if not clips:
        clips = [Film.video(file) for file in sorted(path.iterdir()) if _is_video(file)]
    for folder in sorted(path.iterdir()) if not clips else []:
        if folder.is_dir():
            clips += _benchmark(folder) or _frames_of(folder)
    if not clips:
        raise EvaluationError(
            f"{path}: holds no video, no folder of frames and none of the known benchmarks. "
            "docs/evaluation.md shows the expected folders."
        )
    return clips


def _sample(clip: str, name: str, place: int | None, counted: bool, frames: Sequence[Tensor]) -> Sample:
    gap = len(frames) - 1
    times = tuple(step / gap for step in range(1, gap))
    return Sample(clip, name, place, counted, frames[0], frames[-1], times, tuple(frames[1:-1]))


def _same_size(frame: Tensor, first: Tensor, path: Path) -> None:
    if frame.shape != first.shape:
        sizes = (f"{x.shape[-1]}x{x.shape[-2]}" for x in (frame, first))
        raise EvaluationError(
            f"{path}: is {' and not '.join(sizes)} like the first frame: scale it or leave it out."
        )


def _is_video(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in VIDEOS


def _frames_of(folder: Path) -> list[Clip]:
    return [Film.folder(folder)] if pictures_of(folder) else []


def _read_frames(folder: Path) -> Iterator[Tensor]:
    first: Tensor | None = None
    for path in pictures_of(folder):
        frame = read_picture(path)
        first = frame if first is None else first
        _same_size(frame, first, path)
        yield frame


def _benchmark(folder: Path) -> list[Clip]:
    """Return the clips of a folder that has the structure of a benchmark; none for any other folder."""
    for layout in (_vimeo, _middlebury, _ucf101, _snu_film_lists):
        if clips := layout(folder):
            return clips
    return []


def _vimeo(folder: Path) -> list[Clip]:
    """Find the triplets of Vimeo-90K (Xue et al., 2019): tri_testlist.txt, sequences/00001/0001/im1.png to im3.png."""
    index = folder / "tri_testlist.txt"
    if not index.is_file():
        return []
    names = index.read_text().split()
    entries = [(name, [folder / "sequences" / name / f"im{k}.png" for k in (1, 2, 3)]) for name in names]
    return [_listed("Vimeo-90K", index, entries)]


def _middlebury(folder: Path) -> list[Clip]:
    """Find the interpolation set of Middlebury (Baker et al., 2011): other-data, and the truth in other-gt-interp."""
    inputs, truths = folder / "other-data", folder / "other-gt-interp"
    if not (inputs.is_dir() and truths.is_dir()):
        return []
    found = sorted(truths.glob("*/frame10i11.png"))
    entries = [
        (
            truth.parent.name,
            [inputs / truth.parent.name / "frame10.png", truth, inputs / truth.parent.name / "frame11.png"],
        )
        for truth in found
    ]
    return [_listed("Middlebury", truths, entries)]


def _ucf101(folder: Path) -> list[Clip]:
    """Find the UCF101 set of deep voxel flow (Liu et al., 2017): N/frame_00.png, frame_01_gt.png, frame_02.png."""
    found = sorted(folder.glob("*/frame_01_gt.png"))
    entries = [
        (truth.parent.name, [truth.with_name("frame_00.png"), truth, truth.with_name("frame_02.png")])
        for truth in found
    ]
    return [_listed("UCF101", folder, entries)] if entries else []


def _snu_film_lists(folder: Path) -> list[Clip]:
    lists = {path.stem: path for path in [*folder.glob("test-*.txt"), *folder.glob("eval_modes/test-*.txt")]}
    grades = [f"test-{grade}" for grade in ("easy", "medium", "hard", "extreme")]
    return [_snu_film(lists[name]) for name in grades if name in lists]


def _snu_film(index: Path) -> Listed:
    """Read a list of SNU-FILM (Choi et al., 2020), whose lines are three paths.

    A path is like data/SNU-FILM/test/GOPRO_test/x/000001.png. Leading folders of a path that do not exist beside the
    list are left out.
    """
    entries = []
    for number, line in enumerate(index.read_text().splitlines(), 1):
        parts = line.split()
        if parts and len(parts) != 3:
            raise EvaluationError(
                f"{index}: line {number} names {len(parts)} files, not 3: is it a list of triplets?"
            )
        if parts:
            paths = [_locate(index, part) for part in parts]
            entries.append((f"{Path(parts[1]).parent.name}/{Path(parts[1]).stem}", paths))
    return _listed(f"SNU-FILM {index.stem.removeprefix('test-')}", index, entries)


def _locate(index: Path, name: str) -> Path:
    parts = Path(name).parts
    for base in (index.parent, index.parent.parent):
        for skip in range(len(parts)):
            candidate = base.joinpath(*parts[skip:])
            if candidate.is_file():
                return candidate
    raise EvaluationError(
        f"{index}: names {name}, which is nowhere beside it. Put the list into the folder that holds `test`."
    )


def _listed(name: str, index: Path, entries: Sequence[tuple[str, Sequence[Path]]]) -> Listed:
    if not entries:
        raise EvaluationError(f"{index}: names no triplet. Unpack the benchmark's archive again.")
    return Listed(name, entries)
