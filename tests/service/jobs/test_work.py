"""The work of a job as it is estimated, against the plan that a worker makes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from service.api.options import parse_options
from service.jobs.work import LEAST_PIXELS, Work, doubts
from worker.media import ffmpeg
from worker.media.sandbox import picture, probe
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


PLAIN = ("-preset", "ultrafast", "-pix_fmt", "yuv420p")
FLAGGED = (*PLAIN, "-flags", "+ildct+ilme", "-x264opts", "tff=1")
#: What the flags do not say of the pictures: filters, options of the encoder, and what the first pictures look like.
UNTOLD = {
    "interlaced": (50, "scroll=h=0.03,interlace=lowpass=0,setfield=prog", PLAIN, "interlaced"),
    "telecined": (24, "scroll=h=0.03,telecine=pattern=23,setfield=prog", PLAIN, "film"),
    "whole": (25, "scroll=h=0.03,setfield=tff", FLAGGED, "whole"),
    "plain": (25, "null", PLAIN, ""),
}


@pytest.mark.parametrize("kind", UNTOLD)
def test_a_look_at_the_first_pictures_tells_what_flags_do_not(tmp_path: Path, kind: str) -> None:
    rate, filters, encoder, found = UNTOLD[kind]
    clip = tmp_path / "untold.mp4"
    moving = f"testsrc2=size=96x64:rate={rate}:duration=2"
    made = [ffmpeg.binary(), "-v", "error", "-f", "lavfi", "-i", moving, "-vf", filters, *encoder, str(clip)]
    subprocess.run(made, check=True)
    asked = parse_options({})
    plan = JobPlan.make(clip, info := probe(clip), asked, segment_frames=8)
    facts = info.as_dict() | picture(clip)
    assert Work.of(facts, asked).frames == pytest.approx(plan.frames, abs=2)
    told = doubts(facts, asked)
    assert [note.code for note in told] == ["frames-unsure"] * bool(found)
    assert found in "".join(note.text for note in told)


def test_an_estimate_says_that_repeats_are_not_told_from_frames(clip: Path) -> None:
    facts = probe(clip).as_dict()
    [note] = doubts(facts, parse_options({"dedup": "retime"}))
    assert (note.code, "repeat" in note.text) == ("frames-unsure", True)
    assert not doubts(facts, parse_options({}))


def test_a_small_frame_counts_for_more_than_its_pixels() -> None:
    facts = {"frames": 11, "width": 2, "height": 2}
    assert Work.of(facts, parse_options({})).megapixels == 10 * LEAST_PIXELS / 1e6
    large = Work.of(facts | {"width": 1920, "height": 1080}, parse_options({}))
    assert large.megapixels == pytest.approx(10 * 2.0736)


def test_a_single_frame_takes_no_work() -> None:
    assert Work.of({"frames": 1, "width": 96, "height": 64}, parse_options({})) == Work(2, 0, 0.0)
