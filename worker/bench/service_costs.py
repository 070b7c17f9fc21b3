"""Measures what the parts beside Redis cost: `python -m worker.bench.service_costs CLIP`.

These parts are the API, the planner, the assembler and the janitor. The API is a process of its own, and one client
asks it over HTTP. Its processor time is what the system counts, the sandboxed probe included. The frames of the planner
and the assembler are tiny, because their cost is a cost for each frame, not for each pixel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import httpx
import numpy as np
import psutil
from redis import Redis

from service.jobs.machine import Jobs
from service.jobs.names import new_job_id
from service.jobs.options import Options
from service.jobs.records import Output, State
from service.settings import Settings
from service.store import Store, open_store
from worker import pipeline
from worker.bench.fleet import running_redis
from worker.media import ffmpeg
from worker.media.encode import Encoder
from worker.media.sandbox import probe
from worker.plan import JobPlan
from worker.schedule import Segment

MIB = 2**20

Cost = tuple[float, float]  # seconds of processor, and of waiting


class Api:
    """The API in a process of its own."""

    def __init__(self, settings: Settings, port: int):
        environment = {
            "DAIN_REDIS_URL": settings.require_redis_url,
            "DAIN_STATE_DIR": str(settings.state_dir),
            "DAIN_PORT": str(port),
            "DAIN_LOG_LEVEL": "error",
        }
        self.server = subprocess.Popen(
            [sys.executable, "-m", "service.api.app"], env={**os.environ, **environment}
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)
        while not self._answers():
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return self.client.get("/healthz").is_success
        except httpx.ConnectError:
            return False

    def close(self) -> None:
        self.client.close()
        self.server.terminate()
        self.server.wait()

    def cpu(self) -> float:
        """Seconds of processor time that the API has used, and the processes that look into uploads."""
        server = psutil.Process(self.server.pid)
        times = [process.cpu_times() for process in (server, *server.children())]
        return sum(each.user + each.system + each.children_user + each.children_system for each in times)

    def cost(self, call: Callable[[httpx.Client], object], times: int) -> Cost:
        """The cost of `times` calls."""
        cpu, begun = self.cpu(), time.perf_counter()
        for _ in range(times):
            call(self.client)
        return self.cpu() - cpu, time.perf_counter() - begun


def show(name: str, cost: Cost, parts: int = 1) -> None:
    """Print the cost of one of `parts` equal parts."""
    cpu, wall = (seconds / parts * 1e3 for seconds in cost)
    print(f"{name:55} {cpu:10.4f} ms of processor {wall:10.4f} ms")


def measure_api(settings: Settings, port: int, clip: Path, mib: int) -> None:
    api = Api(settings, port)
    try:
        jobs = Jobs.from_settings(Redis.from_url(settings.require_redis_url), settings)
        result = finished_job(jobs, settings.open_store(), mib)

        def upload(client: httpx.Client, padding: int = 0) -> None:
            body = clip.read_bytes() + (padding + 8).to_bytes(4, "big") + b"free" + bytes(padding)
            client.post("/jobs", content=body, headers={"Content-Type": "video/mp4"}).raise_for_status()

        def download(client: httpx.Client) -> None:
            with client.stream("GET", f"/jobs/{result}/result") as answer:
                answer.raise_for_status()
                for _ in answer.iter_raw():
                    pass

        show("GET /jobs/ID", api.cost(lambda client: client.get(f"/jobs/{result}"), 1000), 1000)
        (cpu, wall), (more_cpu, more_wall) = api.cost(upload, 5), api.cost(lambda c: upload(c, mib * MIB), 5)
        show("POST /jobs, a short clip, probe included", (cpu, wall), 5)
        show("POST /jobs, for each further MiB", (more_cpu - cpu, more_wall - wall), 5 * mib)
        show("GET /jobs/ID/result, each MiB", api.cost(download, 5), 5 * mib)
    finally:
        api.close()


def finished_job(jobs: Jobs, store: Store, mib: int) -> str:
    """Make a finished job whose result has `mib` MiB; gives its id."""
    job = new_job_id()
    key = f"results/{job}/0.mp4"
    with store.scratch() as folder:
        (folder / "made").write_bytes(bytes(mib * MIB))
        store.put(folder / "made", key)
    output = Output(
        key=key,
        filename="clip-2x.mp4",
        media_type="video/mp4",
        size_bytes=mib * MIB,
        sha256="0" * 64,
        frames=1,
        frame_rate="48",
        duration_seconds=1.0,
    )
    jobs.create(job, source=f"uploads/{job}", filename="clip.mp4", options=Options(), input={})
    jobs.finish(job, State.SUCCEEDED, output=output)
    return job


def timed(call: Callable[[], object]) -> Cost:
    """The cost of a call, its child processes included."""
    before, begun = os.times(), time.perf_counter()
    call()
    after = os.times()
    return sum(after[:4]) - sum(before[:4]), time.perf_counter() - begun


def measure_plan(folder: Path, frames: int) -> None:
    """Measure plan and assembly for a video of `frames` frames and a result of twice as many."""
    source, made = folder / "long.mp4", folder / "joined.mp4"
    picture = f"testsrc=size=64x64:rate=30:duration={frames / 30}"
    make = ["-f", "lavfi", "-i", picture, "-preset", "ultrafast", "-pix_fmt", "yuv420p", str(source)]
    subprocess.run([ffmpeg.binary(), "-loglevel", "error", *make], check=True)
    plans: list[JobPlan] = []
    info = probe(source)
    planned = timed(lambda: plans.append(JobPlan.make(source, info, Options(), segment_frames=96)))
    [plan] = plans
    text = plan.to_json()
    print(f"a plan of {plan.frames} frames in {len(plan.segments)} segments: {len(text)} bytes")
    show("plan: each frame of the result", planned, plan.frames)
    read = timed(lambda: JobPlan.from_json(text))
    show("segment, reading the plan: each frame of the result", read, plan.frames)
    by_length = {length: encoded(folder, plan, length) for length in set(map(length_of, plan.segments))}
    paths = [by_length[length_of(segment)] for segment in plan.segments]
    joined = timed(lambda: pipeline.assemble(plan, paths, source, made))
    show("assemble: each frame of the result", joined, plan.frames)


def length_of(segment: Segment) -> int:
    return segment.stop_output - segment.first_output


def encoded(folder: Path, plan: JobPlan, frames: int) -> Path:
    """Encode a segment of `frames` grey frames; gives its path."""
    path = folder / f"{frames}.mp4"
    grey = [np.full(shape, 128, np.uint8) for shape in ((64, 64), (32, 32), (32, 32))]
    with Encoder(path, plan.delivery) as encoder:
        for _ in range(frames):
            encoder.write(grey)
    return path


def measure_store(folder: Path, files: int) -> None:
    store = open_store(folder.as_uri())
    kept = [folder / "results" / f"{number:028x}" / "0.mp4" for number in range(files)]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.touch()
    show(f"removing one of {files} results", timed(lambda: store.delete(f"results/{files // 2:028x}/")))


@click.command()
@click.argument("clip", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mib", default=256, show_default=True, help="Size of the long upload and of the result.")
@click.option("--frames", default=50_000, show_default=True, help="Frames of the video that is planned.")
@click.option("--files", default=100_000, show_default=True, help="Results that are kept.")
@click.option("--port", default=8123, show_default=True)
def main(clip: Path, mib: int, frames: int, files: int, port: int) -> None:
    """Print what each takes; CLIP is a short MP4 to upload."""
    with tempfile.TemporaryDirectory(prefix="dain-") as name, running_redis(Path(name), "always") as url:
        measure_api(Settings(state_dir=Path(name) / "state", redis_url=url), port, clip, mib)
        measure_plan(Path(name), frames)
        measure_store(Path(name) / "kept", files)


if __name__ == "__main__":
    main()
