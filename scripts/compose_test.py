"""`make compose-test`: the compose file, for real: built, started, killed, scaled, upgraded, cut off, taken down.

Needs Docker with Compose, or podman with podman-compose (`pip install podman-compose`), and runs with CPU workers. It
has a project, images and volumes of its own, and removes the containers and volumes at the end. Through all of it
every job that was accepted must end with the same bytes as one that nothing happened to.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import av
import httpx
import imageio_ffmpeg

from service.client import Client

ROOT = Path(__file__).parents[1]
PROJECT = "dain-compose-test"
OURS = ("api", "janitor", "worker-cpu", "redis")
SETTINGS = {
    "DAIN_SEGMENT_FRAMES": "4",
    "DAIN_WORKER_TTL_SECONDS": "5",
    "DAIN_MIN_FREE_BYTES": "1",
    "DAIN_THREADS": "1",
}
FRAMES = 10
GRACE_SECONDS = 60  # stop_grace_period of a worker
IN_HAND = 2  # tasks a worker may have: one is encoded to its end while the next begins


def say(text: str) -> None:
    print(text, flush=True)


def until(true: Callable[[], Any], what: str, seconds: float = 180.0) -> Any:
    """What `true` returns, once that is something; AssertionError when it takes too long."""
    end = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.3)
    return found


# -- the containers ---------------------------------------------------------------------------------


def tools() -> tuple[str, list[str]]:
    """The engine's program, and the command of its compose; ends the program where there are none."""
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
        return "podman", [compose]
    sys.exit(
        "Nothing was tested. This needs either a running Docker with its compose plugin (`docker info` and "
        "`docker compose version` must work), or podman and podman-compose (`pip install podman-compose`)."
    )


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

    def containers(self, service: str) -> list[str]:
        """The running containers of a service, oldest first."""
        labels = {"com.docker.compose.project": self.project, "com.docker.compose.service": service}
        filters = [word for name, value in labels.items() for word in ("--filter", f"label={name}={value}")]
        return self.run("ps", *filters, "--format", "{{.Names}}").split()[::-1]

    def inspect(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.run("inspect", name))[0]
        return facts

    def crash(self, container: str) -> None:
        """SIGKILL what the container runs, under its init: to the engine it has died by itself."""
        self.run("exec", container, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")

    def healthy(self, container: str) -> bool:
        if self.engine == "docker":
            return bool(self.inspect(container)["State"]["Health"]["Status"] == "healthy")
        return (
            subprocess.run(["podman", "healthcheck", "run", container], capture_output=True).returncode == 0
        )


def run(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(
        command, env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True, timeout=3600
    )
    if done.returncode != 0:
        raise AssertionError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done.stdout


# -- the service in them ----------------------------------------------------------------------------


@dataclass
class Trial:
    """The service under test, and what an undisturbed job yields."""

    host: Host
    url: str
    clip: Path
    sha256: str = ""
    jobs: list[str] = field(default_factory=list)

    def client(self) -> Client:
        return Client(self.url)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def submit(self) -> str:
        with self.client() as client:
            job_id = str(client.submit(self.clip, {"factor": 2})["id"])
        self.jobs.append(job_id)
        return job_id

    def finish(self, job_id: str) -> dict[str, Any]:
        """The job, once it has succeeded with the right bytes."""
        with self.client() as client:
            job = client.wait(job_id, interval=0.3)
        assert job["status"] == "succeeded", f"{job_id} {job['status']}: {job['error']}"
        self.sha256 = self.sha256 or job["output"]["sha256"]
        assert job["output"]["sha256"] == self.sha256, f"{job_id} has other bytes"
        return job

    def workers(self) -> list[dict[str, Any]]:
        with self.client() as client:
            return client.workers()

    def at_work(self, job_id: str) -> list[dict[str, Any]]:
        """The workers that have a segment of the job in hand."""
        return [w for w in self.workers() if w["job"] == job_id and (w["task"] or "").startswith("segment")]


def make_clip(path: Path) -> None:
    sources = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=24", "-f", "lavfi", "-i", "sine"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *sources, "-frames:v", str(FRAMES)]
    subprocess.run([*command, "-shortest", "-c:a", "aac", str(path)], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- what is tried, in order ------------------------------------------------------------------------


def images_are_built(trial: Trial) -> str:
    trial.host.compose("build", "api", "worker-cpu")
    sizes = []
    for name in ("service", "worker-cpu"):
        image = trial.host.inspect(f"dain/{name}:{trial.host.variables['DAIN_VERSION']}")
        assert image["Config"]["User"] == "10001:10001" and image["Config"]["Labels"]
        sizes.append(f"{name} {image['Size'] / 1e6:.0f} MB")
    return ", ".join(sizes)


def it_starts(trial: Trial) -> str:
    trial.host.compose("up", "--detach")
    until(trial.ready, "readiness")
    for service in ("api", "redis", "worker-cpu"):
        for container in trial.host.containers(service):
            until(functools.partial(trial.host.healthy, container), f"health of {container}")
    return "ready, every health check passes"


def containers_are_confined(trial: Trial) -> str:
    published = []
    for service in OURS:
        [container] = trial.host.containers(service)
        facts = trial.host.inspect(container)
        published += [port for port, to in facts["NetworkSettings"]["Ports"].items() if to]
        assert facts["HostConfig"]["ReadonlyRootfs"], f"{service} can write to its image"
        assert facts["HostConfig"]["Memory"] > 0 and facts["HostConfig"]["PidsLimit"] > 0, (
            f"{service} has no limits"
        )
        assert facts["HostConfig"]["RestartPolicy"]["Name"] == "always"
        status = trial.host.run("exec", container, "cat", "/proc/self/status")
        seen = dict(line.split(":", 1) for line in status.splitlines())
        assert int(seen["CapBnd"], 16) == 0, f"{service} has capabilities"
        assert seen["NoNewPrivs"].strip() == "1" and "0" not in seen["Uid"].split(), (
            f"{service} may become root"
        )
        password = trial.host.run("exec", container, "cat", "/run/secrets/redis_password").strip()
        assert len(password) >= 32 and password not in json.dumps(facts), f"{service} shows the password"
    assert published == ["8000/tcp"], published
    [worker] = trial.host.containers("worker-cpu")
    dial = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
    try:
        trial.host.run("exec", worker, "python", "-c", dial)
    except AssertionError as refused:
        assert "unreachable" in str(refused) or "timed out" in str(refused), refused
    else:
        raise AssertionError("a worker reaches other networks")
    return "no root, no capability, nothing to write to, one port, no way out for workers"


def a_clip_comes_back_smoother(trial: Trial) -> str:
    job = trial.finish(trial.submit())
    with tempfile.TemporaryDirectory() as folder, trial.client() as client:
        client.download(job["id"], Path(folder) / "out.mp4")
        with av.open(str(Path(folder) / "out.mp4")) as result:
            frames = sum(1 for _ in result.decode(video=0))
            assert len(result.streams.audio) == 1
    assert frames == 2 * FRAMES, frames
    return f"{FRAMES} frames in, {frames} out, {job['metrics']['segments_total']} segments"


def what_is_killed_comes_back(trial: Trial) -> str:
    for service in ("worker-cpu", "api", "redis", "janitor"):
        job_id = trial.submit()
        until(functools.partial(trial.at_work, job_id), "a segment under way")
        [container] = trial.host.containers(service)
        began = trial.host.inspect(container)["State"]["StartedAt"]
        trial.host.crash(container)
        job = trial.finish(job_id)
        assert job["metrics"]["attempts_failed"] <= IN_HAND, job["metrics"]
        until(lambda: trial.host.inspect(container)["State"]["StartedAt"] != began, f"return of {service}")  # noqa: B023
        until(trial.ready, f"recovery from the death of {service}")
    return "worker, API, Redis, janitor, each in mid-job: same bytes"


def workers_scale_and_drain(trial: Trial) -> str:
    trial.host.compose("up", "--detach", "--scale", "worker-cpu=3")
    until(lambda: sum(w["ready"] for w in trial.workers()) == 3, "three workers")
    frames = {w["name"]: w["frames_total"] for w in trial.workers()}
    jobs = [trial.submit() for _ in range(3)]
    until(lambda: all(w["task"] for w in trial.workers()), "work for all three")
    slowest = 0.0
    for container in trial.host.containers("worker-cpu")[1:]:
        began = time.monotonic()
        trial.host.run("stop", "--time", str(GRACE_SECONDS), container)
        slowest = max(slowest, time.monotonic() - began)
        trial.host.run("rm", container)
    metrics = [trial.finish(job_id)["metrics"] for job_id in jobs]
    assert slowest < GRACE_SECONDS / 2, f"draining took {slowest:.0f} s"
    assert not any(m["attempts_failed"] for m in metrics), "a drained worker did not give its task back"
    assert len(frames) == 3
    trial.host.compose("up", "--detach", "--scale", "worker-cpu=1")
    return f"three at work on three jobs, two of them stopped within {slowest:.1f} s; no attempt lost"


@contextmanager
def load(trial: Trial) -> Iterator[list[str]]:
    """Someone who sends a clip every few seconds, whatever happens."""
    sent: list[str] = []
    errors: list[BaseException] = []
    over = threading.Event()

    def send() -> None:
        try:
            while not over.wait(3.0):
                sent.append(trial.submit())
        except Exception as error:  # raised again below, in the main thread
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]


def it_is_upgraded_under_load(trial: Trial) -> str:
    host = trial.host
    old = host.containers("worker-cpu")
    with load(trial) as sent:
        until(lambda: len(sent) >= 2, "load")
        host.variables["DAIN_VERSION"] = f"{PROJECT}-next"
        host.compose("build", "api", "worker-cpu")
        host.compose("up", "--detach", "--no-recreate", "--scale", "worker-cpu=2")
        until(lambda: sum(w["ready"] for w in trial.workers()) == 2, "the new worker beside the old one")
        images = {host.inspect(name)["Image"] for name in host.containers("worker-cpu")}
        assert len(images) == 2, "both workers run one image"
        for container in old:
            host.run("stop", "--time", str(GRACE_SECONDS), container)
            host.run("rm", container)
        host.compose("up", "--detach", "--scale", "worker-cpu=2")
        until(trial.ready, "readiness of the new version")
        until(lambda: len(sent) >= 5, "jobs sent to the new version")
    metrics = [trial.finish(job_id)["metrics"] for job_id in sent]
    assert not any(m["attempts_failed"] for m in metrics), "the upgrade cost an attempt"
    for service in ("api", "janitor", "worker-cpu"):
        for container in host.containers(service):
            assert host.variables["DAIN_VERSION"] in host.inspect(container)["Config"]["Image"]
    return f"{len(sent)} jobs sent meanwhile, all done, no attempt lost"


def it_goes_down_and_comes_up(trial: Trial) -> str:
    jobs = [trial.submit() for _ in range(2)]
    until(lambda: trial.at_work(jobs[0]) or trial.at_work(jobs[1]), "a segment under way")
    trial.host.compose("down")
    assert not trial.ready() and not trial.host.containers("redis")
    trial.host.compose("up", "--detach")
    until(trial.ready, "readiness")
    for job_id in trial.jobs:
        trial.finish(job_id)
    return f"all {len(trial.jobs)} jobs of this test are there, and the two in progress were finished"


def a_backup_restores(trial: Trial) -> str:
    host = trial.host
    job_id = trial.submit()
    until(lambda: trial.at_work(job_id), "a segment under way")
    copies = {name: trial.clip.with_name(f"{name}.tar") for name in ("redis", "store")}
    host.compose("stop", "janitor", "redis")
    save(host, "redis", copies["redis"])
    host.compose("start", "redis")
    save(host, "store", copies["store"])
    host.compose("down", "--volumes")
    host.compose("up", "--detach", "--no-start")
    for name, copy in copies.items():
        restore(host, name, copy)
    host.compose("up", "--detach")
    until(trial.ready, "readiness")
    for each in trial.jobs:
        trial.finish(each)
    return f"all {len(trial.jobs)} jobs from new volumes, one of them saved in progress"


def tar(
    host: Host, volume: str, *options: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
) -> None:
    """Run tar on a volume, as the documentation says."""
    container = ["run", "--rm", "--interactive", "--user", "0", "--entrypoint", "tar"]
    mount = ["--volume", f"{host.project}_{volume}:/volume"]
    image = f"dain/service:{host.variables['DAIN_VERSION']}"
    command = [host.engine, *container, *mount, image, *options]
    subprocess.run(command, check=True, stdin=stdin, stdout=stdout)


def save(host: Host, volume: str, path: Path) -> None:
    with path.open("wb") as file:
        tar(host, volume, "cC", "/volume", ".", stdout=file)


def restore(host: Host, volume: str, path: Path) -> None:
    with path.open("rb") as file:
        tar(host, volume, "xC", "/volume", stdin=file)


def a_host_cut_off_loses_nothing(trial: Trial) -> str:
    with another_host(trial) as (other, container):
        name = until(
            lambda: [w["name"] for w in trial.workers() if container.startswith(w["host"])], "its worker"
        )[0]
        job_id = trial.submit()
        until(lambda: any(w["name"] == name for w in trial.at_work(job_id)), "a segment there")
        other.run("network", "disconnect", f"{other.project}_public", container)
        job = trial.finish(job_id)
        assert name not in {w["name"] for w in trial.workers()}, "the other host was not cut off"
        assert 1 <= job["metrics"]["attempts_failed"] <= IN_HAND, job["metrics"]
        other.run("network", "connect", f"{other.project}_public", container)
        until(lambda: any(container.startswith(w["host"]) for w in trial.workers()), "its return")
        trial.finish(trial.submit())
    return "its segment was done here; it came back and did no harm"


@contextmanager
def another_host(trial: Trial) -> Iterator[tuple[Host, str]]:
    """A second project in a network of its own, with one worker that has Redis and the store of the first.

    Yields it and its worker's container id.
    """
    host = trial.host
    network = json.loads(host.run("network", "inspect", f"{host.project}_public"))[0]
    gateway = (
        network["subnets"][0]["gateway"] if "subnets" in network else network["IPAM"]["Config"][0]["Gateway"]
    )
    address = f"{gateway}:{free_port()}"
    host.files = (*host.files, "docker/share.yml")
    host.variables["REDIS_PUBLISH"] = address
    host.compose("up", "--detach")
    until(trial.ready, "readiness with Redis shared")
    password = trial.clip.with_name("redis_password")
    [api] = host.containers("api")
    password.write_text(host.run("exec", api, "cat", "/run/secrets/redis_password"))
    password.chmod(0o444)
    store = json.loads(host.run("volume", "inspect", f"{host.project}_store"))[0]["Mountpoint"]
    variables = {
        **host.variables,
        "DAIN_REDIS_ADDRESS": address,
        "REDIS_PASSWORD_FILE": str(password),
        "STORE_TYPE": "none",
        "STORE_OPTIONS": "bind",
        "STORE_DEVICE": store,
    }
    files = ("docker-compose.yml", "docker/worker-host.yml")
    other = Host(host.engine, host.compose_command, f"{PROJECT}-other", variables, files)
    try:
        other.compose("up", "--detach", "worker-cpu")
        [container] = other.containers("worker-cpu")
        yield other, other.inspect(container)["Id"]
    finally:
        other.compose("down", "--volumes")


STEPS = (
    images_are_built,
    it_starts,
    containers_are_confined,
    a_clip_comes_back_smoother,
    what_is_killed_comes_back,
    workers_scale_and_drain,
    it_is_upgraded_under_load,
    it_goes_down_and_comes_up,
    a_backup_restores,
    a_host_cut_off_loses_nothing,
)


def main() -> int:
    engine, compose = tools()
    if engine == "podman":
        os.environ.setdefault("BUILDAH_FORMAT", "docker")  # the other format has no health checks
        os.environ.setdefault("BUILDAH_ISOLATION", "chroot")  # builds where containers are nested, too
        if not Path("/run/systemd/system").exists():
            os.environ.setdefault("DISABLE_HC_SYSTEMD", "true")  # without it nobody runs them but this test
    with tempfile.TemporaryDirectory() as folder:
        settings, clip, port = Path(folder) / "settings", Path(folder) / "clip.mp4", free_port()
        settings.write_text("".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
        make_clip(clip)
        variables = {
            "COMPOSE_PROFILES": "cpu",
            "DAIN_ENV_FILE": str(settings),
            "DAIN_PUBLISH": f"127.0.0.1:{port}",
            "DAIN_VERSION": PROJECT,
        }
        trial = Trial(Host(engine, compose, PROJECT, variables), f"http://127.0.0.1:{port}", clip)
        say(f"with {' '.join(compose)}")
        try:
            for number, step in enumerate(STEPS, 1):
                began = time.monotonic()
                outcome = step(trial)
                name = step.__name__.replace("_", " ")
                say(f"{number}. {name}: {outcome} ({time.monotonic() - began:.0f} s)")
        except BaseException:
            for service in OURS:
                for container in trial.host.containers(service):
                    logs = subprocess.run(
                        [engine, "logs", "--tail", "15", container], capture_output=True, text=True
                    )
                    say(f"-- {container}\n{logs.stdout}{logs.stderr}")
            raise
        finally:
            trial.host.compose("down", "--volumes")
    say(f"{len(STEPS)} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
