"""What the API makes of the fork server's answers, and of a fork server that gives none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.api import probe as probing
from service.api.options import parse_options
from service.api.probe import Prober, probe
from service.jobs.problems import Problem
from service.settings import Settings
from tests.api import until

OPTIONS = parse_options({})
# A fork server that answers each request by calling `answer(request)`, and writes what that returns.
STRANGE = """
import json, os, socket, sys
requests = socket.socket(fileno=os.dup(0))
def serve(answer):
    while True:
        message, [descriptor], _, _ = socket.recv_fds(requests, 1 << 16, 1)
        with open(descriptor, "w") as file:
            file.write(json.dumps(answer(json.loads(message))))
"""


@pytest.fixture
def prober() -> Iterator[Prober]:
    prober = Prober()
    yield prober
    prober.close()


@pytest.fixture
def forkserver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of the test's own in the fork server's place."""

    def install(program: str) -> None:
        (tmp_path / "strange_server.py").write_text(STRANGE + program)
        monkeypatch.setattr(probing, "PACKAGES", tmp_path)
        monkeypatch.setattr(probing, "FORKSERVER", "strange_server")

    return install


def refusal(prober: Prober, path: Path, settings: Settings) -> Problem:
    with pytest.raises(Problem) as caught:
        probe(prober, path, settings, OPTIONS)
    return caught.value


