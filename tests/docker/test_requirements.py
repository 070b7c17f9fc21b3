"""The locked packages of each image fit what the project asks for; the GPU worker's file has those of every image."""

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
EXTRAS = PROJECT["optional-dependencies"]
SERVICE = PROJECT["dependencies"] + EXTRAS["service"] + EXTRAS["otel"] + EXTRAS["s3"]
WORKER = SERVICE + EXTRAS["worker"]
NOT_IN_THE_SERVICE = {"ffmpeg-python", "imageio-ffmpeg", "numpy", "torch"}


def locked(image: str) -> dict[str, Version]:
    text = (ROOT / "docker" / f"requirements-{image}.txt").read_text()
    return {
        canonicalize_name(name): Version(version)
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize(
    ("image", "wanted"),
    [("service", SERVICE), ("worker", WORKER), ("worker-cpu", WORKER)],
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


def test_the_service_carries_no_ffmpeg_program_no_numpy_and_no_torch() -> None:
    assert not NOT_IN_THE_SERVICE & locked("service").keys()
    assert locked("worker").keys() >= NOT_IN_THE_SERVICE
