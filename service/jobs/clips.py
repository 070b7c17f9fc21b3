"""Which videos a command line means: files, folders, and patterns that no shell has resolved.

A folder in which results lie beside their videos stands for the videos alone.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from service.jobs.stills import in_order, kind

#: Suffixes of the names of videos, by which those in a folder are found. A file that is named itself may have any.
SUFFIXES = frozenset({
    "3g2", "3gp", "apng", "asf", "avi", "divx", "dv", "flv", "gif", "h264", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4",
    "mpeg", "mpg", "mts", "mxf", "ogv", "ts", "vob", "webm", "wmv", "y4m",
})  # fmt: skip


#: What is behind the name of a video in that of a result: what was made of it (`Options.suffix`), and perhaps a number.
_MADE = re.compile(r"(.+?)(?:-[\d.]+(?:x|x-slower|fps)|-preview|-compared)+(?:-\d+|-new)*")


def clips_of(words: Iterable[str], tell: Callable[[str], None]) -> list[Path]:
    """The videos that `words` name, each once, in their order; those of a folder in the order of the numbers in them.

    A folder of pictures without videos is one video. Folders within a folder are not looked into. A video that by its
    name was made of another beside it, which is named, too, is left out; `tell` gets a sentence of that.

    Raises:
        ValueError: a word names nothing; the text is a sentence without its full stop.
    """
    found = list(dict.fromkeys(clip for word in words for clip in _clips(word)))
    by_name = {clip.with_suffix(""): clip for clip in found}
    taken = []
    for clip in found:
        made = _MADE.fullmatch(clip.stem)
        if made and (source := by_name.get(clip.with_name(made[1]))):
            tell(
                f"{clip} is left out: by its name it was made of {source.name}. Name it alone to have it taken."
            )
        else:
            taken.append(clip)
    return taken


def _clips(word: str) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        yield from _in_folder(path)
    elif path.is_file():
        yield path
    elif path.exists():
        raise ValueError(f"{word} is neither a file nor a folder")
    elif glob.has_magic(word):
        found = [Path(name) for name in in_order(glob.glob(word, recursive=True))]
        # Whoever reads a pipe waits for ever.
        clips = [path for path in found if _is_clip(path) and path.is_file()]
        if not clips:
            raise ValueError(f"{word} matches no video")
        yield from clips
    else:
        raise ValueError(f"there is no file or folder {word}")


def _in_folder(folder: Path) -> Iterator[Path]:
    names = [path.name for path in folder.iterdir() if path.is_file()]
    clips = [name for name in in_order(names) if _is_clip(Path(name))]
    if clips:
        yield from (folder / name for name in clips)
    elif any(map(kind, names)):
        yield folder
    else:
        raise ValueError(f"{folder} holds neither videos nor pictures")


def _is_clip(path: Path) -> bool:
    return path.suffix[1:].lower() in SUFFIXES and not path.name.startswith(".")
