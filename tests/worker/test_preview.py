"""Pictures of a job's newest frames: what is on them, in every layout of pixels and for whoever looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from redis import Redis

from dain_core.runtime.pixels import ALPHA_FORMATS, FORMATS, PixelFormat
from service.api.options import parse_options
from service.jobs.records import State
from service.settings import Settings
from tests.api import until
from tests.worker.conftest import Done
from tests.worker.one_worker import Bench
from worker import attempt, preview
from worker.media.decode import Plane
from worker.media.sandbox import probe
from worker.plan import JobPlan
from worker.preview import Preview

GRAY, RED = (126, 128, 128), (81, 90, 240)  # codes of BT.601, limited range


@pytest.fixture(scope="module")
def plan(clip: Path) -> JobPlan:
    return JobPlan.make(clip, probe(clip), parse_options({}), segment_frames=100)


def planes(pixels: PixelFormat, color: Sequence[int], size: tuple[int, int] = (96, 64)) -> list[Plane]:
    codes = [*(code << pixels.depth - 8 for code in color), 7]
    shapes = pixels.plane_shapes(*size)
    return [np.full(shape, code, pixels.dtype) for shape, code in zip(shapes, codes, strict=False)]


def look(jpeg: bytes) -> np.ndarray:
    [frame] = av.CodecContext.create("mjpeg", "r").decode(av.Packet(jpeg))
    return frame.to_ndarray(format="rgb24").astype(int)


def of(plan: JobPlan, pixels: PixelFormat, size: tuple[int, int] = (96, 64), **facts: Any) -> Preview:
    delivery = replace(plan.delivery, pixel_format=pixels.name)
    made = Preview(replace(plan, info=replace(plan.info, **({"matrix": 5} | facts)), delivery=delivery))
    made.show(planes(pixels, GRAY, size), planes(pixels, RED, size))
    return made


@pytest.mark.parametrize("pixels", [*FORMATS.values(), *ALPHA_FORMATS.values()], ids=lambda each: each.name)
def test_the_source_frame_is_left_and_the_new_one_right(plan: JobPlan, pixels: PixelFormat) -> None:
    picture = of(plan, pixels, (95, 63)).take()
    assert picture is not None
    shown = look(picture)
    assert shown.shape in [(64, 192, 3), (62, 188, 3), (64, 188, 3)]
    left, right = shown[:, :80].mean((0, 1)), shown[:, -80:].mean((0, 1))
    assert left == pytest.approx([128] * 3, abs=3) and right == pytest.approx([254, 0, 0], abs=5)


def test_colours_are_those_of_the_videos_matrix(plan: JobPlan) -> None:
    for matrix, full, red in (
        (1, False, (63, 102, 240)),
        (1, True, (54, 99, 255)),
        (9, False, (74, 97, 240)),
    ):
        made = of(plan, FORMATS["yuv444p"], matrix=matrix, full_range=full)
        frame = planes(FORMATS["yuv444p"], red)
        made.show(frame, frame)
        picture = made.take()
        assert picture is not None
        assert look(picture).mean((0, 1)) == pytest.approx([254, 0, 0], abs=5)


def test_it_is_small_and_upright_and_of_square_pixels(plan: JobPlan) -> None:
    large = (1920, 1080)
    cases: list[tuple[dict[str, Any], tuple[int, int]]] = [
        ({}, (360, 1280)),
        ({"rotation": 90}, (640, 720)),
        ({"rotation": 180}, (360, 1280)),
        ({"sample_aspect_ratio": Fraction(4, 3)}, (270, 1280)),
    ]
    for facts, size in cases:
        picture = of(plan, FORMATS["yuv420p"], large, **facts).take()
        assert picture is not None and look(picture).shape[:2] == size


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (270, (0, 1))])
def test_it_is_turned_as_the_video_is_shown(plan: JobPlan, rotation: int, corner: tuple[int, int]) -> None:
    """Counterclockwise, as `VideoInfo.rotation` counts: the upper left corner goes down first."""
    made = of(plan, FORMATS["yuv444p"], rotation=rotation)
    frame = planes(FORMATS["yuv444p"], (16, 128, 128), (64, 64))
    frame[0][:32, :32] = 235
    made.show(frame, frame)
    picture = made.take()
    assert picture is not None
    half = look(picture)[:, :64, 0].reshape(2, 32, 2, 32).mean((1, 3))
    assert tuple(np.unravel_index(half.argmax(), (2, 2))) == corner


def test_one_picture_in_a_while_and_only_of_what_is_new(
    plan: JobPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = of(plan, FORMATS["yuv420p"])
    assert made.take() and made.take() is None
    frame = planes(FORMATS["yuv420p"], GRAY)
    made.show(frame, frame)
    assert made.take() is None
    monkeypatch.setattr(preview, "SECONDS", 0)
    assert made.take() and made.take() is None


def test_whoever_looks_at_a_job_sees_what_it_makes(
    redis: Redis, settings: Settings, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody does once it is over."""
    monkeypatch.setattr(attempt, "REPORT_SECONDS", 0.01)
    bench, seen = Bench(redis, settings), list[bytes | None]()
    network = bench.models.named("dain-lite")
    submit = network.submit

    def wait(pair: Any, time: float) -> Done:
        if network.frames == 8:  # some of its frames are made
            until(lambda: bench.jobs.picture(job.id))
            seen.append(bench.jobs.picture(job.id))
        return submit(pair, time)

    monkeypatch.setattr(network, "submit", wait)
    job = bench.accept(clip, tmp_path, factor=2, model="dain-lite")
    bench.work()
    assert bench.jobs.get(job.id).status is State.SUCCEEDED
    [picture] = seen
    assert picture is not None and look(picture).shape == (64, 192, 3)
    assert redis.keys(f"dain:job:{job.id}:picture") == redis.keys(f"dain:job:{job.id}:watched") == []


def test_no_picture_is_made_where_nobody_looks(
    redis: Redis, settings: Settings, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "REPORT_SECONDS", 0.001)
    monkeypatch.setattr(Preview, "take", lambda _: pytest.fail("a picture that nobody wants"))
    bench = Bench(redis, settings)
    job = bench.accept(clip, tmp_path, factor=2)
    bench.work()
    assert bench.jobs.get(job.id).status is State.SUCCEEDED
