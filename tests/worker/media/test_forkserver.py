"""The fork server: each file has a process of its own, which has nothing of the others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.api import until
from worker.media import sandbox
from worker.media.confinement import landlock_version

Ask = Callable[[Path], dict[str, Any]]


@pytest.fixture
def serve() -> Iterator[Callable[[str], Ask]]:
    """Starts a fork server after a change to it: `serve("probe.main = …")` returns what asks it."""
    with ExitStack() as stack:

        def start(change: str) -> Ask:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            program = (
                f"import json, os\nfrom worker.media import forkserver, probe\n{change}\nforkserver.main()"
            )
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", program],
                env={"PYTHONPATH": str(sandbox.PACKAGES), "PATH": os.defpath},
                stdin=theirs.fileno(),
            )
            theirs.close()
            stack.callback(process.wait)
            stack.callback(ours.close)  # upon which the process ends

            def ask(path: Path) -> dict[str, Any]:
                reader, writer = os.pipe()
                with open(reader, "rb") as answer:
                    request = {"file": str(path), "limits": {}}
                    socket.send_fds(ours, [json.dumps(request).encode()], [writer])
                    os.close(writer)
                    found: dict[str, Any] = json.load(answer)
                    return found

            return ask

        yield start


def test_facts_and_verdicts(serve: Callable[[str], Ask], clip: Path, tmp_path: Path) -> None:
    ask = serve("")
    assert ask(clip) == {"video": sandbox.probe(clip).as_dict()}
    (tmp_path / "text.mp4").write_text("no video")
    assert ask(tmp_path / "text.mp4")["error"]["type"] == "unreadable-video"
    assert ask(clip)["video"]["frames"] == 12


def test_the_process_inside_is_limited_and_has_nothing_of_others(
    serve: Callable[[str], Ask], clip: Path
) -> None:
    ask = serve(
        "import resource\n"
        "def tell():\n"
        "    found = {'files': os.listdir('/proc/self/fd'), 'folder': os.listdir('.'), 'pid': os.getpid(),\n"
        "             'group': os.getpgid(0), 'environment': sorted(os.environ),\n"
        "             'memory': resource.getrlimit(resource.RLIMIT_AS)[1],\n"
        "             'written': resource.getrlimit(resource.RLIMIT_FSIZE)[1]}\n"
        "    try:\n        open('file', 'w')\n"
        "    except OSError as error:\n        found['made'] = str(error)\n"
        "    print(json.dumps({'error': {'type': 'unreadable-video', 'detail': json.dumps(found)}}))\n"
        "probe.main = tell"
    )
    first, second = (json.loads(ask(clip)["error"]["detail"]) for _ in range(2))
    assert first["pid"] == first["group"] != second["pid"]
    assert len(first["files"]) <= 4  # standard three, and the listing itself
    assert first["folder"] == [] and "No such file" in first["made"]
    assert set(first["environment"]) <= {"LC_CTYPE", "PATH", "PYTHONPATH"}
    assert (first["memory"], first["written"]) == (sandbox.MEMORY_BYTES, sandbox.OUTPUT_BYTES)


@pytest.mark.parametrize(
    ("what", "slug"),
    [
        ("os.abort()", "unreadable-video"),
        ("os.kill(os.getpid(), 9)", "machine-failed"),
        ("raise SystemExit(3)", "machine-failed"),
        ("print('[' * 500000)", "unreadable-video"),
        ("print('x' * (64 << 20))", "unreadable-video"),
    ],
)
def test_what_a_file_does_to_its_process_harms_no_other(
    what: str, slug: str, serve: Callable[[str], Ask], clip: Path, tmp_path: Path
) -> None:
    poison = tmp_path / "poison.mp4"
    poison.write_bytes(clip.read_bytes())
    ask = serve(
        "import sys\nmain = probe.main\n"
        f"def strange():\n    if 'poison' in sys.argv[-1]:\n        {what}\n    else:\n        main()\n"
        "probe.main = strange"
    )
    assert ask(poison)["error"]["type"] == slug
    assert ask(clip)["video"]["frames"] == 12


@pytest.mark.skipif(landlock_version() < 6, reason="this kernel takes less away")
def test_the_process_inside_has_its_file_and_no_network(
    serve: Callable[[str], Ask], clip: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(b"another caller's")
    ask = serve(
        "import signal, socket\n"
        "def tell(question, path, limits, choice):\n"
        "    attempts = {\n"
        "        'its file': lambda: open(path, 'rb').close(),\n"
        "        'a library': lambda: open(json.__file__).close(),\n"
        f"        'another file': lambda: open({str(other)!r}),\n"
        "        'its file, to write': lambda: open(path, 'ab'),\n"
        f"        'a new file': lambda: open({str(tmp_path / 'new')!r}, 'w'),\n"
        "        'memory of another': lambda: open(f'/proc/{os.getppid()}/mem'),\n"
        "        'environment of another': lambda: open(f'/proc/{os.getppid()}/environ'),\n"
        "        'a signal': lambda: os.kill(os.getppid(), signal.SIGTERM),\n"
        "        'a program': lambda: os.execv('/bin/true', ['true']),\n"
        "        'tcp': lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),\n"
        "        'udp': lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),\n"
        "        'a socket of this machine': lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),\n"
        "    }\n"
        "    done = []\n"
        "    for name, attempt in attempts.items():\n"
        "        try:\n            attempt()\n            done.append(name)\n"
        "        except PermissionError:\n            pass\n"
        "    return {'error': {'type': 'unreadable-video', 'detail': json.dumps(done)}}\n"
        "probe.answer = tell"
    )
    assert json.loads(ask(clip)["error"]["detail"]) == ["its file", "a library"]


def test_the_process_inside_does_not_outlive_the_one_that_watches_it(
    serve: Callable[[str], Ask], clip: Path
) -> None:
    ask = serve("import time\nprobe.main = lambda: time.sleep(600)")

    def forks() -> list[psutil.Process]:
        """The fork server, its fork, and the process inside, among the processes of this one."""
        children = psutil.Process().children(recursive=True)
        return [process for process in children if "forkserver.main()" in " ".join(process.cmdline())]

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, clip)
        until(lambda: len(forks()) == 3)
        _, watching, inside = forks()
        watching.kill()
        inside.wait(30)
        with pytest.raises(json.JSONDecodeError):  # the answer is empty
            asked.result()
