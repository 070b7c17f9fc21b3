"""Who may import whom. docs/design.md draws the parts; these tests hold the code to the drawing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dain_core
import service

ROOT = Path(__file__).parents[1]

#: What each part may import of the others.
ALLOWED = {
    "cuda_ext": set(),
    "dain_core": {"cuda_ext"},
    "service": set(),
    "worker": {"service", "dain_core"},
}

#: What serves never imports what measures, trains or gathers.
OFFLINE = (
    "dain_core.compression",
    "dain_core.training",
    "dain_core.evaluation",
    "dain_core.export",
    "worker.bench",
    "worker.doctor",
)

#: What the worker may import of the service.
OF_THE_SERVICE = (
    "service.__version__",
    "service.doctor.findings",
    "service.errors",
    "service.jobs",
    "service.logs",
    "service.store",
    "service.settings",
    "service.traces",
)

#: Third-party packages that few modules may import, and those modules.
CONFINED = {
    "rq": ["service/jobs/queue.py"],
    "ffmpeg": ["worker/media/ffmpeg.py"],
    "imageio_ffmpeg": [
        "worker/media/ffmpeg.py",
        "dain_core/training/gather/packages.py",
        "dain_core/evaluation/vmaf.py",
    ],
}

PROBER = [f"worker/media/{name}.py" for name in ("probe", "frame", "streams", "packets", "order", "opened")]
#: Modules that must work where these packages are not installed.
WITHOUT = {
    "torch": ["service", *PROBER, "worker/schedule.py", "dain_core/runtime/pixels.py"],
    "numpy": ["service", *PROBER, "worker/schedule.py"],
}


@cache
def imports(path: Path) -> frozenset[str]:
    """The full name of every module that the file at `path` imports, whether at its top or in a function."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(place: str) -> list[Path]:
    """The Python files in the folder `place`, or the file `place` itself; fails where there are none."""
    path = ROOT / place
    found = sorted(path.rglob("*.py")) if path.is_dir() else [path] * path.is_file()
    assert found, f"{place} does not exist or has no Python files: name what took its place"
    return [file for file in found if "build" not in file.relative_to(ROOT).parts[:-1]]


def within(name: str, *modules: str) -> bool:
    """Whether the module `name` is one of `modules` or lies below one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def importers(*modules: str, among: tuple[str, ...] = tuple(ALLOWED)) -> set[str]:
    """The files `among` those places that import one of `modules` or something below it."""
    return {
        file.relative_to(ROOT).as_posix()
        for place in among
        for file in files(place)
        if any(within(name, *modules) for name in imports(file))
    }


def test_parts_that_do_not_import_each_other_are_of_one_version() -> None:
    assert dain_core.__version__ == service.__version__


def test_a_file_that_is_gone_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match=r"worker/gone\.py does not exist"):
        files("worker/gone.py")


@pytest.mark.parametrize("package", ALLOWED)
def test_a_part_imports_only_what_is_below_it(package: str) -> None:
    others = ALLOWED.keys() - ALLOWED[package] - {package}
    assert not importers(*others, among=(package,))


def test_the_worker_imports_of_the_service_only_jobs_store_and_settings() -> None:
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files("worker")
        if not within(".".join(file.relative_to(ROOT).with_suffix("").parts), "worker.bench")
        for name in imports(file)
        if within(name, "service") and name != "service" and not within(name, *OF_THE_SERVICE)
    }
    assert not wrong


def test_nothing_that_serves_imports_what_measures_or_trains() -> None:
    folders = tuple(module.replace(".", "/") for module in OFFLINE)
    wrong = {name for name in importers(*OFFLINE) if not name.startswith(folders)}
    assert not wrong


def test_the_client_imports_httpx_and_nothing_else_of_others() -> None:
    known = sys.stdlib_module_names | {"httpx"}
    wrong = {
        name
        for file in files("service/client")
        for name in imports(file)
        if name.split(".")[0] not in known and not within(name, "service.client")
    }
    assert not wrong


def test_operators_import_torch_and_nothing_else_of_others() -> None:
    known = sys.stdlib_module_names | {"torch", "cuda_ext"}
    wrong = {name for file in files("cuda_ext") for name in imports(file) if name.split(".")[0] not in known}
    assert not wrong


@pytest.mark.parametrize("place", ["worker", "service"])
def test_no_modules_import_each_other_in_a_circle(place: str) -> None:
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files(place)}
    graph = {name: imports(file) & modules.keys() for name, file in modules.items()}
    tuple(TopologicalSorter(graph).static_order())  # CycleError names them


@pytest.mark.parametrize("package", CONFINED)
def test_few_modules_speak_to_a_library_that_may_change_under_them(package: str) -> None:
    assert importers(package) == set(CONFINED[package])


@pytest.mark.parametrize("package", WITHOUT)
def test_what_must_work_without_a_package_does_not_import_it(package: str) -> None:
    for place in WITHOUT[package]:
        assert not importers(package, among=(place,))


def runs_without(absent: Iterable[str], modules: str) -> None:
    """Import `modules` in a process in which the packages `absent` are as if not installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({tuple(absent)})); import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_service_runs_without_the_packages_of_a_worker() -> None:
    modules = "service.api.app, service.jobs.janitor, service.cli, service.up, worker.media.probe"
    runs_without(("torch", "numpy", "ffmpeg", "imageio_ffmpeg", "safetensors"), modules)


def test_a_look_into_a_file_imports_no_package_but_pyav() -> None:
    """Each look of a worker is a new process."""
    runs_without(("torch", "numpy", "ffmpeg", "pydantic", "redis", "httpx"), "worker.media.probe")


def test_a_worker_runs_without_the_packages_of_exports() -> None:
    runs_without(("onnx", "onnxruntime"), "worker.main, worker.cli")


def test_commands_that_talk_to_a_service_run_without_the_packages_of_a_service() -> None:
    absent = (
        "pydantic",
        "pydantic_settings",
        "fastapi",
        "starlette",
        "uvicorn",
        "redis",
        "rq",
        "av",
        "torch",
    )
    commands = ", ".join(
        f"service.commands.{name}" for name in ("completion", "jobs", "logs", "results", "submit", "workers")
    )
    runs_without(absent, f"service.cli, service.client, {commands}")


@pytest.mark.parametrize("package", ALLOWED)
def test_the_folders_of_the_tests_are_those_of_the_code(package: str) -> None:
    folders = {
        test.parent.relative_to(ROOT / "tests") for test in (ROOT / "tests" / package).rglob("test_*.py")
    }
    assert folders and not [folder for folder in folders if not (ROOT / folder).is_dir()]
