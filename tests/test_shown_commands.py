"""The commands that README and docs show can be typed as they stand."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from service.cli import cli
from tests.shown import PAGES, ROOT, blocks, commands

SHOWN = [(place, words) for place, block in blocks() for words in commands(block)]
OF_DAIN = [
    pytest.param(words[1:], id=f"{place} {' '.join(words[1:])}")
    for place, words in SHOWN
    if words[0].rpartition("/")[2] == "dain" and "…" not in "".join(words)
]
FILES = {".json", ".mkv", ".mp4", ".onnx", ".png", ".py", ".safetensors"}


def lay(folder: Path, words: list[str]) -> None:
    """Make the files and folders that a command names."""
    for name in (part for word in words for part in word.split("=")):
        path = folder / name.replace("*", "some")
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            (path / "clip.mp4").touch()
        elif "/" in name or path.suffix in FILES:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in FILES and "://" not in name:
            path.touch()


@pytest.mark.parametrize("words", OF_DAIN)
def test_dain_takes_the_command(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options and values are those that there are; it is not run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(click.Command, "invoke", lambda command, ctx: None)
    words = [word.replace("~", str(tmp_path)) for word in words]
    lay(tmp_path, words)
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output


def test_what_else_the_pages_name_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {words[1] for _, words in SHOWN if words[0] == "make" and len(words) > 1}
    assert len(made) > 5 and made <= targets
    modules = {words[2] for _, words in SHOWN if "python" in words[0] and words[1:2] == ["-m"]}
    assert len(modules) > 5 and all(map(importlib.util.find_spec, modules))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"\.\[([a-z0-9-]+)\]", "".join(page.read_text() for page in PAGES)))
    assert len(named) > 4 and named <= extras.keys()
    scripts = {words[1] for _, words in SHOWN if words[0] == "sh" and len(words) > 1}
    assert all((ROOT / script).is_file() for script in scripts)
