"""Pictures in a ZIP archive: which of its files are pictures, and in which order they are shown."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

#: Suffix of a file's name -> FFmpeg's decoder of such pictures.
KINDS = {
    "bmp": "bmp",
    "dpx": "dpx",
    "exr": "exr",
    "jpeg": "mjpeg",
    "jpg": "mjpeg",
    "pgm": "pgm",
    "png": "png",
    "ppm": "ppm",
    "qoi": "qoi",
    "tif": "tiff",
    "tiff": "tiff",
    "webp": "webp",
}
SIGNATURE = b"PK\x03\x04"  # that an archive begins with


def kind(name: str) -> str | None:
    """FFmpeg's decoder of the picture in a file of this name; None where it is no picture."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return None if hidden else KINDS.get(path.suffix[1:].lower())


def in_order(names: Iterable[str]) -> list[str]:
    """`names` by the numbers in them: frame2.png comes before frame10.png."""
    return sorted(
        names,
        key=lambda name: [
            (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in _parts(name)
        ],
    )


@contextmanager
def archived(source: Path) -> Iterator[Path]:
    """`source`; where that is a folder, a ZIP archive of the pictures in it, which is removed in the end.

    Raises:
        ValueError: the folder holds no pictures.
    """
    if not source.is_dir():
        yield source
        return
    names = in_order(path.name for path in source.iterdir() if path.is_file() and kind(path.name))
    if not names:
        raise ValueError(f"{source} holds no pictures: none of its files is a {', '.join(KINDS)}")
    with TemporaryDirectory(prefix="dain-") as folder:
        archive = Path(folder, f"{source.resolve().name}.zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            for name in names:
                packed.write(source / name, name)
        yield archive


def _parts(name: str) -> list[str]:
    return re.findall(r"[0-9]{1,18}|[^0-9]+", name.lower())
