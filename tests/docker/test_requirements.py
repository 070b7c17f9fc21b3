"""What is locked for the images fits what the project asks for, and the GPU worker's file has all of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKER = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["worker"]


def locked(image: str) -> dict[str, Version]:
    text = (ROOT / "docker" / f"requirements-{image}.txt").read_text()
    return {
        canonicalize_name(name): Version(version)
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize(
    ("image", "wanted"),
    [("service", PROJECT["dependencies"]), ("worker", WORKER), ("worker-cpu", WORKER)],
)
def test_what_the_project_asks_for_is_locked(image: str, wanted: list[str]) -> None:
    versions = locked(image)
    for requirement in map(Requirement, wanted):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, "run `make lock`"


@pytest.mark.parametrize("image", ["service", "worker-cpu", "build"])
def test_an_audit_of_the_gpu_worker_sees_every_package(image: str) -> None:
    worker = locked("worker")
    assert {name: worker[name].public for name in locked(image)} == {
        name: version.public for name, version in locked(image).items()
    }
