"""Cuts, fades and flashes of a real film, in the light that it was filmed in and in others."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.worker.conftest import Average
from tests.worker.test_pipeline import Flat, Sink, run
from worker.bench import cuts as bench
from worker.cuts import Thumbnail, Transition, difference, transition
from worker.media.decode import Decoder, Plane
from worker.media.sandbox import probe
from worker.media.times import frame_times
from worker.schedule import Factor

CUTS = [30, 76, 137, 187, 242]  # first frames of the film's scenes


@pytest.fixture(scope="session")
def film(bikes: Path) -> Plane:
    """The film's brightness, from 0 to 1."""
    with Decoder(bikes, probe(bikes), 0, 249, frame_times(bikes)) as decoder:
        lumas = np.stack([frame.planes[0][::2, ::2] for frame in decoder])
    light: Plane = np.clip((lumas.astype(np.float32) - 16) / 219, 0, 1)
    return light


@pytest.fixture(scope="session")
def scenes(film: Plane) -> list[Plane]:
    return [scene[:8] for scene in np.split(film, CUTS)]


def told(frames: Plane) -> list[Transition]:
    coded = np.clip(np.rint(16 + 219 * frames), 0, 255).astype(np.uint8)
    thumbnails = [Thumbnail.of(frame) for frame in coded]
    around = [None, *thumbnails, None]
    return [transition(*around[k : k + 4], threshold=0.3) for k in range(len(frames) - 1)]  # type: ignore[arg-type]


def test_cuts_of_a_real_film_are_found_and_fast_motion_is_not_one(film: Plane) -> None:
    found = told(film)
    assert [k + 1 for k, change in enumerate(found) if change is Transition.CUT] == CUTS
    assert set(found) == {Transition.CUT, Transition.MOTION}


@pytest.mark.parametrize("light", bench.LIGHTS)
def test_cuts_are_found_in_every_light_and_nothing_else_is_taken_for_one(
    light: str, scenes: list[Plane]
) -> None:
    row = bench.measure(scenes, light, 0.3)
    assert row.cuts == (30, 30)
    assert row.motion == (0, 42)
    assert row.pans[0] <= (2 if "noise" in light else 0) and row.pans[1] > 40


def test_flashes_and_fades_are_neither_cuts_nor_motion(scenes: list[Plane]) -> None:
    row = bench.measure(scenes, "as filmed", 0.3)
    assert row.flashes == (6, 6)
    assert row.fades[0] >= 8 and row.fades[1] == 18  # where all else moves fast, the network makes the rest


def test_fades_to_black_and_from_it_are_fades(scenes: list[Plane]) -> None:
    share = np.array([1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0])[:, None, None]
    motion, fade = [Transition.MOTION] * 2, [Transition.FADE] * 3
    for scene in scenes:
        assert told(scene * share)[:5] == motion + fade
        assert told((scene * share)[::-1])[2:] == fade + motion


def test_a_light_that_is_switched_is_no_cut(scenes: list[Plane]) -> None:
    switched = scenes[0] * np.repeat([0.3, 0.8], 4)[:, None, None]
    assert [k for k, change in enumerate(told(switched)) if change is not Transition.MOTION] == [3]
    assert told(switched)[3] is Transition.FLASH


def test_what_is_shown_at_a_fade_and_at_a_flash(average: Average) -> None:
    flash, dusk = Flat([60, 60, 150, 60, 60]), Flat([100, 100, 70, 40, 40])
    sink = Sink()
    stats = run(flash, sink, average, Factor(2), threshold=0.9)
    assert [int(planes[0][0, 0]) for planes in sink.written] == [60, 60, 60, 60, 150, 60, 60, 60, 60, 60]
    assert sink.written[3] is flash.frames[1].planes and sink.written[5] is flash.frames[3].planes
    assert (stats.scene_cuts, stats.new_frames) == (0, 2)
    sink = Sink()
    stats = run(dusk, sink, average, Factor(2), threshold=0.9)
    assert [int(planes[0][0, 0]) for planes in sink.written] == [100, 100, 100, 85, 70, 55, 40, 40, 40, 40]
    assert (stats.scene_cuts, stats.new_frames) == (0, 2)


def test_the_threshold_has_its_ends(scenes: list[Plane], average: Average) -> None:
    """At 0 nothing is ever blended, and at 1 the network makes everything."""
    thumbnails = [
        Thumbnail.of(np.rint(255 * frame).astype(np.uint8)) for scene in scenes for frame in scene[:3]
    ]
    for one, two in itertools.pairwise(thumbnails):
        assert transition(None, one, two, None, 0) is Transition.CUT
        assert transition(None, one, two, None, 1) is Transition.MOTION
    assert run(Flat([100, 70, 40]), Sink(), average, Factor(2), threshold=0).scene_cuts == 2
    assert run(Flat([100, 70, 40]), Sink(), average, Factor(2), threshold=1).new_frames == 2


def test_when_the_second_scene_begins_is_told(average: Average) -> None:
    stats = run(Flat([20, 20, 235, 235, 20, 20]), Sink(), average, Factor(2), threshold=0.3)
    assert (stats.cuts, stats.scene_cuts) == ([Fraction(2, 25), Fraction(4, 25)], 2)


def test_scores_do_not_depend_on_depth() -> None:
    noise = np.random.default_rng(0).integers(16, 235, (2, 64, 96), dtype=np.uint8)
    first, second = map(Thumbnail.of, noise)
    deep = map(Thumbnail.of, noise.astype("<u2") * 4)
    assert difference(first, first) == pytest.approx(0, abs=1e-9)
    assert difference(*deep) == pytest.approx(difference(first, second), abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 40), (32, 33), (100, 96)])
def test_a_thumbnail_is_the_mean_of_its_blocks(height: int, width: int) -> None:
    luma = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    rows, columns = min(height, 32), min(width, 56)
    blocks = [
        [
            block.mean() / 255
            for block in np.split(strip, [k * width // columns for k in range(1, columns)], 1)
        ]
        for strip in np.split(luma, [k * height // rows for k in range(1, rows)])
    ]
    np.testing.assert_allclose(Thumbnail.of(luma).means, blocks)


def test_the_measurement_is_a_table(bikes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "FRAMES", 8)
    done = CliRunner().invoke(bench.cuts, [str(bikes), str(bikes), "--threshold", "0.9"])
    assert done.exit_code == 0, done.output
    assert done.output.count("\n") == 2 + len(bench.LIGHTS) and "| as filmed | 0.0 % |" in done.output
