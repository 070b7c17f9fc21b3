"""`make compose-test` tries the compose file for real: it builds, starts, kills, scales, upgrades and cuts off.

The test needs Docker with Compose, or podman with podman-compose (`pip install podman-compose`). It runs CPU workers.
It has a project, images and volumes of its own, and removes its containers and volumes at the end. Every accepted job
must end with the same bytes as a job that nothing happened to. Caddy needs ports 80 and 443 of this machine;
`CADDY_IMAGE` names a stand-in for its image where there is no public registry.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from unittest import mock

import av
import httpx
import imageio_ffmpeg
from containers import ROOT, Host, tools

from service.client import Client, Job, Worker
from tests import s3

PROJECT = "dain-compose-test"
OURS = ("api", "janitor", "webhooks", "worker-cpu", "redis")
SETTINGS = {
    "DAIN_SEGMENT_FRAMES": "4",
    "DAIN_WORKER_TTL_SECONDS": "5",
    "DAIN_MIN_FREE_BYTES": "1",
    "DAIN_THREADS": "1",
}
FRAMES = 10
GRACE_SECONDS = 60  # stop_grace_period of a worker
IN_HAND = 2  # tasks a worker may have: one is encoded to its end while the next begins
PATIENCE_SECONDS = 600.0  # the machine may have other work; what takes longer is stuck


def say(text: str) -> None:
    print(text, flush=True)


def until(true: Callable[[], Any], what: str) -> Any:
    """Call `true` until it gives something, and give that. Raises AssertionError when it takes too long."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := true()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.3)
    return found


# -- the service in them ----------------------------------------------------------------------------


@dataclass
class Trial:
    """The service under test, and what an undisturbed job yields."""

    host: Host
    url: str
    clip: Path
    sha256: str = ""
    jobs: list[str] = field(default_factory=list)
    token: str | None = None

    def client(self) -> Client:
        return Client(self.url, token=self.token, patience=PATIENCE_SECONDS)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def submit(self) -> str:
        with self.client() as client:
            job_id = client.submit(self.clip, {"factor": 2}).id
        self.jobs.append(job_id)
        return job_id

    def finish(self, job_id: str) -> Job:
        """Wait for a job, check that it succeeded with the right bytes, and give it."""
        with self.client() as client:
            job = client.wait(job_id, interval=0.3)
        assert job.output is not None
        self.sha256 = self.sha256 or job.output.sha256
        assert job.output.sha256 == self.sha256, f"{job_id} has other bytes"
        return job

    def workers(self) -> list[Worker]:
        with self.client() as client:
            return client.workers()

    def at_work(self, job_id: str) -> list[Worker]:
        """The workers that have a segment of the job in hand."""
        return [w for w in self.workers() if w.job == job_id and (w.task or "").startswith("segment")]


def make_clip(path: Path) -> None:
    """Write a few small frames of tests/data/bikes.mp4, with a tone."""
    sources = [
        "-i",
        str(ROOT / "tests/data/bikes.mp4"),
        "-f",
        "lavfi",
        "-i",
        "sine",
        "-map",
        "0:v",
        "-map",
        "1:a",
    ]
    cut = ["-vf", "scale=96:64", "-frames:v", str(FRAMES), "-shortest", "-c:a", "aac"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *sources, *cut, str(path)], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def described(host: Host) -> Iterator[None]:
    """Show the logs of a project's containers when a trial of it fails; remove them in the end."""
    try:
        yield
    except BaseException:
        for container in host.containers():
            say(f"-- {container}\n{host.logs(container)}")
        raise
    finally:
        host.down("--volumes")


# -- what is tried, in order ------------------------------------------------------------------------


