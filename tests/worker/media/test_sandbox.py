"""The process in the sandbox may do anything. The answer is facts, a verdict on the file, or a word on the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import service
import worker
from worker.media import sandbox
from worker.media.errors import MachineError, MediaError
from worker.media.facts import Limits

Program = Callable[[str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a program of the test's own in the prober's place."""

    def install(text: str) -> None:
        for part in (worker, service):  # it may be found there alone
            (tmp_path / part.__name__).symlink_to(Path(part.__file__).parent)
        (tmp_path / "strange_prober.py").write_text(text)
        monkeypatch.setattr(sandbox, "PACKAGES", tmp_path)
        monkeypatch.setattr(sandbox, "PROBER", "strange_prober")

    return install


@pytest.mark.parametrize(
    "text",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import os; os.abort()",
        "print('not JSON')",
        "",
        "print('null')",
        "print('[]')",
        "print('{}')",
        "print('[' * 500000)",
        """print('{"video": {}}')""",
        """print('{"video": {"frames": "many"}}')""",
        """print('{"error": {"type": [], "detail": 5}}')""",
        """print('{"error": "oops"}')""",
        "while True: print('x' * 4096)",
        "import sys\nwhile True: print('x' * 4096, file=sys.stderr)",
    ],
)
def test_what_the_process_does_to_itself_is_laid_to_the_file(text: str, program: Program, clip: Path) -> None:
    program(text)
    with pytest.raises(MediaError) as caught:
        sandbox.probe(clip)
    assert caught.value.slug == "unreadable-video"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raise SystemExit(3)", "status 3"),
        ("import a_library_that_is_not_there", "No module named"),
        ("x = bytearray(8 << 30)", "MemoryError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM"),
    ],
)
def test_what_happens_to_the_process_is_not(text: str, expected: str, program: Program, clip: Path) -> None:
    program(text)
    with pytest.raises(MachineError, match=expected):
        sandbox.probe(clip)


def test_a_full_disk_of_temporary_files_is_named(program: Program, clip: Path) -> None:
    """Python ends so where it cannot write what it printed."""
    program("import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nprint('an answer')")
    with pytest.raises(MediaError) as caught:
        sandbox.probe(clip)
    assert caught.value.slug == "insufficient-storage"


def test_the_death_of_whoever_asks_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with sandbox.nowhere() as folder:
        assert not list(tmp_path.iterdir())
        in_it = subprocess.run(["ls", "-A"], cwd=folder, capture_output=True)
    assert (in_it.returncode, in_it.stdout) == (0, b"")


def test_a_crash_that_does_not_happen_again_is_forgotten(
    program: Program, clip: Path, tmp_path: Path
) -> None:
    facts = json.dumps({"video": sandbox.probe(clip).as_dict()})
    flag = str(tmp_path / "crashed")
    program(
        f"import os, pathlib\nflag = pathlib.Path({flag!r})\n"
        f"if not flag.exists():\n    flag.touch()\n    os.abort()\nprint({facts!r})"
    )
    assert sandbox.probe(clip).frames == 12


def test_a_slow_machine_is_not_the_files_fault_and_leaves_no_process(
    program: Program, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "LEAST_SECONDS", 2.0)
    beats = tmp_path / "beats"
    child = f"import time\nwhile True: open({str(beats)!r}, 'a').write('x'); time.sleep(0.01)"
    program(
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(600)"
    )
    with pytest.raises(MachineError, match="disk or the machine is too slow"):
        sandbox.probe(clip)
    written = beats.stat().st_size
    assert written
    time.sleep(0.1)
    assert beats.stat().st_size == written


