"""Interlaced and telecined video, and frames that repeat the one before: what is shown when, measured in the result."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.api.options import parse_options
from tests.worker.conftest import Interpolate, decoded, packet_times
from worker.media import content, ffmpeg
from worker.media.content import WHOLE, pieces
from worker.media.errors import MachineError
from worker.media.fields import Piece, choose
from worker.media.sandbox import probe
from worker.media.times import frame_times
from worker.plan import JobPlan
from worker.repeats import evened, pulled_down, repeated

WIDTH, HEIGHT, SIZE = 128, 64, 24
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
LOSSLESS = (*H264, "-qp", "0")


def moving(
    path: Path, positions: Sequence[float], rate: object, *arguments: object, noise: float = 0
) -> Path:
    """A video of a soft bright bar at these columns, before a still pattern."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    still = 60 + 20 * np.sin(rows / 3)
    random = np.random.default_rng(0)
    frames = []
    for position in positions:
        bar = 120 * np.clip(SIZE / 2 - abs(columns - position), 0, 4) / 4 * (abs(rows - HEIGHT / 2) < 20)
        luma = still + bar + random.normal(0, noise, still.shape)
        frames.append(np.clip(np.rint(luma), 16, 235).astype(np.uint8).tobytes())
    raw = ("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(rate), "-i", "-")
    command = [ffmpeg.binary(), "-y", "-v", "error", *raw, *map(str, arguments), str(path)]
    subprocess.run(command, input=b"".join(frames), check=True)
    return path


def positions(path: Path) -> np.ndarray:
    """Where the bar is in each frame: the centre of what is brighter than the median over time."""
    frames = np.stack([frame[: WIDTH * HEIGHT] for frame in decoded(path, "yuv420p")])
    light = frames.reshape(-1, HEIGHT, WIDTH)[:, 14:50].mean(axis=1)
    above = np.clip(light - np.median(light, axis=0), 0, None)
    above[above < 6] = 0
    return (above * np.arange(WIDTH)).sum(axis=1) / above.sum(axis=1)


def plan_of(source: Path, **options: object) -> JobPlan:
    return JobPlan.make(source, probe(source), parse_options(options), segment_frames=1000)


def codes(plan: JobPlan) -> list[str]:
    return [note.code for note in plan.notes]


def rows(changes: Sequence[float]) -> np.ndarray:
    """What the look finds, where frames differ by so much."""
    return np.array(changes, np.float32)[:, None].repeat(3, axis=1)


def moved(gaps: Sequence[int], steps: Sequence[float]) -> np.ndarray:
    """What the look finds of pictures that are shown for so many frames, and lie so far from the one before."""
    return np.array(
        [
            row
            for gap, step in zip(gaps, steps, strict=True)
            for row in ((30, step, step), *[(0, 0, 0)] * (gap - 1))
        ],
        np.float32,
    )


def luma(path: Path) -> list[bytes]:
    return [frame[: WIDTH * HEIGHT].tobytes() for frame in decoded(path, "yuv420p")]


# -- fields --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def interlaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames, 25 a second, of 48 fields in which a bar moves by 1.5 columns each."""
    path = tmp_path_factory.mktemp("fields") / "interlaced.mp4"
    flags = (
        "-vf",
        "interlace=scan=tff:lowpass=0",
        "-r",
        25,
        *LOSSLESS,
        "-flags",
        "+ildct+ilme",
        "-x264opts",
        "tff=1",
    )
    return moving(path, [24 + 1.5 * k for k in range(48)], 50, *flags)


def test_each_field_becomes_a_frame_at_its_time(interlaced: Path, interpolated: Interpolate) -> None:
    plan = plan_of(interlaced)
    assert plan.timeline.times == [Fraction(k, 50) for k in range(48)] and plan.timeline.end == Fraction(
        48, 50
    )
    assert codes(plan) == ["deinterlaced"] and (plan.frames, plan.frame_rate) == (96, 100)
    result = interpolated(interlaced, quality=0)
    assert packet_times(result) == [Fraction(k, 100) for k in range(96)]
    at = positions(result)[2:-4]
    assert (
        np.abs(at - (24 + 0.75 * np.arange(2, 92))).max() < 1.2
    )  # half a field's way, by the lines of a field
    assert np.diff(at[::2]).min() > 0.9 and np.diff(at[::2]).max() < 2.1


def test_segments_of_fields_are_those_of_the_whole(interlaced: Path, interpolated: Interpolate) -> None:
    whole, parts = (luma(interpolated(interlaced, frames, quality=0)) for frames in (1000, 14))
    assert whole == parts


def test_fields_that_no_flag_tells_of_are_found(tmp_path: Path) -> None:
    source = moving(
        tmp_path / "untagged.avi",
        [24 + 1.5 * k for k in range(48)],
        50,
        *("-vf", "interlace=scan=bff:lowpass=0,setfield=prog", "-r", 25, "-c:v", "ffv1"),
    )
    plan = plan_of(source)
    assert plan.info.field_order == "" and plan.timeline.fields == "bob-bff"
    assert codes(plan_of(source, deinterlace="off")) == ["interlaced"]


def test_whole_pictures_stay_whatever_their_flags_say(tmp_path: Path, interpolated: Interpolate) -> None:
    flags = (*LOSSLESS, "-flags", "+ildct+ilme", "-x264opts", "tff=1")
    source = moving(tmp_path / "flagged.mp4", [24 + 3 * k for k in range(24)], 25, *flags)
    plan = plan_of(source)
    assert plan.info.field_order == "tff" and not plan.timeline.fields and not codes(plan)
    assert luma(interpolated(source, quality=0))[::2] == luma(source)


@pytest.mark.parametrize("deinterlace", ["off", "bob", "weave"])
def test_what_is_asked_for_is_done(interlaced: Path, interpolated: Interpolate, deinterlace: str) -> None:
    result = interpolated(interlaced, quality=0, deinterlace=deinterlace)
    assert len(packet_times(result)) == (96 if deinterlace == "bob" else 48)
    assert (luma(result)[::2] == luma(interlaced)) == (deinterlace == "off")


def test_two_whole_pictures_are_too_few_to_doubt_a_flag(interlaced: Path) -> None:
    info = replace(probe(interlaced), field_order="tff")
    still = ["undetermined"] * 38
    for scans, way in [
        ([*still, "progressive", "progressive"], "bob-tff"),
        (["progressive", "progressive", "progressive", "tff", "tff"] * 8, "bob-tff"),  # telecine
        (["progressive"] * 38 + ["tff"] * 2, ""),
    ]:
        assert choose(info, "auto", [Piece(scans)])[0] == way


def test_a_look_asks_whether_to_stop(interlaced: Path) -> None:
    timeline, asked = frame_times(interlaced), []
    pieces(interlaced, probe(interlaced), timeline, lambda: asked.append("check"), lambda: asked.append("on"))
    assert Counter(asked)["check"] >= 23 and Counter(asked)["on"] >= 23


def test_where_no_seek_finds_a_frame_the_beginning_is_looked_at(interlaced: Path) -> None:
    later = replace(frame_times(interlaced), times=[Fraction(1000 + k) for k in range(WHOLE + 1)])
    assert [len(piece.scans) for piece in pieces(interlaced, probe(interlaced), later)] == [24]


# -- telecine ------------------------------------------------------------------------


def test_film_is_taken_out_of_hard_telecine(tmp_path: Path, interpolated: Interpolate) -> None:
    film = [24 + 2 * k for k in range(40)]
    pulled = (
        "-vf",
        "telecine=pattern=23,setfield=tff",
        "-r",
        30,
        *LOSSLESS,
        "-flags",
        "+ildct+ilme",
        "-x264opts",
        "tff=1",
    )
    source = moving(tmp_path / "telecined.mp4", film, 24, *pulled)
    plan = plan_of(source)
    assert codes(plan) == ["telecine-undone"]
    assert plan.info.average_rate == 24 and len(plan.pictures.times) in (39, 40, 41)
    gaps = Counter(b - a for a, b in zip(plan.pictures.times, plan.pictures.times[1:], strict=False))
    assert gaps[Fraction(1, 24)] >= 28
    at = positions(interpolated(source, 22, quality=0))[16:-16:2]
    assert np.abs(np.diff(at) - 2).max() < 0.6


def test_one_of_five_frames_of_film_repeats_however_it_is_compressed() -> None:
    film = [
        0.0,
        46,
        15,
        27,
        34,
        32,
        33,
        7,
        25,
        22,
        27,
        30,
        9,
        37,
        35,
        38,
        38,
        1,
        35,
        28,
        0,
        0,
        0,
        0,
        0,
        30,
        29,
        4,
    ]
    video = [20.0, 21, 19, 22, 20] * 8
    assert [k for k, repeats in enumerate(pulled_down(rows(film))) if repeats] == [2, 7, 12, 17, 22, 27]
    assert not any(pulled_down(rows([*film[:20], *video]))[30:])


def test_soft_telecine_is_shown_evenly(tmp_path: Path, interpolated: Interpolate) -> None:
    fields = "settb=1/60000,setpts='(floor(N/2)*5+mod(N,2)*3)*1000'"
    pulled = ("-vf", fields, "-fps_mode", "passthrough", "-enc_time_base", "1:60000", *LOSSLESS)
    source = moving(tmp_path / "soft.mp4", [24 + 2 * k for k in range(24)], 24, *pulled)
    plan = plan_of(source)
    assert codes(plan) == ["telecine-undone"]
    gaps = [b - a for a, b in zip(plan.pictures.times, plan.pictures.times[1:], strict=False)]
    assert set(gaps[3:-3]) == {Fraction(1, 24)} and plan.pictures.times[0] == 0
    assert luma(interpolated(source, quality=0))[::2] == luma(source)
    assert not codes(plan_of(source, deinterlace="off"))


# -- repeats -------------------------------------------------------------------------


def steps(path: Path) -> np.ndarray:
    return np.diff(positions(path))[6:-10]


@pytest.mark.parametrize("held", [2, 3])
@pytest.mark.parametrize("coded", [LOSSLESS, (*H264, "-crf", "20")], ids=["exact", "compressed"])
def test_motion_of_animation_is_even(
    tmp_path: Path, interpolated: Interpolate, held: int, coded: tuple[object, ...]
) -> None:
    drawn = [24 + 6 * (k // held) * held / 2 for k in range(24)]
    source = moving(tmp_path / "twos.mp4", drawn, 24, *coded)
    off, auto, retimed = (
        interpolated(source, n, quality=0, dedup=way)
        for n, way in ((1000, "off"), (1001, "auto"), (1002, "retime"))
    )
    assert codes(plan_of(source)) == ["frames-repeat"]
    assert (np.abs(steps(off)) < 0.2).mean() > 0.4  # it stands still and jumps
    assert np.abs(steps(auto) - 1.5).max() < 0.5
    assert packet_times(auto) == packet_times(off)
    pictures = luma(source)[::held]
    assert luma(auto)[: -2 * held : 2 * held] == pictures[:-1]  # pictures stay exact, at their times
    assert luma(retimed)[::2] == pictures and len(luma(retimed)) == 2 * len(pictures)


def test_24_in_30_is_evened_by_retime_and_never_stands_still_by_auto(
    tmp_path: Path, interpolated: Interpolate
) -> None:
    film = [24 + 2 * (k * 4 // 5) for k in range(40)]
    source = moving(tmp_path / "film.mp4", film, 30, *LOSSLESS)
    off, auto, retimed = (
        interpolated(source, n, quality=0, dedup=way)
        for n, way in ((1000, "off"), (1001, "auto"), (1002, "retime"))
    )
    assert np.abs(steps(off)).min() < 0.05 and steps(auto).min() > 0.35
    assert np.abs(steps(retimed) - 1).max() < 0.25
    assert plan_of(source, dedup="retime").frame_rate == 48
    times = packet_times(retimed)
    assert set(np.diff(times)[12:-12]) == {Fraction(1, 48)} and len(luma(retimed)) == 64


def test_segments_of_repeats_are_those_of_the_whole(tmp_path: Path, interpolated: Interpolate) -> None:
    source = moving(tmp_path / "twos.mp4", [24 + 3 * (k // 2) * 2 for k in range(24)], 24, *LOSSLESS)
    for dedup in ("auto", "retime"):
        whole, parts = (luma(interpolated(source, n, quality=0, dedup=dedup)) for n in (1000, 6))
        assert whole == parts


@pytest.mark.parametrize("speed", [0, 0.05, 0.3])
@pytest.mark.parametrize("coded", [LOSSLESS, (*H264, "-crf", "30")], ids=["exact", "compressed"])
def test_a_scene_that_hardly_moves_has_no_repeats(
    tmp_path: Path, speed: float, coded: tuple[object, ...]
) -> None:
    source = moving(tmp_path / "still.mp4", [60 + speed * k for k in range(48)], 25, *coded, noise=2)
    plan = plan_of(source)
    assert not plan.pictures.repeats and not codes(plan)


def test_a_real_film_has_no_repeats(bikes: Path) -> None:
    plan = plan_of(bikes)
    assert not plan.pictures.repeats and not plan.timeline.fields and not plan.pictures.moments


def test_what_rests_for_long_has_no_repeats() -> None:
    rests = rows(([0.0] * 20 + [30.0, 30.0]) * 6)
    assert not any(repeated(rests, [Fraction(k, 30) for k in range(len(rests))]))
    slow = rows([0.0, 30.0] * 10)
    assert not any(repeated(slow, [Fraction(k, 4) for k in range(20)]))
    assert sum(repeated(slow, [Fraction(k, 24) for k in range(20)])) == 9


IRREGULAR = [4, 6, 4, 5, 4, 4, 6, 4, 6, 4, 5, 2, 7]
ONES = [1] * 10


@pytest.mark.parametrize(
    ("gaps", "steps", "found"),
    [
        (IRREGULAR, [1, *IRREGULAR[:-1]], sum(IRREGULAR[:-1]) - 12),
        ([*ONES, 2, *ONES, 2, 1, *ONES], [1] * 11 + [2] + [1] * 10 + [2] + [1] * 10, 2),
        ([*ONES, 3, 2, 1, 3, *ONES], [1] * 24, 5),
        ([*ONES, 13, *ONES], [1] * 11 + [13] + [1] * 9, 12),
        ([*ONES, 6, *ONES], [1] * 21, 0),
        ([*ONES, 16, *ONES], [1] * 21, 0),
        ([*ONES, 40, *ONES], [1] * 11 + [40] + [1] * 9, 0),
        ([15] * 8, [1] * 8, 0),
        ([*ONES, 6, *ONES], [1] * 11 + [60] + [1] * 9, 0),
    ],
    ids=["recorded", "lost", "drawn", "frozen", "hold", "long-hold", "too-long", "blinks", "cut"],
)
def test_what_comes_after_tells_repeats_from_rest(gaps: list[int], steps: list[float], found: int) -> None:
    changes = moved(gaps, steps)
    assert sum(repeated(changes, [Fraction(k, 30) for k in range(len(changes))])) == found


def test_a_scene_between_two_cuts_is_no_repeat() -> None:
    slow = np.array([(3, 1, 1)] * 15, np.float32)
    changes = np.concatenate([slow, rows([60]), slow, rows([60]), slow])
    assert not any(repeated(changes, [Fraction(k, 30) for k in range(len(changes))]))


def test_motion_is_even_where_frames_were_lost_and_rests_stay(
    tmp_path: Path, interpolated: Interpolate
) -> None:
    """A recording that loses single frames, then stands still for ten, and a thing that comes to rest for seven."""
    moving_on = np.array([*range(36), *[35] * 7, *range(36, 48)])
    recorded = moving_on.copy()
    for lost in (5, 6, 9, 13, *range(20, 30)):
        recorded[lost] = recorded[lost - 1]
    source = moving(tmp_path / "lost.mp4", list(16 + 2 * recorded), 24, *LOSSLESS)
    off, auto, retimed = (
        interpolated(source, n, quality=0, dedup=way)
        for n, way in ((1000, "off"), (14, "auto"), (1002, "retime"))
    )
    grid = [Fraction(k, 48) for k in range(2 * 55)]
    assert packet_times(auto) == packet_times(off) == grid
    assert len(packet_times(retimed)) == 2 * (55 - 14)
    assert codes(plan_of(source)) == ["frames-repeat"]

    def errors(path: Path) -> np.ndarray:
        """How far the bar is from where it truly is then; where two far bars are mixed, it is not found so well."""
        at = np.array([float(24 * time) for time in packet_times(path)])
        return np.abs(positions(path) - (16 + 2 * np.interp(at, range(55), moving_on)))

    assert errors(off).max() > 15  # it stands still, and jumps
    for path in (auto, retimed):
        assert errors(path).max() < 4 and np.median(errors(path)) < 0.2
    assert luma(auto)[60:88] == luma(off)[60:88]  # what rests is copied


def test_a_cadence_is_evened_and_nothing_else() -> None:
    film = [Fraction(k * 5 // 4, 30) for k in range(24)]
    even = evened(film)
    assert {b - a for a, b in zip(even[5:-5], even[6:-5], strict=False)} == {Fraction(1, 24)}
    assert (even[0], even[-1]) == (film[0], film[-1])
    uneven = [Fraction(k * k, 100) for k in range(12)]
    assert evened(uneven) == uneven


# -- the look itself -----------------------------------------------------------------


def test_changes_are_those_of_their_frames_where_sizes_change(tmp_path: Path) -> None:
    parts = []
    for size, later in (("96x64", 0), ("64x64", 0.4), ("96x64", 0.8)):
        flash = f"color=black:size={size}:rate=25:duration=0.4,drawbox=c=white:t=fill:enable='eq(n,5)'"
        path = tmp_path / f"{later}.ts"
        command = [ffmpeg.binary(), "-v", "error", "-f", "lavfi", "-i", flash, *H264]
        subprocess.run([*command, "-output_ts_offset", str(later), str(path)], check=True)
        parts.append(path.read_bytes())
    source = tmp_path / "sizes.ts"
    source.write_bytes(b"".join(parts))
    info = probe(source)
    changes = content.changes(source, info, frame_times(source))
    assert [k for k, (change, _, _) in enumerate(changes) if change > 100] == [5, 6, 15, 16, 25, 26]


@pytest.mark.parametrize("look", [content.pieces, content.changes])
def test_a_look_that_the_machine_ends_is_no_finding(
    interlaced: Path, look: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(ffmpeg.Process):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.kill()

    info, timeline = probe(interlaced), frame_times(interlaced)
    monkeypatch.setattr(ffmpeg, "Process", Ended)
    with pytest.raises(MachineError, match="ended by the machine"):
        look(interlaced, info, timeline)
