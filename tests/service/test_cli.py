"""`dain`: its list of commands, what it answers to what is mistyped, and what it imports for that."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from service import __version__, cli


def dain(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `dain` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *words], capture_output=True, text=True, timeout=60
    )


#: What takes long to import: PyTorch seconds, the others tenths of one.
HEAVY = {
    "av",
    "fastapi",
    "httpx",
    "numpy",
    "onnx",
    "pydantic",
    "redis",
    "rich",
    "rq",
    "starlette",
    "torch",
    "uvicorn",
}


def imported_by(*words: str) -> set[str]:
    """The heavy packages that `dain` with these arguments imports."""
    code = f"""
import sys
from service.cli import cli
try:
    cli({list(words)}, prog_name="dain")
finally:
    print(*{HEAVY} & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["workes"], ["completion", "zsh"]])
def test_what_tells_of_the_commands_imports_none_of_them(words: list[str]) -> None:
    assert not imported_by(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["interpolate", "-h"],
        ["interpolate", "--factor", "x"],
        ["submit", "-h"],
        ["up", "-h"],
        ["doctor", "-h"],
        ["compare", "-h"],
        ["bench", "-h"],
        ["eval", "--gap", "x"],
        ["weights", "mean", "-h"],
        ["tune", "--pairs", "x"],
        ["compress", "--absent"],
        ["compress", "prune", "-h"],
        ["export", "absent"],
        ["export", "tensorrt", "--least", "x"],
        ["train", "-h"],
    ],
)
def test_whoever_asks_for_help_or_mistypes_waits_for_no_pytorch(words: list[str]) -> None:
    assert not imported_by(*words) & {"av", "fastapi", "numpy", "onnx", "rq", "starlette", "torch", "uvicorn"}


def test_the_list_of_commands_is_whole() -> None:
    listed = dain("--help").stdout
    assert listed == dain("-h").stdout and all(f"  {name}  " in listed for name in cli.COMMANDS)
    assert "completion" in listed and max(map(len, listed.splitlines())) <= 80


def test_the_version_is_shown() -> None:
    assert dain("--version").stdout == f"dain {__version__}\n"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("workes", "workers"),
        ("subit", "submit"),
        ("ls", "jobs"),
        ("serve", "up"),
        ("qqq", "`dain --help` lists"),
    ],
)
def test_a_command_that_is_not_there_is_answered_with_one_that_is(wrong: str, meant: str) -> None:
    done = CliRunner().invoke(cli.cli, [wrong])
    assert done.exit_code == 2 and f"There is no command '{wrong}'." in done.output and meant in done.output


def test_every_word_that_others_use_leads_to_a_command() -> None:
    assert set(cli.MEANT.values()) <= cli.COMMANDS.keys() and not cli.MEANT.keys() & cli.COMMANDS.keys()


def test_every_command_is_there() -> None:
    for name, entry in cli.COMMANDS.items():
        assert cli.load(name, entry).help


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "`dain interpolate` needs torch, which is not",
        ),
        (
            ImportError("_C.so does not load with PyTorch 2.11: delete it"),
            "_C.so does not load with PyTorch 2.11",
        ),
    ],
)
def test_what_a_command_cannot_import_once_it_runs_is_said(
    monkeypatch: pytest.MonkeyPatch, error: ImportError, expected: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("worker.cli.clips_of", fail)
    done = CliRunner().invoke(cli.cli, ["interpolate", "in.mp4", "out.mp4"])
    assert done.exit_code == 1 and done.output.startswith("Error: ") and expected in done.output


def test_an_interrupt_has_the_exit_code_that_shells_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.cli.clips_of", interrupt)
    done = CliRunner().invoke(cli.cli, ["interpolate", "in.mp4", "out.mp4"])
    assert (done.exit_code, done.output) == (130, "\nInterrupted.\n")


def test_a_part_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "up", cli.Entry("no_such_package.cli", "up", "embedded", ""))
    done = CliRunner().invoke(cli.cli, ["up", "--host", "x"])
    assert done.exit_code == 1
    assert "needs no_such_package, which is not installed" in done.output and "'.[embedded]'" in done.output


def test_a_port_that_there_cannot_be_is_a_wrong_option() -> None:
    done = CliRunner().invoke(cli.cli, ["up", "--port", "99999"])
    assert done.exit_code == 2 and "'--port': 99999" in done.output
