"""`dain bench job`: what a job through the service keeps of the engine's speed.

The engine is timed first, here, on the devices of the service's workers and in their precision, while they have nothing
to do; then a clip goes through HTTP and back.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from dain_core.outputs import OutputFile, writing
from dain_core.runtime.devices import current
from service.client import Client, Job, Worker
from worker.bench.choices import Picture, Size
from worker.bench.measure import between, load, panned, steady
from worker.media import ffmpeg
from worker.media.sandbox import probe

# Everything moves, and a little grain makes it as hard on the codecs as what a camera gives.
MOTION = "testsrc2=size={width}x{height}:rate=30,scroll=horizontal=0.003:vertical=0.001,noise=alls=4:allf=t"
LOOK_SECONDS = 0.1  # between looks at the job


@dataclass(frozen=True)
class Result:
    """One job. Rates are new frames a second."""

    size: str
    source_frames: int
    new_frames: int
    workers: int
    engine_rate: float  # of all workers' engines together
    seconds: float  # from the start of the job's first task to its end, planning and joining included
    rate: float
    share: float  # of the engine's rate
    work_seconds: float  # from the first frame to the last, as the job reported them
    work_rate: float
    work_share: float
    device_share: float  # of the workers' time, spent by the network on its device
    stage_seconds: dict[str, float]
    worker_cores: float  # processor cores in use, on average: the worker processes themselves,
    codec_cores: float  # their decoders and encoders,
    machine_cores: float  # and everything on the machine, of
    cores: int


@click.command()
@click.option(
    "--url", envvar="DAIN_URL", default="http://127.0.0.1:8000", show_default=True, help="The service."
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=Size(),
    default=["1080p"],
    show_default=True,
    help="Or WIDTHxHEIGHT.",
)
@click.option("--frames", default=600, show_default=True, help="Source frames of the clip.")
@click.option(
    "--clip", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A video to send instead."
)
@click.option("--json", "json_path", type=OutputFile(), help="Write the figures here too.")
def job(url: str, sizes: tuple[Picture, ...], frames: int, clip: Path | None, json_path: Path | None) -> None:
    """Time a whole job through a service, against what its engines can do.

    Run it on the machine that the workers are on.
    """
    results = []
    with Client(url) as client, tempfile.TemporaryDirectory() as folder:
        clips = (
            [clip] if clip else (make_clip(Path(folder, f"{size[0]}.mp4"), size, frames) for size in sizes)
        )
        for video in clips:
            results.append(measure_job(client, video))
            click.echo(describe_result(results[-1]))
    if json_path:
        with writing(json_path):
            json_path.write_text(json.dumps([asdict(result) for result in results], indent=2))


def measure_job(client: Client, clip: Path) -> Result:
    workers = [worker for worker in client.workers() if worker.ready]
    if not workers or any(worker.task for worker in workers):
        raise click.ClickException("The service needs a worker that is ready, and no job in hand: wait.")
    if any(worker.host != platform.node() for worker in workers):
        raise click.ClickException("The workers are elsewhere: run this on their machine.")
    video = probe(clip)
    engine_rate = sum(rate_of(worker, video.height, video.width) for worker in workers)
    before = CpuTimes.now(workers)
    done, (first, last) = follow(client, client.submit(clip, {"factor": 2}).id)
    spent = CpuTimes.now(workers).since(before)
    assert done.started_at is not None and done.finished_at is not None  # it has succeeded
    metrics, seconds = done.metrics, done.finished_at - done.started_at
    new, made = metrics["new_frames"], last.frames - first.frames
    rate = new / seconds
    work_rate = new / last.total * made / (last.seconds - first.seconds) if made else rate
    return Result(
        size=f"{video.width}x{video.height}",
        source_frames=last.total // 2,
        new_frames=new,
        workers=len(workers),
        engine_rate=engine_rate,
        seconds=seconds,
        rate=rate,
        share=rate / engine_rate,
        work_seconds=last.seconds - first.seconds,
        work_rate=work_rate,
        work_share=work_rate / engine_rate,
        device_share=metrics["stage_seconds"]["inference"] / seconds / len(workers),
        stage_seconds=metrics["stage_seconds"],
        worker_cores=spent.workers / spent.at,
        codec_cores=spent.codecs / spent.at,
        machine_cores=spent.machine / spent.at,
        cores=os.cpu_count() or 1,
    )


def rate_of(worker: Worker, height: int, width: int) -> float:
    """New frames a second of an engine like the worker's, on its device."""
    device = torch.device(worker.device)
    with current(device):
        engine, pictures = load(worker.model, worker.precision, device), panned(height, width, device)
        for _ in range(2):
            between(engine, pictures)
        rate = 1000 / steady(engine, pictures, frames=60)
        del engine, pictures
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the worker needs it
    return rate


def make_clip(path: Path, size: Picture, frames: int) -> Path:
    _, height, width = size
    picture = f"{MOTION.format(width=width, height=height)},trim=end_frame={frames}"
    coding = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast"]
    command = [ffmpeg.binary(), "-v", "error", "-f", "lavfi", "-i", picture, *coding, str(path)]
    subprocess.run(command, check=True)
    return path


@dataclass(frozen=True)
class Look:
    """How far a job was at a look at it: output frames."""

    seconds: float
    frames: int
    total: int


def follow(client: Client, job_id: str) -> tuple[Job, tuple[Look, Look]]:
    """The job once it is over, and how far it was when its first frame had come and when its last had."""
    looks: list[Look] = []

    def look(job: Job) -> None:
        progress = job.progress
        if (
            progress.frames_done
            and progress.frames_total
            and not (looks and looks[-1].frames == looks[-1].total)
        ):
            looks.append(Look(time.monotonic(), progress.frames_done, progress.frames_total))

    done = client.wait(job_id, look, interval=LOOK_SECONDS)
    return done, (looks[0], looks[-1])


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of processor time so far."""

    at: float
    workers: float
    codecs: float
    machine: float

    @classmethod
    def now(cls, workers: Sequence[Worker]) -> CpuTimes:
        """A worker's children are its codecs; their time is the kernel's to tell once they have ended."""
        tick = os.sysconf("SC_CLK_TCK")
        own = codecs = 0
        for worker in workers:
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            user, system, children_user, children_system = map(int, fields[11:15])
            own, codecs = own + user + system, codecs + children_user + children_system
        user, nice, system, _idle, _wait, irq, soft = map(
            int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
        )
        machine = user + nice + system + irq + soft
        return cls(time.monotonic(), own / tick, codecs / tick, machine / tick)

    def since(self, before: CpuTimes) -> CpuTimes:
        return CpuTimes(
            self.at - before.at,
            self.workers - before.workers,
            self.codecs - before.codecs,
            self.machine - before.machine,
        )


def describe_result(result: Result) -> str:
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.stage_seconds.items())
    return "\n".join(
        (
            f"{result.size}: {result.source_frames} frames and {result.new_frames} new ones, "
            f"{result.workers} worker{'s' * (result.workers > 1)}",
            f"  engine      {result.engine_rate:7.2f} new frames/s",
            f"  whole job   {result.rate:7.2f} = {result.share:.1%} of it, in {result.seconds:.2f} s",
            f"  frames only {result.work_rate:7.2f} = {result.work_share:.1%} of it, in {result.work_seconds:.2f} s",
            f"  stages      {stages}; the device was busy {result.device_share:.0%} of the job",
            f"  processor   workers {result.worker_cores:.1f}, codecs {result.codec_cores:.1f}, "
            f"machine {result.machine_cores:.1f} of {result.cores} cores",
        )
    )
