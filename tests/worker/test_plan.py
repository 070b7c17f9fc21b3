"""Plans as they are stored: what another release began is finished by this one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from service.api.options import parse_options
from tests.compat.make import make
from tests.worker.conftest import Average, MakeVideo, decoded, packet_times
from worker import channel, pipeline
from worker.media.errors import MachineError, MediaError
from worker.media.sandbox import probe
from worker.pipeline import assemble
from worker.plan import MOST_KEPT, VERSION, JobPlan, RecentPlans
from worker.schedule import segments

COMPAT = Path(__file__).parents[1] / "compat"
PLANS = sorted(COMPAT.glob("*/plan-*.json"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_job_that_another_release_began_is_finished(path: Path, tmp_path: Path, average: Average) -> None:
    """The first segment is the other release's, too."""
    plan, source = JobPlan.from_json(path.read_text()), path.with_name("source.mp4")
    first = path.with_name(f"{path.stem.replace('plan', 'segment')}.mp4")
    parts = [first, *(tmp_path / f"{index}.mp4" for index in range(1, len(plan.segments)))]
    for index, part in enumerate(parts[1:], 1):
        pipeline.render_segment(plan, index, source, part, average)
    result = tmp_path / "result.mp4"
    pipeline.assemble(plan, parts, source, result)
    assert packet_times(result) == [plan.shown(frame.time) for frame in plan.schedule]
    assert len(decoded(result, "yuv420p")) == plan.frames


def test_what_this_release_writes_can_be_kept_for_the_next(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    make(kept)
    assert {path.name for path in kept.iterdir()} == {path.name for path in COMPAT.glob("0.1.0/*")}
    for name in ("factor", "target-fps", "speed"):
        plan = JobPlan.from_json((kept / f"plan-{name}.json").read_text())
        assert len(decoded(kept / f"segment-{name}.mp4", "yuv420p")) == plan.segments[0].stop_output


def test_a_plan_is_read_as_it_was_written(clip: Path) -> None:
    plan = JobPlan.make(clip, probe(clip), parse_options({"target_fps": "59.94"}), segment_frames=8)
    assert JobPlan.from_json(plan.to_json()) == plan


def test_long_calculations_look_whether_they_are_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "many.y4m"
    source.write_bytes(b"YUV4MPEG2 W2 H2 F1000:1 C420\n" + (b"FRAME\n" + b"\x80" * 6) * 1000)
    monkeypatch.setattr(channel, "CHECK_ITEMS", 10)

    def looks_during(work: Callable[[Callable[[], None]], object]) -> int:
        looks: list[None] = []
        with contextlib.suppress(FileNotFoundError):
            work(lambda: looks.append(None))
        return len(looks)

    plan = JobPlan.make(source, probe(source), parse_options({}), segment_frames=1)
    stored = plan.to_json()
    assert looks_during(lambda check: segments(plan.schedule, 1, check)) >= 200
    assert looks_during(plan.to_json) >= 100
    assert looks_during(lambda check: JobPlan.from_json(stored, check)) >= 100
    missing = [tmp_path / "missing"]
    assert looks_during(lambda check: assemble(plan, missing, source, tmp_path / "out", check=check)) >= 600


def test_the_plans_that_are_kept_have_so_many_frames_together(clip: Path) -> None:
    plan = JobPlan.make(clip, probe(clip), parse_options({}), segment_frames=8)
    timeline = replace(plan.timeline, times=[*plan.timeline.times] * (MOST_KEPT // 12))
    film = replace(plan, pictures=replace(plan.pictures, timeline=timeline))
    recent, read = RecentPlans(), list[str]()

    def get(key: str, plan: JobPlan) -> None:
        def read_it() -> JobPlan:
            read.append(key)
            return plan

        assert recent.get(key, read_it) is plan

    for key, each in (("clip", plan), ("other", plan), ("clip", plan), ("film", film), ("film", film)):
        get(key, each)
    assert read == ["clip", "other", "film"]
    get("clip", plan)
    assert read[3:] == ["clip"]


def test_the_times_of_very_many_frames_are_packed(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = JobPlan.make(clip, probe(clip), parse_options({"start": "0.08"}), segment_frames=8)
    plan = replace(
        plan, pictures=replace(plan.pictures, timeline=replace(plan.timeline, checksums=(1, 2**32 - 1)))
    )
    monkeypatch.setattr("worker.plan.MOST_PLAIN", 3)
    stored = json.loads(plan.to_json())
    assert stored["version"] == VERSION and isinstance(stored["times"], str)  # an older release is told so
    read = JobPlan.from_json(json.dumps(stored))
    assert read.timeline.times == plan.timeline.times and list(read.timeline.checksums) == [1, 2**32 - 1]
    assert read.schedule[:] == plan.schedule[:]


def test_what_a_later_release_added_is_ignored(clip: Path) -> None:
    plan = JobPlan.make(clip, probe(clip), parse_options({}), segment_frames=8)
    stored = json.loads(plan.to_json()) | {"grain": 3}
    stored["segments"][0]["weight"] = 1
    read = JobPlan.from_json(json.dumps(stored))
    assert (read.schedule[:], read.segments) == (plan.schedule[:], plan.segments)


def test_a_jump_of_the_clock_is_held_and_said(video: MakeVideo, average: Average, tmp_path: Path) -> None:
    late = "setpts='PTS+gte(N,8)*30/TB'"
    source = video("jump.mkv", "-vf", late, "-fps_mode", "passthrough", "-c:v", "ffv1")
    plan = JobPlan.make(source, probe(source), parse_options({"target_fps": "25"}), segment_frames=9999)
    stored = plan.to_json()
    assert json.loads(stored)["version"] == 3  # an older release would make frames there
    read = JobPlan.from_json(stored)
    assert read == plan and read.schedule[:] == plan.schedule[:]
    assert pipeline.render_segment(read, 0, source, tmp_path / "0.mp4", average).new_frames == 0
    [note] = plan.notes
    assert (note.code, note.time) == ("times-gap", "7/25") and "no frame for 30.04 s" in note.text


def test_a_plan_of_a_newer_version_is_refused_in_a_sentence(clip: Path) -> None:
    plan = JobPlan.make(clip, probe(clip), parse_options({}), segment_frames=8)
    with pytest.raises(MachineError, match="newer release wrote the plan .* Update this worker"):
        JobPlan.from_json(json.dumps(json.loads(plan.to_json()) | {"version": VERSION + 1}))


def test_too_many_frames_are_refused(clip: Path) -> None:
    with pytest.raises(MediaError, match="24 frames in the result; at most 23"):
        JobPlan.make(clip, probe(clip), parse_options({}), segment_frames=8, max_frames=23)
