"""`dain doctor` as people call it: where nothing is wrong, where half is missing, where a process crashes or hangs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.doctor import cli, machine, serving
from service.doctor.findings import Level, examine, ok, warning
from worker.doctor import gpu, media, network

ROOT = Path(__file__).parents[3]


def test_each_check_stands_in_the_document() -> None:
    told = (ROOT / "docs/doctor.md").read_text()
    named = set(re.findall(r"^\| `([a-z-]+)`", told, re.MULTILINE))
    checks = {name for module in (machine, gpu, network, media, serving) for name in module.CHECKS}
    assert named == checks | {"worker"}


def test_a_machine_without_the_packages_of_service_and_worker(tmp_path: Path) -> None:
    absent = (
        "torch",
        "numpy",
        "av",
        "pydantic",
        "pydantic_settings",
        "redis",
        "rq",
        "imageio_ffmpeg",
        "ffmpeg",
    )
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({absent}))")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "service.cli", "doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    found = {each["check"]: each for each in document["findings"]}
    assert found["python"]["level"] == "ok"
    for part, package in (("gpu", "torch"), ("network", "torch"), ("media", "torch"), ("serving", "redis")):
        assert (
            found[part]["level"] == "error" and f"package {package} is not installed" in found[part]["says"]
        )
        assert "pip install" in found[part]["fix"]
    assert document["errors"] >= 4


def test_the_exit_code_says_whether_something_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    good, slow = ok("cpu", "All is well."), warning("gpu", "It is slow.", "Make it fast.")
    monkeypatch.setattr(cli, "findings", lambda: iter([good, slow]))
    done = CliRunner().invoke(cli.doctor, [])
    assert done.exit_code == 0
    assert "ok    cpu            All is well." in done.output and "Fix: Make it fast." in done.output
    assert "0 errors, 1 warning, of 2 findings." in done.output
    monkeypatch.setattr(cli, "findings", lambda: iter([good._replace(level=Level.ERROR)]))
    assert CliRunner().invoke(cli.doctor, []).exit_code == 1


@pytest.mark.parametrize(
    ("code", "patience", "expected"),
    [
        ("os.kill(os.getpid(), 11)", 60.0, "ended with status -11"),
        ("raise SystemExit('No room.')", 60.0, "ended with status 1: No room"),
        ("import time; time.sleep(600)", 2.0, "took more than 2 s"),
    ],
)
def test_a_process_that_crashes_or_hangs_is_a_finding(code: str, patience: float, expected: str) -> None:
    line = json.dumps(ok("gpu", "There is one."))
    command = [sys.executable, "-c", f"import os; print({line!r}, flush=True); {code}"]
    first, last = cli.elsewhere(command, patience)
    assert first == ok("gpu", "There is one.")
    assert last.level is Level.ERROR and expected in last.says and "after gpu" in last.says


def test_a_check_that_fails_itself_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("the bus is gone\nand more")

    monkeypatch.setattr(machine, "CHECKS", {"cpu": broken, "python": machine.python})
    wrong, good = examine("service.doctor.machine")
    assert wrong.level is Level.ERROR and "OSError: the bus is gone." in wrong.says
    assert good.level is Level.OK


def test_a_library_of_another_version_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def other() -> None:
        raise ImportError("_C.so does not load with PyTorch 2.11: delete it")

    monkeypatch.setattr(machine, "CHECKS", {"gpu": other})
    (found,) = examine("service.doctor.machine")
    assert found.level is Level.ERROR and "delete it" in found.says and "report it" not in found.fix
