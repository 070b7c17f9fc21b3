"""Which frames of a result are new, as whoever shows both beside each other is told."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from redis import Redis

from service.api.options import parse_options
from service.jobs.records import frames_key
from service.settings import Settings
from tests.worker.conftest import MakeVideo
from tests.worker.one_worker import Bench
from worker.kinds import kinds
from worker.media.facts import VideoInfo
from worker.media.sandbox import probe
from worker.plan import JobPlan


@pytest.fixture(scope="module")
def facts(clip: Path) -> VideoInfo:
    return probe(clip)


def planned(source: Path, info: VideoInfo, **options: object) -> JobPlan:
    return JobPlan.make(source, info, parse_options(options), segment_frames=100)


def all_new(plan: JobPlan) -> str:
    """As where all that lies between source frames is made by the network."""
    return "".join("01"["t" in vars(frame.action)] for frame in plan.schedule)


@pytest.mark.parametrize(
    ("options", "letters", "rate"),
    [
        ({"factor": 3}, 11 * "snn" + "shh", 72),
        ({"speed": "0.25"}, 11 * "snnn" + "shhh", 24),
        ({"target_fps": "60"}, 5 * "snnNn" + "snnsh", 60),  # the last source frame is held
        ({"target_fps": "24"}, 12 * "s", 24),
    ],
)
def test_source_frames_are_where_the_schedule_has_them(
    clip: Path, facts: VideoInfo, options: dict[str, object], letters: str, rate: float
) -> None:
    plan = planned(clip, facts, **options)
    found = kinds(plan, all_new(plan))
    assert found == {"frames": letters, "start": 0.0, "rate": rate, "times": None}


def test_frames_that_the_network_did_not_make_are_held(clip: Path, facts: VideoInfo) -> None:
    plan = planned(clip, facts, factor=2)
    assert kinds(plan, "01" * 3 + "00" + "01" * 7 + "00")["frames"] == 3 * "sn" + "sh" + 7 * "sn" + "sh"


def test_uneven_frames_have_times(video: MakeVideo) -> None:
    uneven = video("uneven.mkv", "-vf", "setpts='N/(25*TB)+gt(N,5)*0.1/TB'", "-fps_mode", "vfr")
    plan = planned(uneven, probe(uneven), factor=2)
    found = kinds(plan, all_new(plan))
    assert found["rate"] is None and len(found["times"]) == len(found["frames"]) == plan.frames
    assert found["times"][10:13] == pytest.approx([0.2, 0.26, 0.32], abs=0.002)


def test_a_finished_job_says_which_frames_are_new(
    redis: Redis, settings: Settings, bikes: Path, tmp_path: Path
) -> None:
    """In several segments, with a cut after its frame 29: what is held there is no new frame."""
    bench = Bench(redis, settings.model_copy(update={"segment_frames": 30}))
    job = bench.accept(bikes, tmp_path, factor=2, start="0.8", duration="1")
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.output is not None and done.metrics.scene_cuts == 1 and done.metrics.segments_total == 2
    key = frames_key(done.output.key)
    with bench.store.fetch(key, sha256=done.output.frames_sha256) as path:
        frames = json.loads(path.read_text())["frames"]
    with bench.store.fetch(done.output.key) as path, av.open(str(path)) as container:
        shown = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert len(shown) == len(frames) and frames.count("n") == done.metrics.new_frames
    assert sorted(set(frames)) == ["h", "n", "s"] and frames.count("h") == 2  # the cut, and the end