def family(prober: Prober) -> list[psutil.Process]:
    """The fork server, its fork, and the process inside, as far as they are there."""
    if prober._process is None:
        return []
    try:
        server = psutil.Process(prober._process.pid)
        return [server, *server.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def test_facts(prober: Prober, clip: Path, settings: Settings) -> None:
    for _ in range(3):
        facts = probe(prober, clip, settings, OPTIONS)
        assert (facts["width"], facts["height"], facts["frames"], facts["codec"]) == (96, 64, 12, "h264")


def test_a_module_of_the_users_own_is_not_taken_for_ours(
    prober: Prober, clip: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("worker.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    assert probe(prober, clip, settings, OPTIONS)["frames"] == 12


def test_a_verdict_on_the_file(prober: Prober, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    problem = refusal(prober, tmp_path / "text.mp4", settings)
    assert (problem.slug, problem.status) == ("unreadable-video", 422)


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(3)",
        "import signal; serve(lambda request: os.kill(os.getpid(), signal.SIGSEGV))",
        "serve(lambda request: {'error': {'type': 'machine-failed', 'detail': 'The disk is too slow.'}})",
    ],
)
def test_what_the_machine_cannot_do_is_not_laid_to_the_file(
    program: str, forkserver: Callable[[str], None], prober: Prober, clip: Path, settings: Settings
) -> None:
    forkserver(program)
    problem = refusal(prober, clip, settings)
    assert (problem.slug, problem.status) == ("machine-failed", 503)
    assert problem.detail.endswith(".") and problem.headers["Retry-After"]


def test_a_fork_server_that_hangs_is_ended_and_another_is_started(
    forkserver: Callable[[str], None],
    prober: Prober,
    clip: Path,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "LEAST_SECONDS", 1.0)
    started = tmp_path / "started"
    forkserver(
        f"import pathlib, time\nflag = pathlib.Path({str(started)!r})\n"
        "if flag.exists():\n    serve(lambda request: {'video': {'frames': 1}})\n"
        "flag.write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    problem = refusal(prober, clip, settings)
    assert problem.slug == "machine-failed" and "took too long" in problem.detail
    assert not Path("/proc", started.read_text()).exists()
    assert probe(prober, clip, settings, OPTIONS) == {"frames": 1}


def looking(prober: Prober, path: Path, settings: Settings) -> tuple[threading.Thread, list[Any]]:
    """A thread that looks into `path`, and where its outcome appears."""
    outcome: list[Any] = []

    def look() -> None:
        try:
            outcome.append(prober.look(path, settings))
        except Problem as problem:
            outcome.append(problem)

    thread = threading.Thread(target=look)
    thread.start()
    return thread, outcome


@pytest.mark.parametrize("generation", [1, 2], ids=["the fork", "the process inside"])
def test_a_look_whose_process_is_killed_is_laid_to_the_machine(
    generation: int, prober: Prober, clip: Path, heavy: Path, settings: Settings
) -> None:
    """The fork gets a successor; that is killed, too."""
    thread, outcome = looking(prober, heavy, settings)
    while thread.is_alive():
        if len(processes := family(prober)) == 3:
            with suppress(psutil.NoSuchProcess):
                processes[generation].kill()
        thread.join(0.05)
    [problem] = outcome
    assert isinstance(problem, Problem) or problem["error"]["type"] == "machine-failed"
    assert prober.look(clip, settings)["video"]["frames"] == 12
    until(lambda: len(family(prober)) == 1)


def test_a_fork_server_that_is_killed_gets_a_successor_and_its_forks_go_on(
    prober: Prober, clip: Path, heavy: Path, settings: Settings
) -> None:
    thread, outcome = looking(prober, heavy, settings)
    until(lambda: len(family(prober)) == 3)
    first = family(prober)[0]
    first.kill()
    assert prober.look(clip, settings)["video"]["frames"] == 12
    thread.join()
    assert outcome[0]["video"]["frames"] == 200_000


def test_nothing_is_left_of_a_look_when_the_api_ends(prober: Prober, heavy: Path) -> None:
    """As when it is killed: the kernel closes its descriptors."""
    reader, writer = os.pipe()
    request = {"file": str(heavy), "limits": {}}
    prober._send(json.dumps(request).encode(), writer)
    os.close(writer)
    until(lambda: len(family(prober)) == 3)
    processes = family(prober)
    processes[2].suspend()  # it does not come to its end by itself
    os.close(reader)
    assert prober._requests is not None
    prober._requests.close()
    for process in processes:
        process.wait(30)


def test_a_fork_server_that_says_nothing_is_replaced(
    forkserver: Callable[[str], None], prober: Prober, clip: Path, tmp_path: Path, settings: Settings
) -> None:
    forkserver(
        f"import pathlib\nflag = pathlib.Path({str(tmp_path / 'flag')!r})\n"
        "if flag.exists():\n    serve(lambda request: {'video': {'frames': 1}})\n"
        "flag.touch()\n"
        "while True:\n"
        "    _, [descriptor], _, _ = socket.recv_fds(requests, 1 << 16, 1)\n"
        "    os.close(descriptor)\n"
    )
    assert probe(prober, clip, settings, OPTIONS) == {"frames": 1}


def test_a_look_does_not_wait_for_another(
    prober: Prober, clip: Path, heavy: Path, settings: Settings
) -> None:
    thread, outcome = looking(prober, heavy, settings)
    until(lambda: len(family(prober)) == 3)
    assert prober.look(clip, settings)["video"]["frames"] == 12
    assert not outcome
    thread.join()


def test_the_fork_server_gets_nothing_of_ours(
    forkserver: Callable[[str], None],
    prober: Prober,
    clip: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAIN_REDIS_URL", "redis://:secret@host")
    forkserver(
        "before = os.listdir('/proc/self/fd')\n"
        "serve(lambda request: {'video': {'frames': 1, 'environment': dict(os.environ), 'files': before}})"
    )
    facts = probe(prober, clip, settings, OPTIONS)
    assert "secret" not in str(facts["environment"])
    assert len(facts["files"]) <= 5  # standard three, the socket's copy, and the listing itself


def test_settings_reach_the_fork_server(
    forkserver: Callable[[str], None], prober: Prober, clip: Path, settings: Settings
) -> None:
    forkserver("serve(lambda request: {'video': {'frames': 1, 'request': request}})")
    settings = settings.model_copy(update={"max_pixels": 7, "max_frames": 8, "max_duration_seconds": 9.5})
    request = probe(prober, clip, settings, OPTIONS)["request"]
    assert request["limits"] == {"max_pixels": 7, "max_frames": 8, "max_duration": 9.5}
    assert request["file"] == str(clip)


def test_neither_service_nor_prober_needs_numpy_torch_or_the_ffmpeg_program(clip: Path) -> None:
    without = "import sys; sys.modules |= dict.fromkeys(['numpy', 'torch', 'ffmpeg', 'imageio_ffmpeg']);"
    api = "import service.api.app; print({'av', 'worker', 'dain_core'} & set(sys.modules))"
    prober = "import worker.media.sandbox, worker.media.probe as p, pathlib;"
    facts = f"print(p.answer('probe', pathlib.Path({str(clip)!r}), p.Limits())['video']['frames'])"
    for code, expected in ((without + api, "set()"), (without + prober + facts, "12")):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
