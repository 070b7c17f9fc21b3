"""The FFmpeg program: where it is, what it may open, and a process of it that never outlives its owner.

No other module speaks to ffmpeg-python, which writes the command lines.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import functools
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import ffmpeg
import imageio_ffmpeg

from worker.channel import CHECK_SECONDS
from worker.media import sandbox
from worker.media.errors import MachineError, MediaError, disk_full
from worker.media.moved import Moved
from worker.media.sandbox import FORMATS, PROTOCOLS
from worker.media.sandbox import url as url

SPEAKER = re.compile(r"(\[[^]]*\] )+")  # parts of FFmpeg, and their addresses in memory, before what they say
BETWEEN = "\x1f"  # the members of an option that is given several times
CHATTER = re.compile(r"Svt\[(info|warn)\]")  # what an encoder says whatever FFmpeg is told
PIPE_BYTES = 1 << 20  # the most that Linux gives to a process without privileges
MEMORY_BYTES = 16 << 30  # of address space, which a decoder's threads reserve far more of than they use


def not_written(done: str, why: str) -> MediaError:
    """A result that could not be `done` ("encoded"), by what FFmpeg says: the disk is full, or something is wrong."""
    if os.strerror(errno.ENOSPC) in why:
        return disk_full()
    return MediaError("encode-failed", f"The result could not be {done} ({why}). Try again.")


@functools.cache
def binary() -> str:
    """The ffmpeg that the imageio-ffmpeg wheel carries, or the one that IMAGEIO_FFMPEG_EXE names.

    Not the system's: versions differ in when sound begins (5.1 puts a transport stream's 0.2 s early).

    Raises:
        MachineError: it is not there.
    """
    try:
        found = str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # there is none
        found = ""
    if not (found and shutil.which(found)):
        raise MachineError(
            f"There is no FFmpeg here that can be run{f' at {found}' if found else ''}. Install the package "
            "imageio-ffmpeg anew, or name another ffmpeg in IMAGEIO_FFMPEG_EXE."
        )
    return found


@functools.cache
def has_filter(name: str) -> bool:
    """Whether this ffmpeg has a filter: builds differ in it."""
    command = [binary(), "-hide_banner", "-h", f"filter={name}"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"Filter {name}" in told.stdout


def encodes(encoder: str) -> bool:
    """Whether this ffmpeg has an encoder of pictures, and the machine lets it encode one."""
    picture = ["-f", "lavfi", "-i", "color=size=320x240:duration=0.04"]
    command = [binary(), "-v", "quiet", "-nostdin", *picture, "-c:v", encoder, "-f", "null", "-"]
    return not subprocess.run(command, capture_output=True, check=False).returncode


def encoders() -> set[str]:
    """The encoders that this ffmpeg has, whether the machine can run them or not."""
    told = subprocess.run(
        [binary(), "-hide_banner", "-encoders"], capture_output=True, text=True, check=False
    )
    return {words[1] for line in told.stdout.splitlines() if len(words := line.split()) > 1}


def source(path: Path, **options: Any) -> Any:
    """An input of ffmpeg-python: a stranger's file, its timestamps and its pictures as they are stored."""
    return ffmpeg.input(
        url(path),
        protocol_whitelist=PROTOCOLS,
        format_whitelist=FORMATS,
        noautorotate=None,
        copyts=None,
        **options,
    )


def pictures(folder: Path, first: int, rate: Fraction, codec: str, **options: Any) -> Any:
    """An input of ffmpeg-python: strangers' pictures in files of our own names, numbered from ``first`` on."""
    pattern = f"{url(folder).replace('%', '%%')}/%08d"
    decoder = {"c:v": codec}  # whatever a file says that it is
    return ffmpeg.input(
        pattern,
        format="image2",
        start_number=first,
        framerate=str(rate),
        protocol_whitelist=PROTOCOLS,
        noautorotate=None,
        copyts=None,
        **decoder,
        **options,
    )


def own_source(url: str, **options: Any) -> Any:
    """An input of ffmpeg-python that this program makes itself: a file, or a pipe such as "pipe:0"."""
    return ffmpeg.input(url, **options)


def with_alpha(picture: Any, alpha: Any, pixel_format: str) -> Any:
    """A picture, and another that says how opaque it is, as one of `pixel_format`."""
    return ffmpeg.filter([picture, alpha], "mergeplanes", 0x00010210, format=pixel_format)


def output(*streams: Any, url: str, **options: Any) -> Any:
    """An output of ffmpeg-python: `streams` of its inputs, written to the file or pipe `url`.

    An option whose value is a list is given once for each of its members, which ffmpeg-python cannot.
    """
    told = {name: _joined(value) if isinstance(value, list) else value for name, value in options.items()}
    return ffmpeg.output(*streams, url, **told)


def _joined(values: list[str]) -> str:
    return BETWEEN.join(value.replace(BETWEEN, " ").replace("\0", " ") for value in values)


