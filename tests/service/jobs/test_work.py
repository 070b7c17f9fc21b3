"""The work of a job as it is estimated, against the plan that a worker makes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from service.api.options import parse_options
from service.jobs.work import LEAST_PIXELS, Work, doubts
from worker.media import ffmpeg
from worker.media.sandbox import probe
from worker.plan import JobPlan
from worker.schedule import Between


@pytest.mark.parametrize(
    "options",
    [{"factor": 4}, {"target_fps": 60}, {"target_fps": 25}, {"target_fps": 10}]
    + [{"speed": "1/3"}, {"speed": "0.4"}, {"speed": "0.4", "target_fps": 60}],
    ids=str,
)
def test_the_estimate_is_what_is_planned(clip: Path, options: dict[str, object]) -> None:
    info, asked = probe(clip), parse_options(options)
    plan = JobPlan.make(clip, info, asked, segment_frames=8)
    new = sum(isinstance(frame.action, Between) for frame in plan.schedule)
    work = Work.of(info.as_dict(), asked)
    assert work.frames == pytest.approx(plan.frames, abs=1)
    assert work.new_frames == pytest.approx(new, abs=2)


@pytest.mark.parametrize(
    "options", [{}, {"deinterlace": "off"}, {"target_fps": 60}, {"speed": "0.4"}], ids=str
)
def test_the_estimate_counts_the_frames_of_fields(tmp_path: Path, options: dict[str, object]) -> None:
    clip = tmp_path / "interlaced.mp4"
    fields = ("testsrc2=size=96x64:rate=50:duration=1", "-vf", "interlace=lowpass=0", "-flags", "+ildct+ilme")
    made = [ffmpeg.binary(), "-v", "error", "-f", "lavfi", "-i", *fields, "-x264opts", "tff=1", str(clip)]
    subprocess.run(made, check=True)
    info, asked = probe(clip), parse_options(options)
    plan = JobPlan.make(clip, info, asked, segment_frames=8)
    work = Work.of(info.as_dict(), asked)
    assert work.frames == pytest.approx(plan.frames, abs=1)
    assert work.new_frames == pytest.approx(
        sum(isinstance(frame.action, Between) for frame in plan.schedule), abs=2
    )
    assert [note.code for note in doubts(info.as_dict(), asked)] == ["frames-unsure"] * (
        asked.deinterlace == "auto"
    )


def test_a_small_frame_counts_for_more_than_its_pixels() -> None:
    facts = {"frames": 11, "width": 2, "height": 2}
    assert Work.of(facts, parse_options({})).megapixels == 10 * LEAST_PIXELS / 1e6
    large = Work.of(facts | {"width": 1920, "height": 1080}, parse_options({}))
    assert large.megapixels == pytest.approx(10 * 2.0736)


def test_a_single_frame_takes_no_work() -> None:
    assert Work.of({"frames": 1, "width": 96, "height": 64}, parse_options({})) == Work(2, 0, 0.0)