def images_are_built(trial: Trial) -> str:
    trial.host.compose("build", "api", "worker-cpu")
    sizes = []
    for name in ("service", "worker-cpu"):
        image = trial.host.inspect(f"localhost/dain-{name}:{trial.host.variables['DAIN_VERSION']}")
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
        assert facts["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        status = trial.host.run("exec", container, "cat", "/proc/self/status")
        seen = dict(line.split(":", 1) for line in status.splitlines())
        assert int(seen["CapBnd"], 16) == 0, f"{service} has capabilities"
        assert seen["NoNewPrivs"].strip() == "1" and "0" not in seen["Uid"].split(), (
            f"{service} may become root"
        )
        password = trial.host.run("exec", container, "cat", "/run/secrets/redis_password").strip()
        assert len(password) >= 32 and password not in json.dumps(facts), f"{service} shows the password"
    assert published == ["8000/tcp"], published
    for service in ("worker-cpu", "janitor", "redis"):
        [container] = trial.host.containers(service)
        _, *routes = trial.host.run("exec", container, "cat", "/proc/net/route").splitlines()
        assert routes and all(route.split()[1] != "00000000" for route in routes), f"{service} has a way out"
    return "no root, no capability, nothing to write to, one port, no way out but the API's"


def a_clip_comes_back_smoother(trial: Trial) -> str:
    job = trial.finish(trial.submit())
    with tempfile.TemporaryDirectory() as folder, trial.client() as client:
        client.download(job.id, Path(folder) / "out.mp4")
        with av.open(str(Path(folder) / "out.mp4")) as result:
            frames = sum(1 for _ in result.decode(video=0))
            assert len(result.streams.audio) == 1
    assert frames == 2 * FRAMES, frames
    return f"{FRAMES} frames in, {frames} out, {job.metrics['segments_total']} segments"


def what_is_killed_comes_back(trial: Trial) -> str:
    for service in ("worker-cpu", "api", "redis", "janitor"):
        job_id = trial.submit()
        until(functools.partial(trial.at_work, job_id), "a segment under way")
        [container] = trial.host.containers(service)
        began = trial.host.inspect(container)["State"]["StartedAt"]
        trial.host.crash(container)
        job = trial.finish(job_id)
        assert job.metrics["attempts_failed"] <= IN_HAND, job.metrics
        until(lambda: trial.host.inspect(container)["State"]["StartedAt"] != began, f"return of {service}")  # noqa: B023
        until(trial.ready, f"recovery from the death of {service}")
    return "worker, API, Redis, janitor, each in mid-job: same bytes"


def workers_scale_to_three_to_none_and_back(trial: Trial) -> str:
    trial.host.compose("up", "--detach", "--scale", "worker-cpu=3")
    until(lambda: sum(w.ready for w in trial.workers()) == 3, "three workers")
    jobs = [trial.submit() for _ in range(3)]
    until(lambda: sum(bool(w.task) for w in trial.workers()) == 3, "work for all three")
    slowest = 0.0
    for container in trial.host.containers("worker-cpu"):
        began = time.monotonic()
        trial.host.run("stop", "-t", str(GRACE_SECONDS), container)
        slowest = max(slowest, time.monotonic() - began)
        trial.host.run("rm", container)
    assert trial.workers() == [], "a worker that was stopped is still on record"
    jobs.append(trial.submit())  # with nobody there to do it
    trial.host.compose("up", "--detach", "--scale", "worker-cpu=1")
    metrics = [trial.finish(job_id).metrics for job_id in jobs]
    assert not any(m["attempts_failed"] for m in metrics), "a drained worker did not give its task back"
    return f"three at work on three jobs, each stopped within {slowest:.1f} s, one came back; no attempt lost"


@contextmanager
def load(trial: Trial) -> Iterator[Callable[[], list[str]]]:
    """Someone who has two jobs in the service all the time, whatever happens to it.

    Yields what gives the jobs sent so far, and raises what went wrong with one.
    """
    sent: list[str] = []
    errors: list[BaseException] = []
    over = threading.Event()

    def send() -> None:
        try:
            while not over.is_set():
                sent.append(trial.submit())
                trial.finish(sent[max(len(sent) - 2, 0)])
        except Exception as error:  # raised again in the main thread
            errors.append(error)

    def so_far() -> list[str]:
        if errors:
            raise errors[0]
        return sent

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield so_far
    finally:
        over.set()
        thread.join()
    so_far()


def it_is_upgraded_under_load(trial: Trial) -> str:
    host = trial.host
    old = host.containers("worker-cpu")
    with load(trial) as sent:
        until(lambda: len(sent()) >= 2, "load")
        host.variables["DAIN_VERSION"] = f"{PROJECT}-next"
        host.compose("build", "api", "worker-cpu")
        host.compose("up", "--detach", "--no-recreate", "--scale", "worker-cpu=2")
        until(lambda: sum(w.ready for w in trial.workers()) == 2, "the new worker beside the old one")
        images = {host.inspect(name)["Config"]["Image"] for name in host.containers("worker-cpu")}
        assert len(images) == 2, f"both workers run {images}"
        for container in old:
            host.run("stop", "-t", str(GRACE_SECONDS), container)
            host.run("rm", container)
        host.compose("up", "--detach", "--scale", "worker-cpu=2")
        until(trial.ready, "readiness of the new version")
        before = len(sent())
        until(lambda: len(sent()) >= before + 2, "jobs sent to the new version")
    metrics = [trial.finish(job_id).metrics for job_id in sent()]
    assert not any(m["attempts_failed"] for m in metrics), "the upgrade cost an attempt"
    for service in ("api", "janitor", "worker-cpu"):
        for container in host.containers(service):
            assert host.variables["DAIN_VERSION"] in host.inspect(container)["Config"]["Image"]
    return f"{len(metrics)} jobs sent meanwhile, all done, no attempt lost"


def it_goes_down_and_comes_up(trial: Trial) -> str:
    jobs = [trial.submit() for _ in range(2)]
    until(lambda: trial.at_work(jobs[0]) or trial.at_work(jobs[1]), "a segment under way")
    trial.host.compose("stop")
    for name in trial.host.containers(None, "--all"):
        assert trial.host.inspect(name)["State"]["ExitCode"] == 0, f"{name} ended badly"
    trial.host.down()
    assert not trial.ready() and not trial.host.containers("redis")
    trial.host.compose("up", "--detach")
    until(trial.ready, "readiness")
    for job_id in trial.jobs:
        trial.finish(job_id)
    return f"every process ended with status 0, all {len(trial.jobs)} jobs are there, two in progress were finished"


def a_backup_restores(trial: Trial) -> str:
    host = trial.host
    job_id = trial.submit()
    until(lambda: trial.at_work(job_id), "a segment under way")
    copies = {name: trial.clip.with_name(f"{name}.tar") for name in ("redis", "store")}
    host.compose("stop", "janitor", "redis")
    save(host, "redis", copies["redis"])
    host.compose("start", "redis")
    save(host, "store", copies["store"])
    host.down("--volumes")
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
    image = f"localhost/dain-service:{host.variables['DAIN_VERSION']}"
    command = [host.engine, *container, *mount, image, *options]
    subprocess.run(command, check=True, stdin=stdin, stdout=stdout)


def save(host: Host, volume: str, path: Path) -> None:
    with path.open("wb") as file:
        tar(host, volume, "cC", "/volume", ".", stdout=file)


def restore(host: Host, volume: str, path: Path) -> None:
    with path.open("rb") as file:
        tar(host, volume, "xC", "/volume", stdin=file)


def a_host_cut_off_loses_nothing(trial: Trial) -> str:
    share_redis(trial)
    with ExitStack() as stack:
        hosts = [stack.enter_context(worker_host(trial, number)) for number in (1, 2)]
        trial.host.compose("stop", "worker-cpu")  # those two do all the work
        until(lambda: len(trial.workers()) == 2, "the workers of the two hosts alone")
        job_id = trial.submit()
        [busy, *_] = until(lambda: trial.at_work(job_id), "a segment on one of them")
        [(other, container)] = [host for host in hosts if host[1].startswith(busy.host)]
        other.run("network", "disconnect", f"{other.project}_public", container)
        job = trial.finish(job_id)
        assert busy.name not in {w.name for w in trial.workers()}, "the host was not cut off"
        assert 1 <= job.metrics["attempts_failed"] <= IN_HAND, job.metrics
        other.run("network", "connect", f"{other.project}_public", container)
        until(lambda: len(trial.workers()) == 2, "its return")
        trial.finish(trial.submit())
    return "two hosts with a worker each: the segment of the one cut off was done by the other; it came back"


def share_redis(trial: Trial) -> None:
    """Make the host under test the main one of several, as docs/deployment.md says."""
    host = trial.host
    host.files = (*host.files, "docker/share.yml")
    host.variables["REDIS_PUBLISH"] = f"{host.gateway('public')}:{free_port()}"
    host.compose("up", "--detach")
    until(trial.ready, "readiness with Redis shared")


@contextmanager
def worker_host(trial: Trial, number: int) -> Iterator[tuple[Host, str]]:
    """Another host: a project with a network of its own and one worker, which has Redis and the store of the main one.

    Yields it and its worker's container id.
    """
    main = trial.host
    password = trial.clip.with_name("redis_password")
    if not password.exists():
        [api] = main.containers("api")
        password.write_text(main.run("exec", api, "cat", "/run/secrets/redis_password"))
        password.chmod(0o444)
    variables = {
        **main.variables,
        "DAIN_REDIS_ADDRESS": main.variables["REDIS_PUBLISH"],
        "REDIS_PASSWORD_FILE": str(password),
        "STORE_TYPE": "none",
        "STORE_OPTIONS": "bind",
        "STORE_DEVICE": main.volume("store"),
    }
    files = ("docker-compose.yml", "docker/worker-host.yml")
    host = Host(main.engine, main.compose_command, f"{PROJECT}-{number}", variables, files)
    try:
        host.compose("up", "--detach", "worker-cpu")
        [container] = host.containers("worker-cpu")
        yield host, host.inspect(container)["Id"]
    finally:
        host.down("--volumes")


@contextmanager
def another(trial: Trial, name: str, variables: dict[str, str], *files: str) -> Iterator[Trial]:
    """A service of its own on the same images, with `files` over the compose file; nothing of it is started."""
    main, port = trial.host, free_port()
    variables = {**main.variables, "DAIN_PUBLISH": f"127.0.0.1:{port}", **variables}
    host = Host(
        main.engine, main.compose_command, f"{PROJECT}-{name}", variables, ("docker-compose.yml", *files)
    )
    host.down("--volumes")
    with described(host):
        yield Trial(host, f"http://127.0.0.1:{port}", trial.clip, trial.sha256)


def a_client_comes_by_https(trial: Trial) -> str:
    variables = {"COMPOSE_PROFILES": "cpu,tls", "DAIN_DOMAIN": "localhost"}
    with another(trial, "tls", variables) as secure:
        secure.host.compose("up", "--detach")
        [caddy] = secure.host.containers("caddy")
        root = "until cat /data/caddy/pki/authorities/local/root.crt 2>/dev/null; do sleep 0.2; done"
        certificate = secure.clip.with_name("root.crt")
        certificate.write_text(secure.host.run("exec", caddy, "sh", "-c", root))
        added = secure.host.compose("run", "--rm", "-T", "janitor", "dain", "keys", "add", "ann")
        secure.url, secure.token = "https://localhost", added.split()[-1]
        with mock.patch.dict(os.environ, SSL_CERT_FILE=str(certificate)):
            until(secure.ready, "readiness by HTTPS")
            assert httpx.get(f"{secure.url}/jobs").status_code == 401
            job_id = secure.submit()
            with secure.client() as client:
                next(client.events(job_id))
                assert not client.job(job_id).is_over, "the proxy holds events back"
            secure.finish(job_id)
        assert httpx.get("http://localhost/jobs").headers["location"] == f"{secure.url}/jobs"
    return "a certificate of Caddy's own authority, a key, an upload, events as they happen, the same bytes"


def a_bucket_holds_the_files(trial: Trial) -> str:
    settings = trial.clip.with_name("settings-s3")
    credentials = "".join(f"{name}={value}\n" for name, value in s3.CREDENTIALS.items())
    settings.write_text(Path(trial.host.variables["DAIN_ENV_FILE"]).read_text() + credentials)
    folder = trial.clip.with_name("s3")
    folder.mkdir()
    with s3.serve(folder, trial.host.gateway("public")) as endpoint:
        bucket = s3.Bucket.make(endpoint)
        variables = {"DAIN_ENV_FILE": str(settings), "DAIN_STORE_URL": bucket.url}
        with another(trial, "s3", variables, "docker/s3.yml") as remote:
            remote.host.compose("up", "--detach")
            until(remote.ready, "readiness")
            job_id = remote.submit()
            listed = {*bucket.keys()}
            job = remote.finish(job_id)
            with remote.client() as client:
                client.download(job.id, folder / "out.mp4")
            listed |= {*bucket.keys()}  # the janitor removes all but the result, sooner or later
            kinds = {key.split("/")[0] for key in listed}
            assert {"uploads", "results"} <= kinds <= {"uploads", "plans", "segments", "results"}, listed
            [api] = remote.host.containers("api")
            assert not remote.host.run("exec", api, "ls", "/var/lib/dain/store"), "files lie in the volume"
    return f"{', '.join(sorted(kinds))} lie in the bucket, none in the volume; the same bytes"


STEPS = (
    images_are_built,
    it_starts,
    containers_are_confined,
    a_clip_comes_back_smoother,
    what_is_killed_comes_back,
    workers_scale_to_three_to_none_and_back,
    it_is_upgraded_under_load,
    it_goes_down_and_comes_up,
    a_backup_restores,
    a_host_cut_off_loses_nothing,
    a_client_comes_by_https,
    a_bucket_holds_the_files,
)


def main() -> int:
    engine, compose = tools()
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
        trial.host.down("--volumes")  # what an interrupted run may have left
        with described(trial.host):
            for number, step in enumerate(STEPS, 1):
                began = time.monotonic()
                outcome = step(trial)
                name = step.__name__.replace("_", " ")
                say(f"{number}. {name}: {outcome} ({time.monotonic() - began:.0f} s)")
    say(f"{len(STEPS)} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