def test_what_waits_for_a_processor_has_more_time(
    program: Program, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = json.dumps({"video": sandbox.probe(clip).as_dict()})
    program(f"import time\ntime.sleep(1)\nprint({facts!r})")
    monkeypatch.setattr(sandbox, "LEAST_SECONDS", 0.5)
    monkeypatch.setattr(sandbox, "CPU_SHARE", 120)
    monkeypatch.setattr(sandbox, "LONGEST", 240)
    monkeypatch.setattr(sandbox, "_queued", lambda pid: 3600.0)
    assert sandbox.probe(clip).frames == 12


def test_the_kernel_tells_how_long_a_process_waited_for_a_processor() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel does not count that")
    one = f"os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})"
    busy = f"import os, time; {one}; os.fork()\nwhile time.process_time() < 0.1: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() and process.stdout.readline()  # of both
        assert sandbox._queued(process.pid) > 0


def test_a_file_that_takes_the_processor_for_ever_is_at_fault(
    program: Program, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "CPU_SHARE", 1 / sandbox.LEAST_SECONDS)
    program("while True: pass")
    with pytest.raises(MediaError, match="takes far too long") as caught:
        sandbox.probe(clip)
    assert caught.value.slug == "unreadable-video"


def test_a_larger_file_has_more_time(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(20 << 30)
    assert sandbox.seconds_for(path) > 1000


def test_a_look_can_be_stopped(program: Program, clip: Path) -> None:
    program("import time; time.sleep(600)")
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sandbox.probe(clip, check=check)


def test_the_process_gets_nothing_of_ours(
    program: Program, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAIN_REDIS_URL", "redis://:secret@host")
    program(
        "import json, os\n"
        "try:\n    open('file', 'w')\nexcept OSError as error:\n    made = str(error)\n"
        "detail = {'environment': sorted(os.environ), 'files': os.listdir('/proc/self/fd'), 'made': made,"
        " 'folder': os.listdir('.')}\n"
        "print(json.dumps({'error': {'type': 'unreadable-video', 'detail': json.dumps(detail)}}))"
    )
    with pytest.raises(MediaError) as caught:
        sandbox.probe(clip)
    found = json.loads(caught.value.detail)
    assert set(found["environment"]) - {"LC_CTYPE"} == {"LANG", "PATH", "PYTHONPATH"}
    assert "No such file" in found["made"] and found["folder"] == []
    assert len(found["files"]) <= 4  # standard three, and the listing itself


def test_a_lower_limit_on_memory_stays_and_is_not_the_files_fault(clip: Path) -> None:
    code = f"from worker.media import sandbox; print(sandbox.probe(sandbox.Path({str(clip)!r})).frames)"
    for megabytes, expected in ((3000, "12"), (100, "MachineError")):
        limit = megabytes << 20
        done = subprocess.run(
            ["prlimit", f"--as={limit}:{limit}", sys.executable, "-P", "-c", code],
            env={"PYTHONPATH": str(sandbox.PACKAGES)},
            capture_output=True,
            text=True,
        )
        assert expected in done.stdout + done.stderr


def test_limits_take_the_lower_of_both() -> None:
    code = (
        "import resource; from worker.media import sandbox\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 2 << 30))\n"
        "sandbox.limit_this_process(30)\n"
        "print(resource.getrlimit(resource.RLIMIT_AS), sandbox.is_short_of_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"({1 << 30}, {2 << 30}) True\n"


def test_a_module_of_the_users_own_is_not_taken_for_ours(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("worker.py", "av.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    assert sandbox.probe(clip).frames == 12


def test_limits_reach_the_prober(clip: Path) -> None:
    with pytest.raises(MediaError, match="at most 7 pixels a frame"):
        sandbox.probe(clip, Limits(max_pixels=7))


def test_the_files_place_on_disk_is_not_told(program: Program, clip: Path) -> None:
    program(
        "import json, sys\n"
        "print(json.dumps({'error': {'type': 'unheard-of', 'detail': f'cannot open {sys.argv[-1]}'}}))"
    )
    with pytest.raises(MediaError) as caught:
        sandbox.probe(clip)
    assert (caught.value.slug, caught.value.detail) == ("unreadable-video", "cannot open the file")