def merged(streams: Sequence[Any], name: str, **options: Any) -> Any:
    """What the filter `name` makes of several streams."""
    return ffmpeg.filter(streams, name, **options)


def command(*outputs: Any) -> list[str]:
    """The command line that makes these outputs (of ffmpeg-python), quiet and with nothing to ask."""
    both = ffmpeg.merge_outputs(*outputs) if len(outputs) > 1 else outputs[0]
    quiet = both.global_args("-nostdin", "-v", "error")
    compiled: list[str] = quiet.compile(cmd=binary(), overwrite_output=True)
    arguments = [(before, part) for before, part in itertools.pairwise(["", *compiled])]
    return [
        word
        for before, part in arguments
        for k, member in enumerate(part.split(BETWEEN))
        for word in ([before, member] if k else [member])
    ]


class Process:
    """A running FFmpeg. Leaving the context ends it, whatever it was doing."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._popen = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=pass_fds,
            start_new_session=True,  # a Ctrl-C in the terminal reaches us alone, and we end it in order
        )
        self._messages: collections.deque[str] = collections.deque(maxlen=100)
        self._drain = threading.Thread(target=self._collect, name="ffmpeg-stderr", daemon=True)
        try:
            for kind, limit in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
                _limit(self._popen.pid, kind, limit)
            for pipe in (self._popen.stdin, self._popen.stdout):
                if pipe is not None:
                    enlarge(pipe)
            self._drain.start()
        except BaseException:
            self._popen.kill()
            self._popen.wait()
            self._close_pipes()
            raise

    @property
    def stdin(self) -> IO[Any]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def stdout(self) -> IO[Any]:
        assert self._popen.stdout is not None
        return self._popen.stdout

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def messages(self) -> str:
        """The last lines it complained with."""
        return (
            "; ".join(list(self._messages)[-8:]) or f"it ended with status {self.poll()} and gave no reason"
        )

    @property
    def reason(self) -> str:
        """The first thing it complained about, without the part of FFmpeg that said so."""
        said = (SPEAKER.sub("", line) for line in self._messages if line and not CHATTER.match(line))
        return next(said, self.messages)

    def complains(self, pattern: re.Pattern[str]) -> bool:
        """Whether ``pattern`` is in one of the last lines it said."""
        return any(map(pattern.search, tuple(self._messages)))

    def blame(self, error: MediaError) -> MediaError:
        """``error``, which its failure seems to be, or a MachineError where the machine gave it too little.

        Call this once it has ended.
        """
        status, said = self.poll(), "; ".join(self._messages)
        starved = any(os.strerror(number) in said for number in (errno.ENOMEM, errno.EAGAIN))
        if (
            starved
            or status == -signal.SIGKILL
            or (status == -signal.SIGABRT and sandbox.is_short_of_memory())
        ):
            return MachineError(
                "FFmpeg was ended by the machine, or had too little memory or too few threads "
                f"({self.messages}). Give the worker more memory, or raise `ulimit -v` and `ulimit -u`."
            )
        return error

    def watch(self, check: Callable[[], None], progressed: Callable[[], None]) -> int:
        """Its exit status, once it has ended.

        ``check`` is called several times a second, and may raise to stop. ``progressed`` is called when FFmpeg has read
        or written.
        """
        moved = Moved(self.pid, progressed)
        while self.poll() is None:
            check()
            moved.look()
            time.sleep(CHECK_SECONDS / 10)
        return self.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended and its last message is read."""
        status = self._popen.wait()
        self._drain.join()
        return status

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._popen.poll()

    def kill(self) -> None:
        """End it now; from any thread, any number of times. Whoever reads or writes its pipes is released."""
        self._popen.kill()

    def close(self) -> None:
        """End it, and leave neither process, thread nor pipe."""
        self.kill()
        self.wait()
        self._close_pipes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_pipes(self) -> None:
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()

    def _collect(self) -> None:
        assert self._popen.stderr is not None
        with open(self._popen.stderr.fileno(), errors="replace", closefd=False) as lines:
            self._messages.extend(line.strip()[:300] for line in lines)


def enlarge(pipe: IO[Any]) -> None:
    """Give ``pipe`` room for ``PIPE_BYTES``, so that a frame takes fewer switches between processes.

    The kernel refuses where one user has many pipes. The pipe then keeps its size, and works more slowly.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _limit(pid: int, kind: int, limit: int) -> None:
    """Lower a limit of process ``pid``. A lower one, which it has inherited from us, stays: only root may raise it."""
    with contextlib.suppress(ProcessLookupError):  # the process is over, and waiting for it tells why
        present = [limit if each == resource.RLIM_INFINITY else each for each in resource.prlimit(pid, kind)]
        resource.prlimit(pid, kind, (min(limit, present[0]), min(limit, present[1])))
