"""Shells complete what is typed after `dain`, set up as `dain completion -h` says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from click.testing import CliRunner

from service.cli import cli

ROOT = Path(__file__).parents[2]
SHELLS = [
    pytest.param(shell, marks=pytest.mark.skipif(not shutil.which(shell), reason=f"{shell} is not installed"))
    for shell in ("bash", "zsh", "fish")
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of somebody who has a `dain`, a film, and shells that nobody has set up."""
    program = tmp_path / "bin" / "dain"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nPYTHONPATH='{ROOT}' exec '{sys.executable}' -P -m service.cli \"$@\"\n")
    program.chmod(0o755)
    (tmp_path / "film.mp4").touch()
    (tmp_path / ".config" / "fish").mkdir(parents=True)  # fish makes it when it first starts
    for name in ("EDITOR", "VISUAL", "ZDOTDIR", "XDG_CONFIG_HOME"):  # which choose keys, and files to read
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_options_and_files(shell: str, home: Path) -> None:
    said = CliRunner().invoke(cli, ["completion", "-h"]).output
    [set_up] = re.findall(rf"^ *{shell}: *(.*)$", said, re.MULTILINE)
    if shell != "fish":
        (home / f".{shell}rc").write_text("PS1='ready> '\n")
    subprocess.run(["sh", "-c", set_up], check=True)
    for typed, completed in (
        ("dain wor", "dain workers"),
        ("dain submit --det", "dain submit --detach"),
        ("dain interpolate fi", "dain interpolate film.mp4"),
    ):
        assert on_tab(shell, typed, home) == completed


def on_tab(shell: str, typed: str, folder: Path) -> str:
    """What a shell, started in `folder`, makes of a line on Tab."""
    if shell == "fish":
        found, _, _ = asked_of_fish(typed, folder).partition("\t")
        return f"{typed.rpartition(' ')[0]} {found}".rstrip()
    with pexpect.spawn(shell, ["-i"], cwd=str(folder), encoding="utf-8", timeout=60) as terminal:
        terminal.expect_exact("ready> ")
        terminal.send(f"{typed}\t\x01echo '\x05'\r")  # Tab; then the line is made one that prints it
        terminal.expect(r"\r\n(dain [^\r]*?) *\r\n")
        return str(terminal.match[1])


def asked_of_fish(typed: str, folder: Path) -> str:
    """What fish offers on Tab: words, and after a tab what is said of each."""
    command = ["fish", "--command", "complete --do-complete $argv[1]", typed]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_shows_what_is_said_of_an_option_beyond_its_comma(home: Path) -> None:
    (home / ".config" / "fish" / "config.fish").write_text("dain completion fish | source\n")
    assert asked_of_fish("dain submit --mod", home).startswith("--model\tdain-refined, dain-lite, ")
