"""What the prober says of an ordinary file, and how it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

from tests.worker.conftest import MakeVideo
from tests.worker.media.conftest import H264
from worker.media.facts import VideoInfo
from worker.media.sandbox import probe


def test_facts_of_an_ordinary_file(video: MakeVideo) -> None:
    sound = ("-f", "lavfi", "-i", "sine=sample_rate=44100:duration=0.6")
    picture = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30000/1001:duration=0.6")
    info = probe(video("ordinary.mp4", *picture, *sound, *H264, "-bf", "2", "-c:a", "aac"))
    assert (info.codec, info.width, info.height) == ("h264", 96, 64)
    assert (info.pixel_format, info.working_format) == ("yuv420p", "yuv420p")
    assert info.average_rate == Fraction(30000, 1001)
    assert (info.frames, info.duration) == (18, 18 * Fraction(1001, 30000))
    assert [(sound.codec, sound.channels, sound.sample_rate) for sound in info.audio] == [("aac", 1, 44100)]
    assert VideoInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info


def test_the_still_picture_of_an_animation_is_no_other_stream(video: MakeVideo) -> None:
    moving = video("moving.avif", "-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "yuv420p")
    assert (probe(moving).frames, probe(moving).others) == (15, ())


def test_the_command_answers_in_json_and_exits_well(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    command = [sys.executable, "-m", "worker.media.probe", "probe", str(tmp_path / "text.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["error"]["type"] == "unreadable-video"
