"""The one way to look into a stranger's file: a process that can do no harm, whatever the file makes of it.

Demuxers and decoders are where such files do their harm. So the service and the worker open no file themselves. They
ask a process of its own (`worker.media.probe`), which has limits on memory, processor time, output and open files, an
empty folder that nothing can be put into, and an empty environment. Once it knows its file it can open no other, and
has no network (`worker.media.confinement`). It is killed with its children when it overstays.

    sandbox.probe(path)                    from a worker
    python -m worker.media.forkserver      from the service, which imports nothing of the worker

A question is answered by a verdict on the file, which is final (``MediaError``, or what was asked for), or by nothing
(``MachineError``). Only what the process itself does counts against the file. A process that was too slow, or that
something outside ended, says nothing about it.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from worker.media.errors import MachineError, MediaError, disk_full, unreadable
from worker.media.facts import DEFAULT_CHOICE, DEFAULT_LIMITS, Choice, Limits, VideoInfo, read_fraction
from worker.media.moved import Moved

T = TypeVar("T")

PROBER = "worker.media.probe"
PACKAGES = Path(__file__).parents[2]
INSIDE = [sys.executable, "-P", "-s", "-m", "worker.media.sandbox"]

# Demuxers for files of strangers. Playlists (HLS, DASH, concat) are not among them: they open other files.
TIMED = "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf,gif,mxf,ivf,nut,yuv4mpegpipe,apng,dv,gxf,rm,swf,wtv"
TIMELESS = (
    "dirac,dnxhd,h261,h263,h264,hevc,jpeg_pipe,m4v,mjpeg,mpegvideo,obu,vc1,vvc"  # streams without a container
)
FORMATS = f"{TIMED},{TIMELESS},webp_anim"
PROTOCOLS = "file"

MEMORY_BYTES = 4 << 30  # of address space, which threads and libraries fill faster than memory
OUTPUT_BYTES = 32 << 20  # the times of some millions of frames
OPEN_FILES = 64
LEAST_SECONDS = 60.0
SLOWEST_DISK = 20e6  # bytes a second: a look may read the whole file
SLOWEST_READER = 1e6  # bytes a second of packets as small as they come, such as those of a picture at rest
MOST_SECONDS_OF_SMALL = 240.0  # for these: what is larger has larger packets
CPU_SHARE = 0.5  # of these seconds: a file that is hard to read uses the processor, a slow disk does not
LONGEST = 4  # times these seconds, of a process that waits for a processor
LOOK_SECONDS = 0.2  # between two calls of `check`
HARD_LIMIT_SECONDS = 5  # after SIGXCPU comes SIGKILL

VERDICTS = {
    "invalid-option",
    "unreadable-video",
    "unsupported-format",
    "no-video-stream",
    "damaged-video",
    "limit-exceeded",
}

CANNOT_WRITE = 120  # exit status of a Python that could not write all of its answer

# A process that one of these signals ended is the victim of something outside it.
FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class _Crashed(Exception):
    """The process ended itself without an answer."""


class Process(Protocol):
    """A process that was started; `subprocess.Popen` is one."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative where a signal ended it; raises subprocess.TimeoutExpired."""
        ...


class Start(Protocol):
    """Starts the process inside, in a process group of its own, in a folder that is removed already.

    `arguments` are its seconds of processor time and the command line of the prober, `answer` and `messages` are its
    standard output and error.
    """

    def __call__(self, arguments: Sequence[str], answer: IO[bytes], messages: IO[bytes]) -> Process: ...


