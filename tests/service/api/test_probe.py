"""What the API makes of the sandbox's answers, and of a sandbox that gives none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.api import probe as probing
from service.api.options import parse_options
from service.api.probe import probe
from service.jobs.problems import Problem
from service.settings import Settings

OPTIONS = parse_options({})


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of the test's own in the sandbox's place."""

    def install(program: str) -> None:
        (tmp_path / "strange_sandbox.py").write_text(program)
        monkeypatch.setattr(probing, "PACKAGES", tmp_path)
        monkeypatch.setattr(probing, "SANDBOX", "strange_sandbox")

    return install


def refusal(path: Path, settings: Settings) -> Problem:
    with pytest.raises(Problem) as caught:
        probe(path, settings, OPTIONS)
    return caught.value


def test_facts(clip: Path, settings: Settings) -> None:
    facts = probe(clip, settings, OPTIONS)
    assert (facts["width"], facts["height"], facts["frames"], facts["codec"]) == (96, 64, 12, "h264")


def test_a_module_of_the_users_own_is_not_taken_for_ours(
    clip: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("worker.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    assert probe(clip, settings, OPTIONS)["frames"] == 12


def test_a_verdict_on_the_file(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    problem = refusal(tmp_path / "text.mp4", settings)
    assert (problem.slug, problem.status) == ("unreadable-video", 422)


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(3)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        """print('{"error": {"type": "machine-failed", "detail": "The disk is too slow."}}')""",
    ],
)
def test_what_the_machine_cannot_do_is_not_laid_to_the_file(
    program: str, sandbox: Callable[[str], None], clip: Path, settings: Settings
) -> None:
    sandbox(program)
    problem = refusal(clip, settings)
    assert (problem.slug, problem.status) == ("machine-failed", 503)
    assert problem.detail.endswith(".") and problem.headers["Retry-After"]


def test_a_sandbox_that_hangs_is_ended(
    sandbox: Callable[[str], None],
    clip: Path,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "LEAST_SECONDS", 2.0)
    here = tmp_path / "pid"
    sandbox(
        f"import os, pathlib, time\npathlib.Path({str(here)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    problem = refusal(clip, settings)
    assert problem.slug == "machine-failed" and "took too long" in problem.detail
    assert not Path("/proc", here.read_text()).exists()


def test_the_sandbox_gets_nothing_of_ours(
    sandbox: Callable[[str], None], clip: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAIN_REDIS_URL", "redis://:secret@host")
    sandbox(
        "import json, os\n"
        "print(json.dumps({'video': {'frames': 1, 'environment': dict(os.environ),"
        " 'files': os.listdir('/proc/self/fd')}}))"
    )
    facts = probe(clip, settings, OPTIONS)
    assert "secret" not in str(facts["environment"])
    assert len(facts["files"]) <= 4  # standard three, and the listing itself


def test_settings_reach_the_sandbox(sandbox: Callable[[str], None], clip: Path, settings: Settings) -> None:
    sandbox("import json, sys; print(json.dumps({'video': {'frames': 1, 'arguments': sys.argv[1:]}}))")
    settings = settings.model_copy(update={"max_pixels": 7, "max_frames": 8, "max_duration_seconds": 9.5})
    arguments = probe(clip, settings, OPTIONS)["arguments"]
    assert arguments == ["--max-pixels=7", "--max-frames=8", "--max-duration=9.5", str(clip)]


def test_neither_service_nor_prober_needs_numpy_torch_or_the_ffmpeg_program(clip: Path) -> None:
    without = "import sys; sys.modules |= dict.fromkeys(['numpy', 'torch', 'ffmpeg', 'imageio_ffmpeg']);"
    api = "import service.api.app; print({'av', 'worker', 'dain_core'} & set(sys.modules))"
    prober = "import worker.media.sandbox, worker.media.probe as p, pathlib;"
    facts = f"print(p.answer('probe', pathlib.Path({str(clip)!r}), p.Limits())['video']['frames'])"
    for code, expected in ((without + api, "set()"), (without + prober + facts, "12")):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
