"""The result beside its source: both of one moment, frame by frame, in a real browser."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from service.api.options import parse_options
from service.jobs.machine import Jobs
from service.jobs.names import new_job_id
from service.jobs.records import Output, State, frames_key
from service.store import Store
from tests.api import until
from tests.web.conftest import OpenPage
from tests.web.test_access import check_readable

LETTERS = 9 * "snn" + "NnnsnhshhNhh"  # of 39 frames
RATE = 30
GRAY = "black:size=160x90:rate=30:duration=1.3,format=yuv420p,geq=lum='20+5*N':cb=128:cr=128"
#: The frames that the two pictures show, by their gray.
SHOWN = """() => ['before', 'after'].map(side => {
    const canvas = document.querySelector(`.${side} canvas`)
    const gray = canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0]
    return Math.round((gray * 219 / 255 + 16 - 20) / 5)
})"""

Finished = Callable[..., str]


@pytest.fixture
def finished(jobs: Jobs, store: Store, make_clip: Callable[..., Path]) -> Finished:
    """Ends a job with a result whose frames are told from each other by their gray; gives the address of its view."""

    def end(
        name: str = "gray.mp4", *arguments: str, media_type: str = "video/mp4", letters: str = LETTERS
    ) -> str:
        job_id = new_job_id()
        options = parse_options({"codec": "ffv1", "container": "mkv"} if "ffv1" in arguments else {})
        facts = {"average_rate": "10", "width": 160, "height": 90}
        jobs.create(job_id, source=f"uploads/{job_id}", filename="street.mp4", options=options, input=facts)
        key, told = f"results/{job_id}/a.mp4", {"frames": letters, "start": 0, "rate": RATE, "times": None}
        content = make_clip(
            name, *(arguments or ("-qp", "4", "-bf", "2", "-g", "12")), source=f"color={GRAY}"
        ).read_bytes()
        with store.scratch() as folder:
            (folder / "result").write_bytes(content)
            (folder / "frames").write_text(json.dumps(told))
            sha256 = store.put(folder / "frames", frames_key(key)).sha256 if letters else None
            store.put(folder / "result", key)
        output = Output(
            key=key,
            filename="street-3x.mp4",
            media_type=media_type,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            frames_sha256=sha256,
            frames=39,
            frame_rate=str(RATE),
            duration_seconds=1.3,
        )
        assert jobs.finish(job_id, State.SUCCEEDED, output=output)
        return f"#/jobs/{job_id}"

    return end


def ready(page: Page) -> Locator:
    player = page.locator(".player")
    expect(player).to_have_attribute("data-state", "ready")
    shows(page, 0, 0)
    return player


def shows(page: Page, before: int, after: int) -> None:
    until(lambda: page.evaluate(SHOWN) == [before, after])


def source_of(index: int) -> int:
    return max(LETTERS.rfind("s", 0, index + 1), LETTERS.rfind("N", 0, index + 1))


def test_each_step_shows_both_of_one_moment(open_page: OpenPage, finished: Finished) -> None:
    page = open_page(finished())
    ready(page)
    on, back = (page.get_by_role("button", name=f"One frame {way}") for way in ("on", "back"))
    for index in range(1, 5):
        on.click()
        shows(page, source_of(index), index)
    expect(page.locator(".position")).to_contain_text("frame 5 of 39 new frame")
    for index in (3, 2):
        back.click()
        shows(page, source_of(index), index)
    position = page.get_by_role("slider", name="Frame", exact=True)
    for index in (38, 29, 27, 11):
        position.fill(str(index))
        shows(page, source_of(index), index)
    page.get_by_label("Show new frames only").check()
    for index in (10, 8, 7):
        page.keyboard.press(",")
        shows(page, source_of(index), index)


def test_while_it_plays_the_source_is_that_of_the_moment(open_page: OpenPage, finished: Finished) -> None:
    """Also where the browser leaves frames out; with keys alone, and round and round."""
    page = open_page(finished())
    ready(page)
    page.evaluate(
        f"""() => {{
            window.seen = []
            const position = document.querySelector('.timeline input')
            const look = () => {{ seen.push([({SHOWN})()[0], Number(position.value)]); requestAnimationFrame(look) }}
            look()
        }}"""
    )
    page.get_by_role("button", name="Play", exact=True).focus()
    video = page.locator(".after video")
    expect(video).to_be_hidden()
    page.keyboard.press("k")
    expect(video).to_be_visible()  # by itself: no script copies its frames
    until(lambda: page.evaluate("() => seen.some(([, after]) => after > 30) && seen.at(-1)[1] < 10"))
    page.keyboard.press("k")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    expect(video).to_be_hidden()
    seen = {tuple(pair) for pair in page.evaluate("seen")}
    assert len({after for _, after in seen}) > 5
    wrong = [
        (before, after)
        for before, after in seen
        if not source_of(after) == source_of(before) <= before <= after
    ]
    # Where it is busy, a browser now and then draws a later frame than the one that it says it shows.
    assert len(wrong) <= len(seen) // 8, wrong
    position = page.get_by_role("slider", name="Frame", exact=True)

    def is_shown(stood: int) -> bool:
        return bool(page.evaluate(SHOWN) == [source_of(stood), stood])

    until(lambda: is_shown(int(position.input_value())))  # the last frame may be on its way
    page.get_by_role("radio", name="¼×").check()
    page.keyboard.press("l")
    expect(page.get_by_role("button", name="Play again and again")).to_have_attribute("aria-pressed", "false")


def test_frames_of_a_large_result_that_plays_are_copied_beside_the_thread_of_the_page(
    open_page: OpenPage, finished: Finished
) -> None:
    """Standing still, both are exact again, whatever is on its way then."""
    large = ("-vf", "scale=2048:1152:flags=neighbor", "-preset", "ultrafast", "-qp", "4")
    page = open_page(finished("large.mp4", *large))
    ready(page)
    page.evaluate(
        """() => {
            window.copied = []
            const copy = CanvasRenderingContext2D.prototype.drawImage
            CanvasRenderingContext2D.prototype.drawImage = function (picture, ...place) {
                if (this.canvas.closest('.before')) copied.push(picture.constructor.name)
                copy.call(this, picture, ...place)
            }
        }"""
    )
    page.get_by_role("button", name="Play", exact=True).click()
    until(lambda: page.evaluate("() => copied.length > 3"))
    assert page.evaluate("() => [...new Set(copied)]") == ["ImageBitmap"]
    page.get_by_role("slider", name="Frame", exact=True).fill("29")
    shows(page, source_of(29), 29)
    page.evaluate("() => new Promise(done => setTimeout(done, 100))")
    shows(page, source_of(29), 29)


def test_slider_sides_and_magnification(open_page: OpenPage, finished: Finished) -> None:
    page = open_page(finished(), viewport={"width": 320, "height": 640})
    player = ready(page)
    wipe = page.get_by_role("slider", name="How much of the picture shows the source")
    stage, before = page.locator(".stage"), page.locator(".before")
    box = stage.bounding_box()
    assert box is not None
    stage.click(position={"x": box["width"] / 4, "y": box["height"] / 4})
    expect(before).to_have_css("clip-path", "inset(0px 75% 0px 0px)")
    expect(wipe).to_have_value("25")
    wipe.press("ArrowRight")
    expect(before).to_have_css("clip-path", "inset(0px 74.5% 0px 0px)")
    pixels = "() => document.querySelector('.after canvas').width"
    until(lambda: page.evaluate(pixels) <= math.ceil(box["width"]))
    page.get_by_role("button", name="Closer").click()
    until(lambda: page.evaluate(pixels) == 160)
    shows(page, 0, 0)
    page.get_by_role("radio", name="Side by side").check()
    expect(wipe).to_have_count(0)
    sides = [page.locator(f".{side}").bounding_box() for side in ("before", "after")]
    assert sides[0] and sides[1] and sides[0]["x"] == sides[1]["x"] and sides[0]["y"] < sides[1]["y"]
    assert page.evaluate("() => document.documentElement.scrollWidth") == 320
    expect(player).to_be_visible()


def test_the_player_can_be_read(open_page: OpenPage, finished: Finished) -> None:
    page = open_page(finished())
    ready(page)
    page.get_by_role("button", name="Share").click()
    page.get_by_role("radio", name="Side by side").check()
    check_readable(page)


def test_what_is_downloaded_and_shared(open_page: OpenPage, finished: Finished, url: str) -> None:
    path = finished()
    page = open_page(path)
    ready(page)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    assert waiting.value.suggested_filename == "street-3x.mp4"
    page.get_by_role("button", name="Share").click()
    link = page.get_by_label("Anybody who reaches this service can open this link.")
    expect(link).to_have_value(f"{url}/{path}")


@pytest.mark.parametrize(
    ("media_type", "arguments", "says"),
    [
        (
            "video/x-matroska",
            ("-c:v", "ffv1", "-f", "matroska"),
            "This browser cannot play the result (ffv1)",
        ),
        ("application/zip", ("-f", "matroska"), "The result is an archive of pictures."),
    ],
)
def test_a_result_that_no_browser_plays_is_downloaded(
    open_page: OpenPage, finished: Finished, media_type: str, arguments: tuple[str, ...], says: str
) -> None:
    page = open_page(finished(f"{len(says)}.mkv", *arguments, media_type=media_type))
    expect(page.get_by_text(says)).to_be_visible()
    expect(page.get_by_role("link", name="Download")).to_be_visible()


def test_a_result_that_does_not_come_is_waited_for_and_one_that_is_gone_says_so(
    open_page: OpenPage, finished: Finished, jobs: Jobs
) -> None:
    page = open_page("docs")
    page.route("**/result", lambda route: route.abort("internetdisconnected"))
    at = finished()
    page.goto(page.url.replace("docs", at))
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.unroute_all()
    ready(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    other = open_page("docs")
    gone = json.dumps({"type": "urn:dain:problem:result-expired", "detail": "The result is no longer kept."})
    other.route(
        "**/result",
        lambda route: route.fulfill(status=410, content_type="application/problem+json", body=gone),
    )
    other.goto(other.url.replace("docs", at))
    expect(other.get_by_role("alert")).to_have_text("The result is no longer kept.")
    jobs.delete(at.split("/")[-1])
    expect(page.get_by_text("There is no such job")).to_be_visible()


def test_a_page_without_room_shows_the_pictures_once_it_has_room(
    open_page: OpenPage, finished: Finished
) -> None:
    page = open_page(finished())
    ready(page)
    page.locator("main").evaluate("main => (main.style.display = 'none')")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")
    page.locator("main").evaluate("main => (main.style.display = '')")
    page.get_by_role("button", name="One frame on").click()
    shows(page, 0, 1)


def test_a_result_of_an_earlier_release_has_source_frames_where_the_rates_put_them(
    open_page: OpenPage, finished: Finished
) -> None:
    page = open_page(finished(letters=""))
    ready(page)
    for index in (7, 9):
        page.get_by_role("slider", name="Frame", exact=True).fill(str(index))
        shows(page, index // 3 * 3, index)