def spawn(arguments: Sequence[str], answer: IO[bytes], messages: IO[bytes]) -> Process:
    """Start the process inside as an interpreter of its own; see `Start`."""
    with nowhere() as folder:
        return subprocess.Popen(
            [*INSIDE, PROBER, *arguments],
            cwd=folder,
            env={"PATH": os.defpath, "PYTHONPATH": str(PACKAGES), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=messages,
            start_new_session=True,
        )


@contextmanager
def nowhere() -> Iterator[str]:
    """A folder for a process to be in that is removed already: nothing can be put into it, and no death leaves it."""
    folder = tempfile.mkdtemp()
    descriptor = os.open(folder, os.O_RDONLY)
    os.rmdir(folder)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def url(path: Path) -> str:
    """``path`` in a form of which FFmpeg takes no part for a protocol or an option."""
    return f"file:{path.absolute()}"


def seconds_for(path: Path) -> float:
    """How long a look into ``path`` may take, without what it waits for a processor: it grows with the file's size."""
    size = path.stat().st_size
    return LEAST_SECONDS + min(size / SLOWEST_READER, MOST_SECONDS_OF_SMALL) + size / SLOWEST_DISK


def probe(
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    check: Callable[[], None] = lambda: None,
    progressed: Callable[[], None] = lambda: None,
    start: Start = spawn,
    choice: Choice = DEFAULT_CHOICE,
) -> VideoInfo:
    """The facts about the video at ``path``.

    ``choice`` says what of the file is taken. ``check`` is called several times a second, and may raise to stop.
    ``progressed`` is called when the process has read more of the file. ``start`` starts the process.

    Raises:
        MediaError: the file is no video, is damaged, or is beyond ``limits``.
        MachineError: the machine was too slow, or ended the look.
    """
    asked = [
        f"--{name.replace('_', '-')}={value}" for name, value in vars(limits).items() if value is not None
    ]
    return look(
        "probe",
        path,
        *asked,
        *choice.arguments,
        read=lambda answer: VideoInfo.from_dict(answer["video"]),
        check=check,
        progressed=progressed,
        start=start,
    )


def picture(
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    check: Callable[[], None] = lambda: None,
    start: Start = spawn,
    choice: Choice = DEFAULT_CHOICE,
) -> dict[str, str | None]:
    """``picture``, the first frame of the video at ``path`` as a small JPEG in base64, and ``frames_of_one``.

    That is how many frames a job makes of one, as a fraction, by what the first frames show of fields; None where there
    are none. Takes and raises what `probe` does.
    """

    def read(answer: dict[str, Any]) -> dict[str, str | None]:
        drawn, fields = answer["picture"], answer["frames_of_one"]
        return {
            "picture": b64encode(b64decode(drawn, validate=True)).decode(),
            "frames_of_one": fields and str(read_fraction(fields)),
        }

    return look(
        "picture",
        path,
        f"--max-pixels={limits.max_pixels}",
        *choice.arguments,
        read=read,
        check=check,
        start=start,
    )


def look(
    question: str,
    path: Path,
    *arguments: str,
    read: Callable[[dict[str, Any]], T],
    check: Callable[[], None] = lambda: None,
    progressed: Callable[[], None] = lambda: None,
    start: Start = spawn,
    seconds: float = 0.0,
) -> T:
    """Ask the prober ``question`` about the file at ``path``; ``read`` makes sense of the answer.

    ``progressed`` is called when the process has read more of the file. What takes ``seconds`` may take them, too.

    A process that crashes gets a successor: only what happens twice is laid to the file. Raises as `probe` does.
    """
    for is_last in (False, True):
        try:
            answer = json.loads(_look(question, path, arguments, check, progressed, start, seconds))
            if error := answer.get("error"):
                raise _verdict(error["type"], error["detail"].replace(str(path.absolute()), "the file"))
            return read(answer)
        except _Crashed as crash:
            if is_last:
                raise unreadable(f"reading it failed twice ({crash})") from crash
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            # A process that a file has taken over may print anything.
            raise unreadable("reading it gave no sensible answer") from None
    raise AssertionError


def _verdict(slug: str, detail: str) -> MediaError:
    if slug == MachineError.SLUG:
        return MachineError(detail)
    return MediaError(slug if slug in VERDICTS else "unreadable-video", detail)


def _look(
    question: str,
    path: Path,
    arguments: Sequence[str],
    check: Callable[[], None],
    progressed: Callable[[], None],
    start: Start,
    seconds: float,
) -> bytes:
    """What one process of the prober printed."""
    seconds += seconds_for(path)
    inside = [str(int(seconds * CPU_SHARE)), question, *arguments, str(path.absolute())]
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as messages:
        process = start(inside, answer, messages)
        try:
            _wait(process, seconds, check, progressed)
        except subprocess.TimeoutExpired as late:
            raise MachineError(
                f"Looking into the file took longer than {late.timeout:.0f} s, which is ample for its size. "
                "The disk or the machine is too slow or too busy. The video may be fine: try again later."
            ) from None
        finally:
            status = _end(process)
        _judge(status, messages)
        answer.seek(0)
        return answer.read()


def _wait(
    process: Process, seconds: float, check: Callable[[], None], progressed: Callable[[], None]
) -> None:
    moved, begun = Moved(process.pid, progressed), time.monotonic()
    while True:
        check()
        moved.look()
        try:
            process.wait(LOOK_SECONDS)
            return
        except subprocess.TimeoutExpired:
            spent = time.monotonic() - begun
            if spent >= LONGEST * seconds or spent - _queued(process.pid) >= seconds:
                raise subprocess.TimeoutExpired([], spent) from None


def _queued(pid: int) -> float:
    """How many seconds a process could have run and had no processor, as far as the kernel tells."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _end(process: Process) -> int:
    """Kill what is left of the process's group; gives the process's exit status."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _judge(status: int, messages: IO[bytes]) -> None:
    """Raise where a process that ended by ``status`` gave no answer."""
    if status == 0:
        return
    if status < 0:
        name = signal.Signals(-status).name
        if -status in FROM_OUTSIDE:
            raise MachineError(
                f"The process that looked into the file was ended from outside ({name}). "
                "The machine may be short of memory, or stopping. The video may be fine: try again later."
            )
        if -status == signal.SIGXCPU:
            raise unreadable("reading it takes far too long")
        raise _Crashed(name)
    if status == CANNOT_WRITE:
        raise disk_full()
    messages.seek(0)
    lines = messages.read(1 << 16).decode(errors="replace").strip().splitlines()
    raise MachineError(
        f"The process that looks into files cannot work here: {lines[-1][:300] if lines else f'status {status}'}. "
        "Check the installation, and the memory that a process may have."
    )


# -- in the process of its own ------------------------------------------------------------------------


def limit_this_process(cpu_seconds: int) -> None:
    """Bound what this process may use. A lower bound that it came with stays."""
    limits = {
        resource.RLIMIT_AS: (MEMORY_BYTES, MEMORY_BYTES),
        resource.RLIMIT_CPU: (cpu_seconds, cpu_seconds + HARD_LIMIT_SECONDS),
        resource.RLIMIT_FSIZE: (OUTPUT_BYTES, OUTPUT_BYTES),
        resource.RLIMIT_NOFILE: (OPEN_FILES, OPEN_FILES),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, wanted in limits.items():
        present = resource.getrlimit(kind)
        soft, hard = (min(each, key=_height) for each in zip(wanted, present, strict=True))
        resource.setrlimit(kind, (soft, hard))


def _height(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def is_short_of_memory() -> bool:
    """Whether this process has less memory than any file may take: then what is too much for it may be fine."""
    return _height(resource.getrlimit(resource.RLIMIT_AS)[0]) < MEMORY_BYTES


def enter(cpu_seconds: int) -> None:
    """Make this process the one inside. Nothing that it ever does to itself harms another."""
    limit_this_process(cpu_seconds)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores: too much output ends the process


def _run_inside(program: str, cpu_seconds: str, *arguments: str) -> None:
    enter(int(cpu_seconds))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run_inside(*sys.argv[1:])
