"""Keeps what this release writes, for later releases to read: `python -m tests.compat.make tests/compat/RELEASE`.

Run it for every release, and commit the folder. The folder of a release is never made again: a job that it began is
what the next release has to finish.

    source.mp4                          a small video of uneven frames, with sound
    facts.json                          what the prober found in it
    plan-NAME.json, segment-NAME.mp4    plans of a few options, and the first segment of each
    redis.json                          jobs in every state, as Redis holds them
    idempotency.json                    keys of requests that sent the video for one of these jobs
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis

from service.api.options import parse_options
from service.settings import Settings
from tests.compat.jobs import REQUESTS, bind_keys, read_keys, write_jobs
from tests.worker.conftest import Average
from worker import pipeline
from worker.bench.fleet import running_redis
from worker.media import ffmpeg
from worker.media.sandbox import probe
from worker.plan import JobPlan

PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=30000/1001:duration=0.5")
SOUND = ("-f", "lavfi", "-i", "sine=sample_rate=44100:duration=0.5", "-c:a", "aac", "-b:a", "32k")
UNEVEN = ("-vf", "select='not(eq(n,4)+eq(n,5))',setsar=8/9", "-fps_mode", "passthrough")
CODED = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "30", "-bf", "2", "-g", "6")
OPTIONS = {
    "factor": {"factor": 3},
    "target-fps": {"target_fps": "60"},
    "speed": {"speed": "1/3", "target_fps": "25"},
}
SEGMENT_FRAMES = 12


def make(folder: Path) -> None:
    """Write the files into `folder`, which must not exist yet."""
    folder.mkdir(parents=True)
    source = folder / "source.mp4"
    arguments = ["-nostdin", "-v", "error", *PICTURE, *SOUND, *UNEVEN, *CODED, str(source)]
    subprocess.run([ffmpeg.binary(), *arguments], check=True)
    info = probe(source)
    (folder / "facts.json").write_text(json.dumps(info.as_dict(), indent=1) + "\n")
    for name, options in OPTIONS.items():
        chosen = parse_options({"model": "dain-lite", "quality": "30", **options})
        plan = JobPlan.make(source, info, chosen, segment_frames=SEGMENT_FRAMES)
        (folder / f"plan-{name}.json").write_text(json.dumps(json.loads(plan.to_json()), indent=1) + "\n")
        pipeline.render_segment(plan, 0, source, folder / f"segment-{name}.mp4", Average())
    with (
        TemporaryDirectory() as scratch,
        running_redis(Path(scratch), "no") as url,
        Redis.from_url(url) as redis,
    ):
        names = write_jobs(redis, Settings(), info.as_dict())
        kept = {"jobs": names, "keys": read_keys(redis)}
        redis.flushall()
        bind_keys(redis, names["running"], source)
        bound = {"requests": REQUESTS, "keys": read_keys(redis)}
    (folder / "redis.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    (folder / "idempotency.json").write_text(json.dumps(bound, indent=1) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
