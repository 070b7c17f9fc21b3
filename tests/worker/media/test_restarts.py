"""Files whose timestamps start again keep every frame, one piece after the other, and the sound with them."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from service.api.options import parse_options
from tests.worker.conftest import Interpolate, MakeVideo, decoded, packet_times
from worker.media.pieces import Stamp, shifts_of
from worker.media.restarts import Restarts
from worker.media.sandbox import probe
from worker.plan import JobPlan

PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.48")
TONE = ("-f", "lavfi", "-i", "sine=duration=0.48")
KINDS = {
    "ts": (*PICTURE, *TONE, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "2", "-c:a", "aac"),
    "mpg": (*PICTURE, *TONE, "-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"),
}


@pytest.mark.parametrize(
    ("kind", "later"),
    [
        ("ts", 0),
        ("ts", Fraction(13, 1000)),  # the second piece begins 13 ms later than the first
        ("ts", Fraction(40, 100)),  # it begins two frames before the first one ends
        ("mpg", 0),
    ],
)
def test_every_frame_of_every_piece_comes_through(
    video: MakeVideo, interpolated: Interpolate, tmp_path: Path, kind: str, later: Fraction
) -> None:
    first = video(f"piece.{kind}", *KINDS[kind])
    second = first
    if later:
        second = video(
            f"piece-{later.denominator}.{kind}", "-i", first, "-c", "copy", "-output_ts_offset", float(later)
        )
    source = tmp_path / f"both.{kind}"
    source.write_bytes(first.read_bytes() + second.read_bytes())
    result = interpolated(source, factor=2, quality=0, segment_frames=16)

    pictures = decoded(result, "yuv420p")[::2]
    assert np.array_equal(pictures, [*decoded(first, "yuv420p"), *decoded(second, "yuv420p")])
    times = packet_times(result)
    assert {b - a for a, b in itertools.pairwise(times)} == {Fraction(1, 50)}

    sounds = [packet_times(path, "audio") for path in (first, result)]
    assert len(sounds[1]) >= 2 * len(sounds[0]) - 2
    begins = [packet_times(first)[0], times[0]]
    late = [[moment - begin for moment in sound] for sound, begin in zip(sounds, begins, strict=True)]
    assert abs(late[1][0] - late[0][0]) < Fraction(1, 20)  # a packet of sound lasts a fortieth of a second
    assert abs(late[1][-1] - (late[0][-1] + Fraction(48, 100))) < Fraction(1, 20)


def test_the_plan_says_that_there_are_pieces(video: MakeVideo, tmp_path: Path) -> None:
    piece = video("piece.ts", *KINDS["ts"])
    source = tmp_path / "three.ts"
    source.write_bytes(3 * piece.read_bytes())
    plan = JobPlan.make(source, probe(source), parse_options({}), segment_frames=16)
    assert plan.info.frames == len(plan.timeline.times) == 36
    assert plan.restarts is not None and "3 pieces" in plan.notes[0].text
    assert JobPlan.from_json(plan.to_json()) == plan
    assert (
        json.loads(plan.to_json())["version"] == 2
    )  # a reader of version 1 would look for the frames in the source
    assert Restarts.find(piece, probe(piece)) is None


@pytest.mark.parametrize(
    "codec",
    [
        ("-c:v", "libx264", "-x264-params", "open-gop=1:keyint=12"),
        ("-c:v", "libx265", "-x265-params", "log-level=none:open-gop=1:keyint=12"),
    ],
)
def test_a_piece_may_begin_between_key_frames(
    video: MakeVideo, tmp_path: Path, codec: tuple[str, ...]
) -> None:
    long = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=1.5")
    whole = video(f"{codec[1]}.ts", *long, *codec, "-bf", "3", "-pix_fmt", "yuv420p").read_bytes()
    source = tmp_path / "pieces.ts"
    for data in (whole + whole[188 * 30 :], whole[188 * 30 :] + whole):
        source.write_bytes(data)
        plan = JobPlan.make(source, probe(source), parse_options({}), segment_frames=1000)
        assert len(plan.timeline.times) == len(decoded(source, "yuv420p"))
        assert {note.code for note in plan.notes} <= {"times-restart", "frames-lost"}


def test_sound_belongs_to_the_piece_whose_picture_it_follows() -> None:
    stamps = [
        Stamp(0, 0, 0, 0, 10),
        Stamp(1, 1, 0, 0, 10),
        Stamp(0, 2, 10, 10, 10),
        Stamp(1, 3, 5, 5, 10),  # comes before the picture of its piece, and after its own start
        Stamp(1, 4, 2, 2, 10),  # comes before the picture of its piece, and goes back
        Stamp(0, 5, 3, 3, 10),
        Stamp(1, 6, 12, 12, 10),
    ]
    assert shifts_of(stamps, 0) == {0: [(2, 17)], 1: [(2, 17)]}
    assert shifts_of(stamps[:5], 0) == {}
