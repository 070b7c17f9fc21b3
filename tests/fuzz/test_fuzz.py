"""A sample of what `make fuzz` sends."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random

from service.settings import Settings
from tests.api import serve
from tests.fuzz.__main__ import fuzz_description, fuzz_requests, fuzz_videos
from tests.fuzz.clips import mutants, seeds
from tests.fuzz.requests import requests


def test_each_damaged_video_has_a_verdict(tmp_path: Path) -> None:
    videos = list(islice(mutants(seeds(tmp_path), Random(1)), 40))
    assert list(fuzz_videos(videos, tmp_path)) == []


def test_each_malformed_request_has_an_answer(settings: Settings) -> None:
    with serve(settings) as url:
        messages = list(islice(requests(Random(1)), 150))
        assert list(fuzz_requests(int(url.rpartition(":")[2]), messages)) == []


def test_answers_are_as_described(settings: Settings) -> None:
    with serve(settings) as url:
        found = list(fuzz_description(url, 1, 2))
        assert not found, "\n".join(found)
