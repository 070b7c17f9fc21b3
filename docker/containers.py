"""Docker or podman, and compose projects, for `compose_test.py`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def tools() -> tuple[str, list[str]]:
    """The name of the engine's program and the command of its compose. Ends the program where there are none."""
    path = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])

    def works(*command: str) -> bool:
        return (
            shutil.which(command[0], path=path) is not None
            and subprocess.run(command, capture_output=True, timeout=60).returncode == 0
        )

    if works("docker", "compose", "version") and works("docker", "info"):
        return "docker", ["docker", "compose"]
    compose = shutil.which("podman-compose", path=path)
    if works("podman", "info") and compose:
        os.environ.setdefault("BUILDAH_FORMAT", "docker")  # the other format has no health checks
        os.environ.setdefault("BUILDAH_ISOLATION", "chroot")  # builds where containers are nested, too
        if not Path("/run/systemd/system").exists():
            os.environ.setdefault("DISABLE_HC_SYSTEMD", "true")  # without it nobody runs them but this test
        return "podman", [compose]
    sys.exit(
        "Nothing was tested. This needs either a running Docker with its compose plugin (`docker info` and "
        "`docker compose version` must work), or podman and podman-compose (`pip install podman-compose`)."
    )


def run(command: list[str], variables: dict[str, str]) -> str:
    """Run `command` in the project's folder; gives what it prints. AssertionError has its output when it fails."""
    done = subprocess.run(
        command, env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True, timeout=3600
    )
    if done.returncode != 0:
        raise AssertionError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done.stdout


@dataclass
class Host:
    """A compose project: what one machine runs."""

    engine: str
    compose_command: list[str]
    project: str
    variables: dict[str, str]
    files: tuple[str, ...] = ("docker-compose.yml",)

    def compose(self, *arguments: str) -> str:
        files = [word for file in self.files for word in ("--file", str(ROOT / file))]
        return run(
            [*self.compose_command, *files, "--project-name", self.project, *arguments], self.variables
        )

    def run(self, *arguments: str) -> str:
        return run([self.engine, *arguments], self.variables)

    def down(self, *options: str) -> None:
        """Stop and remove all containers. podman-compose counts replicas as orphans."""
        self.compose("down", "--remove-orphans", *options)

    def containers(self, service: str | None = None, *options: str) -> list[str]:
        """The running containers of a service or of all, by the number that their names end with."""
        labels = {"com.docker.compose.project": self.project}
        if service:
            labels["com.docker.compose.service"] = service
        filters = [word for name, value in labels.items() for word in ("--filter", f"label={name}={value}")]
        names = self.run("ps", *options, *filters, "--format", "{{.Names}}").split()
        return sorted(names, key=lambda name: int(re.split("[-_]", name)[-1]))

    def inspect(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.run("inspect", name))[0]
        return facts

    def crash(self, container: str) -> None:
        """Kill the process that a container runs, below its init. The engine sees a process that died by itself."""
        # A moment later: an engine loses a command that ends together with its container.
        self.run(
            "exec",
            container,
            "sh",
            "-c",
            "(sleep 0.2; kill -9 $(cat /proc/1/task/1/children)) >/dev/null 2>&1 &",
        )

    def healthy(self, container: str) -> bool:
        if self.engine == "docker":
            return bool(self.inspect(container)["State"]["Health"]["Status"] == "healthy")
        return (
            subprocess.run(["podman", "healthcheck", "run", container], capture_output=True).returncode == 0
        )

    def gateway(self, network: str) -> str:
        """This machine's address in one of the project's networks."""
        facts = json.loads(self.run("network", "inspect", f"{self.project}_{network}"))[0]
        gateway: str = (
            facts["subnets"][0]["gateway"] if "subnets" in facts else facts["IPAM"]["Config"][0]["Gateway"]
        )
        return gateway

    def volume(self, name: str) -> str:
        """The folder of this machine that has a volume's files."""
        mountpoint: str = json.loads(self.run("volume", "inspect", f"{self.project}_{name}"))[0]["Mountpoint"]
        return mountpoint

    def logs(self, container: str) -> str:
        done = subprocess.run(
            [self.engine, "logs", "--tail", "15", container], capture_output=True, text=True
        )
        return done.stdout + done.stderr
