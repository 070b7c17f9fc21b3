"""A picture of what stands still: read, turned, and given to the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from redis import Redis

from service.api.options import parse_options
from service.jobs.records import State
from service.settings import Settings
from service.store.hashes import hash_file
from tests.pictures import save
from tests.worker.conftest import Average, MakeVideo
from tests.worker.one_worker import Bench
from worker import mask, pipeline
from worker.media.errors import MediaError
from worker.media.sandbox import probe
from worker.plan import JobPlan


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Twice the size of the videos: white above, where one corner is transparent."""
    colour = torch.zeros(4, 128, 192, dtype=torch.uint8)
    colour[:3, :64], colour[3] = 255, 255
    colour[3, :32, :32] = 0
    save(tmp_path / "mask.png", colour)
    return tmp_path / "mask.png"


def test_white_stays_and_what_is_transparent_moves(picture: Path, clip: Path) -> None:
    info = probe(clip)
    still = mask.read(picture, info)
    assert (still.shape, still.dtype) == ((64, 96), np.float32)
    expected = np.zeros((64, 96))
    expected[:32], expected[:16, :16] = 1, 0
    assert np.abs(still - expected).mean() < 0.01
    upright = mask.read(picture, replace(info, width=64, height=96, rotation=90))
    assert upright.shape == (96, 64)  # as it is decoded; it is shown turned to the left
    assert np.abs(np.rot90(upright) - expected).mean() < 0.01


def test_the_network_is_given_it(picture: Path, clip: Path, average: Average, tmp_path: Path) -> None:
    info = probe(clip)
    plan = JobPlan.make(clip, info, parse_options({"factor": 2}), segment_frames=100)
    pipeline.render_segment(plan, 0, clip, tmp_path / "part", average, mask_path=picture)
    assert average.mask is not None
    assert np.array_equal(average.mask[0, 0].numpy(), mask.read(picture, info))


def test_what_is_no_picture_is_refused_in_a_sentence(video: MakeVideo, clip: Path) -> None:
    with pytest.raises(MediaError, match="The mask cannot be read: it is no PNG") as caught:
        mask.read(video("small.gif"), probe(clip))
    assert caught.value.slug == "invalid-option"


@pytest.mark.parametrize("whole", [True, False])
def test_a_job_brings_its_mask_along(
    redis: Redis, settings: Settings, clip: Path, picture: Path, tmp_path: Path, whole: bool
) -> None:
    bench = Bench(redis, settings)
    if not whole:
        picture.write_bytes(picture.read_bytes()[:100])
    job = bench.accept(clip, tmp_path, mask=hash_file(picture))
    bench.store.put(picture, f"masks/{job.id}")
    bench.work()
    done = bench.jobs.get(job.id)
    if whole:
        assert done.status is State.SUCCEEDED
    else:
        assert done.error is not None and str(done.error["type"]).endswith("invalid-option")
