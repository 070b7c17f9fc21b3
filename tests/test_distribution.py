"""The distributions that are built from the project hold what their readers need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import service

ROOT = Path(__file__).parents[1]
PARTS = ("service", "worker", "dain_core", "cuda_ext")
MADE = {"__pycache__", "build", "dist", "node_modules"}
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".dain", ".*_cache", ".hypothesis", *MADE, "*.egg-info", "*.so", "demo"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel, built from a copy of the project."""
    copy = tmp_path_factory.mktemp("project") / "copy"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    return build(copy, "build_sdist", "build_wheel")


def build(project: Path, *hooks: str) -> Path:
    """Call hooks of the build backend in a process of their own; gives the folder of what they made."""
    made = project.with_name("made")
    made.mkdir()
    calls = "; ".join(f"build_meta.{hook}({str(made)!r})" for hook in hooks)
    code = f"from setuptools import build_meta; {calls}"
    environment = {"DAIN_BUILD_CUDA": "0"}
    subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, check=True, capture_output=True
    )
    return made


def files_of(folder: Path) -> set[str]:
    """The project's own files below `folder`, by their path from the root."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not MADE & set(path.parts) and path.suffix != ".so"
    }


def test_the_wheel_has_every_module_and_all_that_lies_beside_them(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wanted = {name for part in PARTS for name in files_of(ROOT / part)}
    assert not wanted - packed
    assert {f"{part}/py.typed" for part in PARTS} <= packed
    assert wheel.name.startswith(f"dain_service-{service.__version__}-")


def test_the_source_distribution_has_tests_docs_images_and_manifests(built: Path) -> None:
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    folders = (*PARTS, "clients", "web", "tests", "docs", "docker", "deploy")
    wanted = {name for folder in folders for name in files_of(ROOT / folder)}
    assert not wanted - packed
    assert {
        "Makefile",
        "constraints.txt",
        "docker-compose.yml",
        "mkdocs.yml",
        ".env.example",
        ".ci/run",
    } <= packed


def test_the_client_is_a_distribution_of_its_own_that_needs_httpx_alone(tmp_path: Path) -> None:
    client = tmp_path / "client"
    shutil.copytree(ROOT / "service" / "client", client, ignore=LEFT_OUT)
    [wheel] = build(client, "build_wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = "import dain_client; dain_client.Client('http://127.0.0.1:1')"
    subprocess.run(
        [sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(tmp_path / "installed")}, check=True
    )
    assert (tmp_path / "installed" / "dain_client" / "py.typed").exists()
    assert wheel.name.startswith(f"dain_client-{service.__version__}-")
    project = tomllib.loads((client / "pyproject.toml").read_text())["project"]
    assert [name.partition(">")[0] for name in project["dependencies"]] == ["httpx"]
