"""What is seen of jobs while they run, and of workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from playwright.sync_api import Page, expect
from redis import Redis

from service.api.options import parse_options
from service.jobs.machine import Claim, Jobs
from service.jobs.names import PLAN, new_job_id
from service.jobs.records import State
from service.jobs.workers import TaskInHand, WorkerRecord, Workers
from tests.api import until
from tests.web.conftest import OpenPage
from tests.web.test_access import check_readable
from worker.media.picture import jpeg

#: The gray of both pictures of a preview.
GRAYS = """() => ['before', 'after'].map(side => {
    const canvas = document.querySelector(`.${side} canvas`)
    return canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0]
})"""


@pytest.fixture
def running(jobs: Jobs) -> Claim:
    """The first segment of a job that runs."""
    job_id = new_job_id()
    options = parse_options({})
    jobs.create(job_id, source=f"uploads/{job_id}", filename="street.mp4", options=options, input={})
    jobs.complete(jobs.claim(job_id, PLAN, "ann"), job={"segments_total": 2, "frames_total": 20})
    return jobs.claim(job_id, "segment-0", "ann")


def picture(before: int, after: int) -> bytes:
    frames = [np.full((90, 160), gray, np.uint8) for gray in (before, after)]
    made = [av.VideoFrame.from_ndarray(frame, "gray") for frame in frames]
    return jpeg(made, width=160, matrix="bt601", is_full=True)


def come_back(page: Page) -> None:
    """As who looks at another page meanwhile: what is shown is asked for anew."""
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


def seen(page: Page, before: int, after: int) -> bool:
    with page.expect_response("**/preview"):
        come_back(page)
    return bool(page.evaluate(GRAYS) == pytest.approx([before, after], abs=2))


def test_a_running_job_shows_its_newest_frame(open_page: OpenPage, jobs: Jobs, running: Claim) -> None:
    page = open_page(f"#/jobs/{running.job_id}")
    expect(page.get_by_text("The first new frame is on its way.")).to_be_visible()
    for number, pair in enumerate([(200, 80), (90, 170)]):
        assert jobs.report(running, number, picture=picture(*pair))
        until(lambda pair=pair: seen(page, *pair))
    check_readable(page)
    page.get_by_role("slider", name="How much of the picture shows the source").press("Home")
    expect(page.locator(".before")).to_have_css("clip-path", "inset(0px 100% 0px 0px)")
    jobs.finish(running.job_id, State.CANCELLED)
    expect(page.locator(".preview")).to_have_count(0)


RED = "color=red:size=96x64:rate=5:duration=0.4"
RECORD = WorkerRecord(
    name="h200", host="render-1", pid=1, device="cuda:0", device_name="NVIDIA H200", backend="cuda", model="dain",
    precision="fp16", ready=True, vram_used_bytes=40_000_000_000, vram_total_bytes=150_000_000_000,
    celsius={"gpu": 61.0, "board": 80.0}, watts=612.5, utilisation=0.97, frames_per_second=182.4, started_at=0.0,
    throttled_by=["power-cap"],
)  # fmt: skip


def test_workers_and_their_figures(open_page: OpenPage, redis: Redis, running: Claim) -> None:
    workers = Workers(redis, ttl_seconds=600)
    workers.heartbeat(RECORD.model_copy(update={"tasks": [TaskInHand(job=running.job_id, task="segment-3")]}))
    workers.heartbeat(
        RECORD.model_copy(
            update={
                "name": "pc",
                "device": "cpu",
                "device_name": "cpu",
                "host": "office",
                "vram_total_bytes": 0,
                "watts": None,
            }
        )
    )
    page = open_page("#/workers", locale="de")
    gpu, pc = (
        page.locator(".worker").filter(has_text="H200"),
        page.locator(".worker").filter(has_text="office"),
    )
    for text in ("182", "97 %", "40 / 150 GB", "613 W", "61 °C", "Leistungslimit"):
        expect(gpu.get_by_text(text, exact=text != "Leistungslimit")).to_be_visible()
    expect(gpu.get_by_role("listitem")).to_have_text(f"Macht Abschnitt 4 von Auftrag …{running.job_id[-6:]}")
    expect(gpu.get_by_role("link")).to_have_attribute("href", f"#/jobs/{running.job_id}")
    expect(pc.get_by_role("heading")).to_have_text("office")
    expect(pc.get_by_text("Wartet auf Arbeit")).to_be_visible()
    expect(pc.get_by_text("Leistung", exact=True)).to_have_count(0)
    workers.heartbeat(RECORD.model_copy(update={"watts": 90.0}))
    come_back(page)
    expect(gpu.get_by_role("img", name="Leistung: 90 W – 613 W")).to_be_visible()
    check_readable(page)
    workers.leave("pc")
    come_back(page)
    expect(pc).to_have_count(0)


def test_no_workers_and_none_to_see(open_page: OpenPage, make_key: Callable[..., dict[str, str]]) -> None:
    page = open_page("#/workers")
    expect(page.get_by_text("No worker has reported.")).to_be_visible()
    token = make_key("ann")["Authorization"].removeprefix("Bearer ")
    page.reload()
    page.get_by_label("Key").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Workers are shown to keys with the scope admin.")).to_be_visible()


def test_the_first_frame_is_drawn_by_the_browser_or_else_by_the_service(
    open_page: OpenPage, make_clip: Callable[..., Path]
) -> None:
    """Of the file itself before any of it is sent; of what no browser plays once the service has looked into it."""
    red, lossless = make_clip("red.mp4", source=RED), make_clip("red.mkv", "-c:v", "ffv1", source=RED)
    page = open_page()
    page.route("**/uploads?*", lambda route: route.abort())
    page.get_by_label("Choose files").set_input_files(red)
    drawn = page.get_by_role("article", name="red.mp4").locator(".first canvas")
    expect(drawn).to_be_visible()  # which it is once it is drawn
    pixel = drawn.evaluate("canvas => [...canvas.getContext('2d').getImageData(9, 9, 1, 1).data]")
    assert pixel == pytest.approx([254, 0, 0, 255], abs=3)
    page.unroute("**/uploads?*")
    page.get_by_label("Choose files").set_input_files(lossless)
    card = page.get_by_role("article", name="red.mkv")
    expect(card.locator(".first img")).to_have_attribute("src", re.compile("^data:image/jpeg;base64,/9j/"))
    expect(card.locator(".first canvas")).to_be_hidden()
