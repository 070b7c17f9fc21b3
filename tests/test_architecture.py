"""Who may import whom: service <- worker -> dain_core -> cuda_ext, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "cuda_ext": set(),
    "dain_core": {"cuda_ext"},
    "service": set(),
    "worker": {"service", "dain_core"},
}
WITHOUT_TORCH = [
    "service",
    "worker/media/errors.py",
    "worker/media/facts.py",
    "worker/media/probe.py",
    "worker/media/sandbox.py",
    "worker/schedule.py",
    "dain_core/runtime/pixels.py",
]
SPEAKS_RQ = {"service/jobs/queue.py"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def files(*places: str) -> list[Path]:
    found = [
        file
        for place in places
        for file in ([ROOT / place], (ROOT / place).rglob("*.py"))[(ROOT / place).is_dir()]
    ]
    return [file for file in found if file.exists()]


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_is_below_it(package: str) -> None:
    forbidden = ALLOWED.keys() - ALLOWED[package] - {package}
    found = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files(package)
        for name in imports(file)
        if name.split(".")[0] in forbidden
    }
    assert files(package) and not found


def test_nothing_but_the_model_imports_torch() -> None:
    found = {
        str(file) for file in files(*WITHOUT_TORCH) for name in imports(file) if name.split(".")[0] == "torch"
    }
    assert not found


def test_one_module_speaks_rq() -> None:
    users = {
        str(file.relative_to(ROOT))
        for file in files(*ALLOWED)
        for name in imports(file)
        if name.split(".")[0] == "rq"
    }
    assert users == SPEAKS_RQ


def test_the_service_runs_without_torch() -> None:
    modules = "service.api.app, service.jobs.janitor, service.cli, service.up"
    code = f"import sys; sys.modules['torch'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_operators_import_torch_and_nothing_else_of_others() -> None:
    standard = sys.stdlib_module_names | {"torch", "cuda_ext"}
    found = {
        name for file in files("cuda_ext") for name in imports(file) if name.split(".")[0] not in standard
    }
    assert not found
