"""A request that is sent again after an upgrade is answered with the job that the earlier release made.

`<release>/idempotency.json` holds the keys as the release bound them, and the options of the request of each key.
"""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from redis import Redis

from service.settings import Settings
from tests.api import assert_problem, serve
from tests.compat.jobs import REQUESTS, bind_keys, read_keys, write_keys

RELEASES = sorted(path.parent for path in Path(__file__).parent.glob("*/idempotency.json"))


@pytest.mark.parametrize("bound_by", [*RELEASES, None], ids=lambda folder: folder.name if folder else "now")
def test_a_key_stands_for_its_job(bound_by: Path | None, redis: Redis, settings: Settings) -> None:
    folder = bound_by or RELEASES[-1]
    jobs = json.loads((folder / "redis.json").read_text())
    job_id = jobs["jobs"]["running"]
    if bound_by:
        bound = json.loads((folder / "idempotency.json").read_text())
    else:
        bind_keys(redis, job_id, folder / "source.mp4")
        bound = {"requests": REQUESTS, "keys": read_keys(redis)}
    write_keys(redis, jobs["keys"] | bound["keys"])

    with serve(settings) as url, httpx.Client(base_url=url, timeout=60, verify=False) as http:

        def send(name: str, options: dict[str, str]) -> httpx.Response:
            headers = {"Content-Type": "video/mp4", "Idempotency-Key": f'"{name}"'}
            body = (folder / "source.mp4").read_bytes()
            return http.post("/jobs", params=options, content=body, headers=headers)

        for name, options in bound["requests"].items():
            again = send(name, options)
            assert again.status_code == 202 and again.json()["id"] == job_id, again.text
            assert_problem(send(name, options | {"quality": "7"}), 422, "idempotency-key-reused")
