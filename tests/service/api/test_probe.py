"""The prober's process may do anything; the answer is facts or a problem, soon."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.api import probe as probing
from service.api.probe import probe
from service.jobs.options import Options
from service.jobs.problems import Problem
from service.settings import Settings

OPTIONS = Options.parse({})


@pytest.fixture
def prober(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of the test's own in the prober's place."""

    def install(program: str) -> None:
        (tmp_path / "strange_prober.py").write_text(program)
        monkeypatch.setattr(probing, "PACKAGES", tmp_path)
        monkeypatch.setattr(probing, "PROBER", "strange_prober")

    return install


def refusal(path: Path, folder: Path, settings: Settings) -> Problem:
    with pytest.raises(Problem) as caught:
        probe(path, folder, settings, OPTIONS)
    return caught.value


def test_facts(clip: Path, tmp_path: Path, settings: Settings) -> None:
    facts = probe(clip, tmp_path, settings, OPTIONS)
    assert (facts["width"], facts["height"], facts["frames"], facts["codec"]) == (96, 64, 12, "h264")


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(3)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "x = bytearray(8 << 30)",
        "print('not JSON')",
        "",
        "print('null')",
        "print('[]')",
        "print('{}')",
        "print('[' * 500000)",
        """print('{"video": {}}')""",
        """print('{"video": {"frames": "many"}}')""",
        """print('{"video": {"frames": 1e999}}')""",
        """print('{"error": {"type": [], "detail": 5}}')""",
        """print('{"error": "oops"}')""",
        "while True: print('x' * 4096)",
        "import sys\nwhile True: print('x' * 4096, file=sys.stderr)",
    ],
)
def test_whatever_it_does_the_video_is_unreadable(
    program: str, prober: Callable[[str], None], clip: Path, tmp_path: Path, settings: Settings
) -> None:
    prober(program)
    problem = refusal(clip, tmp_path, settings)
    assert (problem.slug, problem.status) == ("unreadable-video", 422)


def test_it_is_killed_with_its_children_when_it_overstays(
    prober: Callable[[str], None],
    clip: Path,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "WALL_SECONDS", 1.0)
    beats = tmp_path / "beats"
    child = f"import time\nwhile True: open({str(beats)!r}, 'a').write('x'); time.sleep(0.01)"
    prober(
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(600)"
    )
    assert "too long" in refusal(clip, tmp_path, settings).detail
    written = beats.stat().st_size
    assert written
    time.sleep(0.1)
    assert beats.stat().st_size == written


def test_it_gets_nothing_of_ours(
    prober: Callable[[str], None],
    clip: Path,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAIN_REDIS_URL", "redis://:secret@host")
    prober(
        "import json, os; from pathlib import Path\n"
        "facts = {'environment': dict(os.environ), 'folder': os.getcwd(), 'frames': 1}\n"
        "facts['files'] = os.listdir('/proc/self/fd')\n"
        "print(json.dumps({'video': facts}))"
    )
    facts = probe(clip, tmp_path, settings, OPTIONS)
    assert not [name for name in facts["environment"] if name.startswith("DAIN")]
    assert "secret" not in str(facts["environment"])
    assert Path(facts["folder"]) == tmp_path / "probe"
    assert len(facts["files"]) <= 4  # standard three, and the listing itself


def test_the_files_place_on_disk_is_not_told(
    prober: Callable[[str], None], clip: Path, tmp_path: Path, settings: Settings
) -> None:
    prober(
        "import json, sys\n"
        "print(json.dumps({'error': {'type': 'unheard-of', 'detail': f'cannot open {sys.argv[-1]}'}}))"
    )
    problem = refusal(clip, tmp_path, settings)
    assert problem.slug == "unreadable-video"
    assert problem.detail == "cannot open the file"


def test_settings_reach_the_prober(
    prober: Callable[[str], None], clip: Path, tmp_path: Path, settings: Settings
) -> None:
    prober("import json, sys; print(json.dumps({'video': {'frames': 1, 'arguments': sys.argv[1:]}}))")
    settings = settings.model_copy(update={"max_pixels": 7, "max_frames": 8, "max_duration_seconds": 9.5})
    arguments = probe(clip, tmp_path, settings, OPTIONS)["arguments"]
    assert arguments == ["probe", "--max-pixels=7", "--max-frames=8", "--max-duration=9.5", str(clip)]


def test_the_service_itself_never_loads_a_demuxer() -> None:
    loaded = "import sys, service.app; print({'av', 'torch', 'worker', 'dain_core'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout.strip()
        == "set()"
    )
