"""From a clip that is dropped to its result, and what may go wrong on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import APIResponse, Page, Route, expect
from redis import Redis

from service.jobs.machine import Jobs
from service.jobs.problems import Problem
from service.jobs.records import Job, State
from service.settings import Settings
from service.store import Store
from tests.api import RESULT, away, until
from tests.web.conftest import OpenPage


@pytest.fixture
def started(clip: Path, jobs: Jobs) -> Callable[..., Job]:
    """Drops the clip on a page, starts it, and gives its job."""

    def start(page: Page) -> Job:
        before = {job.id for job in jobs.page("default")[0]}
        drop(page, clip)
        card(page, clip.name).get_by_role("button", name="Start").click()
        expect(page.get_by_text("Queued", exact=True).first).to_be_visible()
        [job] = [job for job in jobs.page("default")[0] if job.id not in before]
        return job

    return start


def drop(page: Page, *paths: Path) -> None:
    page.get_by_label("Choose files").set_input_files(paths)


def card(page: Page, name: str) -> Page:
    return page.get_by_role("article", name=name)


def test_a_clip_shows_what_it_is_and_becomes_and_then_its_result(
    open_page: OpenPage,
    clip: Path,
    jobs: Jobs,
    finish: Callable[[str, bytes], None],
    started: Callable[..., Job],
) -> None:
    page = open_page()
    page.get_by_label("Slow motion").check()
    page.get_by_text("8×").click()
    page.get_by_text("More options").click()
    page.get_by_role("combobox", name="Codec").select_option("hevc")
    drop(page, clip)
    shown = card(page, clip.name)
    expect(shown).to_contain_text("96 × 64 · 24 fps · 0.5 s")
    expect(shown).to_contain_text("24 fps · 4 s · 77 new frames")
    expect(shown.locator(".first canvas")).to_be_visible()
    with page.expect_response(lambda answer: answer.request.method == "DELETE") as removal:
        shown.get_by_role("button", name="Remove").click()
    assert removal.value.status == 204
    job = started(page)
    assert (job.options.speed, job.options.codec, job.options.audio) == ("1/8", "hevc", "none")
    expect(card(page, clip.name)).to_contain_text("Next in the queue")
    finish(job.id, RESULT)
    with page.expect_download() as download:
        card(page, clip.name).get_by_role("link", name="Download").click()
    assert Path(download.value.path()).read_bytes() == RESULT


def test_of_a_folder_the_videos_are_taken(open_page: OpenPage, clip: Path, tmp_path: Path) -> None:
    for name in ("holiday/one.mp4", "holiday/inner/two.mp4", "holiday/.hidden.mp4", "holiday/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(clip.read_bytes())
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "notes.txt").write_text("no video")
    page = open_page()
    page.get_by_label("Choose a folder").set_input_files(tmp_path / "letters")
    expect(page.get_by_text("There is no video in it.")).to_be_visible()
    page.get_by_label("Choose a folder").set_input_files(tmp_path / "holiday")
    expect(page.get_by_role("article")).to_have_count(2)
    expect(card(page, "two.mp4")).to_contain_text("new frames")


def test_the_whole_page_takes_what_is_dropped(open_page: OpenPage, clip: Path) -> None:
    page = open_page("#/jobs")
    dropped = page.evaluate_handle(
        """bytes => {
            const data = new DataTransfer()
            data.items.add(new File([Uint8Array.from(bytes)], "clip.mp4"))
            return data
        }""",
        list(clip.read_bytes()),
    )
    page.dispatch_event("footer", "drop", {"dataTransfer": dropped})
    expect(card(page, "clip.mp4")).to_contain_text("new frames")


def test_several_clips_start_together(
    open_page: OpenPage, clip: Path, make_clip: Callable[..., Path], jobs: Jobs
) -> None:
    page = open_page()
    drop(page, clip, make_clip("second.mp4"))
    page.get_by_role("button", name="Start all 2").click()
    expect(page.get_by_text("Queued", exact=True)).to_have_count(2)
    assert {job.filename for job in jobs.page("default")[0]} == {"clip.mp4", "second.mp4"}


def test_an_upload_goes_on_where_the_connection_broke(open_page: OpenPage, clip: Path, url: str) -> None:
    page = open_page()
    content, offsets, held = clip.read_bytes(), list[int](), list[Route]()

    def break_off(route: Route) -> None:
        """A part of the first piece arrives. The next request waits until the page was read."""
        if route.request.method == "PATCH":
            offsets.append(int(route.request.headers["upload-offset"]))
            if len(offsets) == 1:
                headers = {
                    name: route.request.headers[name]
                    for name in ("tus-resumable", "upload-offset", "content-type")
                }
                httpx.patch(route.request.url, headers=headers, content=content[:1000], timeout=60)
                return route.abort("connectionreset")
        if offsets and not held:
            return held.append(route)
        return route.continue_()

    page.route("**/uploads/*", break_off)
    with page.expect_request(lambda request: "/uploads/" in request.url and bool(offsets)):
        drop(page, clip)
    expect(card(page, clip.name)).to_contain_text("The service does not answer.")
    held[0].continue_()
    expect(card(page, clip.name)).to_contain_text("96 × 64")
    assert (offsets[0], offsets[-1]) == (0, 1000)


def test_an_upload_goes_on_after_the_page_was_closed(open_page: OpenPage, clip: Path, url: str) -> None:
    page = open_page()
    page.route("**/uploads/*", lambda route: route.abort())
    drop(page, clip)
    expect(card(page, clip.name)).to_contain_text("The service does not answer.")
    page.unroute_all()
    page.reload()
    begun: list[str] = []
    page.on("request", lambda request: begun.append(request.method) if "/uploads" in request.url else None)
    drop(page, clip)
    expect(card(page, clip.name)).to_contain_text("96 × 64")
    assert "POST" not in begun and "PATCH" in begun


@pytest.mark.parametrize(
    "locale, say",
    [("en", ""), ("de", "Diese Datei lässt sich nicht als Video lesen."), ("zh", "无法将该文件读取为视频。")],
)
def test_a_file_that_is_refused_says_why(open_page: OpenPage, tmp_path: Path, locale: str, say: str) -> None:
    page = open_page(locale=locale)
    (tmp_path / "text.mp4").write_bytes(b"no video" * 99)
    page.locator("input[type=file]").first.set_input_files(tmp_path / "text.mp4")
    expect(page.get_by_role("alert").filter(has_text="The file cannot be read as a video")).to_contain_text(
        say
    )


def test_an_address_is_looked_at_before_it_is_sent(open_page: OpenPage) -> None:
    page = open_page()
    address = page.get_by_label("https://… of a video")
    address.fill("clip.mp4")
    address.press("Enter")
    expect(page.get_by_text("This is no address of a video")).to_be_visible()
    address.fill("https://127.0.0.1/clip.mp4")
    address.press("Enter")
    expect(card(page, "clip.mp4").get_by_role("alert")).to_contain_text("127.0.0.1")


def test_a_wrong_option_is_named_and_mended(open_page: OpenPage, clip: Path) -> None:
    page = open_page()
    drop(page, clip)
    page.get_by_label("Exact rate").check()
    page.get_by_role("combobox", name="Frames a second").fill("99999")
    expect(card(page, clip.name).get_by_role("alert")).to_contain_text("target_fps was '99999'")
    page.get_by_role("combobox", name="Frames a second").fill("59.94")
    expect(card(page, clip.name)).to_contain_text("59.94 fps")


def test_a_wrong_option_is_named_before_a_byte_is_sent(open_page: OpenPage, clip: Path) -> None:
    page = open_page()
    page.get_by_label("Exact rate").check()
    page.get_by_role("combobox", name="Frames a second").fill("99999")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "PATCH" else None)
    drop(page, clip)
    expect(card(page, clip.name).get_by_role("alert")).to_contain_text("target_fps was '99999'")
    assert sent == []
    page.get_by_role("combobox", name="Frames a second").fill("59.94")
    expect(card(page, clip.name)).to_contain_text("59.94 fps")


def test_an_option_that_is_mended_before_it_is_refused_counts(open_page: OpenPage, clip: Path) -> None:
    page = open_page()
    held: list[Route] = []
    page.route("**/uploads?*", lambda route: held.append(route) if not held else route.continue_())
    page.get_by_label("Exact rate").check()
    page.get_by_role("combobox", name="Frames a second").fill("99999")
    with page.expect_request("**/uploads?*"):
        drop(page, clip)
    page.get_by_role("combobox", name="Frames a second").fill("59.94")
    page.wait_for_timeout(1000)  # by then the page has looked which clips are to be asked about again
    held[0].continue_()
    expect(card(page, clip.name)).to_contain_text("59.94 fps")


def test_a_job_that_fails_says_so_without_being_asked(
    open_page: OpenPage, clip: Path, jobs: Jobs, started: Callable[..., Job]
) -> None:
    page = open_page()
    job = started(page)
    problem = Problem("too-many-attempts", "The job ended three workers and was given up.")
    jobs.finish(job.id, State.FAILED, error=problem)
    expect(card(page, clip.name).get_by_role("alert")).to_have_text(
        "The job ended three workers and was given up."
    )
    expect(card(page, clip.name)).to_contain_text("Failed")


def test_two_tabs_show_the_same(
    open_page: OpenPage, clip: Path, jobs: Jobs, started: Callable[..., Job]
) -> None:
    one, other = open_page(), open_page("#/jobs")
    expect(other.get_by_text("There are no jobs yet.")).to_be_visible()
    started(one)
    other.route("**/cancel", lambda route: route.abort())
    card(other, clip.name).get_by_role("button", name="Cancel").click()
    card(other, clip.name).get_by_role("group", name="Cancel this job?").get_by_role(
        "button", name="Cancel"
    ).click()
    expect(card(other, clip.name).get_by_role("alert")).to_contain_text("This page goes on by itself")
    other.unroute_all()
    expect(card(one, clip.name)).to_contain_text("Cancelled")


def test_without_events_the_page_asks_by_itself(
    open_page: OpenPage, clip: Path, finish: Callable[[str, bytes], None], started: Callable[..., Job]
) -> None:
    page = open_page("docs")
    page.route("**/events", lambda route: route.abort())
    page.goto(page.url.removesuffix("docs"))
    finish(started(page).id, RESULT)
    expect(card(page, clip.name)).to_contain_text("Done")


def test_a_job_is_made_again_with_other_options(
    open_page: OpenPage,
    clip: Path,
    jobs: Jobs,
    finish: Callable[[str, bytes], None],
    started: Callable[..., Job],
) -> None:
    page = open_page()
    page.get_by_label("Anime on twos").check()
    finish(started(page).id, RESULT)
    page.get_by_role("link", name="Jobs", exact=True).click()
    page.reload()
    page.get_by_role("button", name="Again with other options").click()
    expect(page.get_by_label("Anime on twos")).to_be_checked()
    page.get_by_label("Smoother").check()
    card(page, clip.name).get_by_role("button", name="Start").click()
    until(lambda: len(jobs.page("default")[0]) == 2)
    expect(card(page, clip.name)).to_contain_text("Queued")
    [new, old] = jobs.page("default")[0]
    assert (old.options.dedup, new.options.dedup) == ("retime", "auto")


def test_a_job_that_no_purpose_stands_for_is_made_again_as_it_was(
    open_page: OpenPage, clip: Path, jobs: Jobs, url: str
) -> None:
    """Also where the service no longer has its video."""
    page = open_page("docs")
    made = httpx.post(
        f"{url}/jobs", files={"file": clip.read_bytes()}, data={"factor": "4", "quality": "20"}, timeout=60
    ).json()
    jobs.finish(made["id"], State.CANCELLED)
    for name, end in ((f"dain job {made['id']}", 9e15), ("dain upload of yesterday", 1)):
        entry = json.dumps({"value": {"upload": "gone", "name": "clip.mp4"}, "until": end})
        page.evaluate("entry => localStorage.setItem(...entry)", [name, entry])
    page.goto(f"{url}/#/jobs")
    again = page.get_by_role("button", name="Again with other options")
    expect(again).to_be_visible()
    assert page.evaluate("Object.keys(localStorage)") == [f"dain job {made['id']}"]
    again.click()
    expect(page.get_by_text("As the job was: Frames per frame: 4")).to_be_visible()
    expect(page.get_by_text("Choose “clip.mp4” again")).to_be_visible()
    expect(page.get_by_text("1 changed")).to_be_visible()
    drop(page, clip)
    expect(card(page, clip.name)).to_contain_text("96 fps")


def test_a_clip_is_started_with_what_was_chosen_then(open_page: OpenPage, clip: Path, jobs: Jobs) -> None:
    page = open_page()
    page.route("**/uploads?*", lambda route: route.abort())
    drop(page, clip)
    card(page, clip.name).get_by_role("button", name="Start").click()
    page.get_by_label("Slow motion").check()
    with page.expect_event("dialog") as asked:  # a start that is to follow would be lost
        page.close(run_before_unload=True)
    assert asked.value.type == "beforeunload"
    asked.value.dismiss()
    page.unroute_all()
    expect(card(page, clip.name)).to_contain_text("Queued")
    [job] = jobs.page("default")[0]
    assert (job.options.target_fps, job.options.speed) == ("60", None)


def test_what_stands_still_is_painted_and_notes_are_lines(
    open_page: OpenPage, clip: Path, jobs: Jobs, store: Store
) -> None:
    page = open_page()
    page.get_by_text("More options").click()
    page.get_by_label("Your notes on it").fill("user = 42\nplace = by=the=sea")
    drop(page, clip)
    shown = card(page, clip.name)
    expect(shown).to_contain_text("new frames")
    shown.get_by_text("Mark what stands still").click()
    paper = shown.get_by_role("img", name="The first frame, to be painted on")
    expect(paper).to_be_visible()
    box = paper.bounding_box()
    assert box is not None
    paper.hover(position={"x": box["width"] * 0.25, "y": box["height"] / 2})  # once it no longer moves
    page.mouse.down()
    paper.hover(position={"x": box["width"] * 0.5, "y": box["height"] / 2})
    page.mouse.up()
    expect(shown).to_contain_text("marked")
    paper.hover(position={"x": box["width"] * 0.75, "y": box["height"] * 0.75})
    page.mouse.down()
    page.mouse.up()
    shown.get_by_role("button", name="Start").dispatch_event("click")  # at once: the last stroke counts, too
    expect(page.get_by_text("Queued", exact=True)).to_be_visible()
    [job] = jobs.page("default")[0]
    assert job.metadata == {"user": "42", "place": "by=the=sea"}
    with store.fetch(f"masks/{job.id}", sha256=job.options.mask) as path, av.open(path) as picture:
        alpha = next(picture.decode(video=0)).to_ndarray(format="rgba")[..., 3] / 255
    height, width = alpha.shape
    row = alpha[height // 2]
    assert [round(float(row[int(width * at)]), 1) for at in (0.1, 0.3, 0.45, 0.7)] == [0, 1, 1, 0]
    assert alpha[height // 4].max() == 0 and alpha[height * 3 // 4, width * 3 // 4] == 1
    jobs.finish(job.id, State.CANCELLED)
    shown.get_by_role("button", name="Again with other options").click()
    expect(page.get_by_text("The job had marks of what stands still.")).to_be_visible()
    expect(page.get_by_label("Your notes on it")).to_have_value("user = 42\nplace = by=the=sea")


def test_a_picture_says_what_stands_still_unless_nothing_in_it_is_white(
    open_page: OpenPage, clip: Path, jobs: Jobs, tmp_path: Path
) -> None:
    """One of grain is made as small as the service takes it."""
    page = open_page()
    drop(page, clip)
    shown = card(page, clip.name)
    expect(shown).to_contain_text("new frames")
    shown.get_by_text("Mark what stands still").click()
    expect(shown.get_by_role("img", name="The first frame, to be painted on")).to_be_visible()
    grain = np.random.default_rng(0).integers(0, 256, (768, 1152), np.uint8)
    take = shown.get_by_label("Take a picture")
    for name, gray in (("black.png", np.zeros_like(grain)), ("grain.png", grain)):
        Image.fromarray(gray).save(tmp_path / name)
        take.set_input_files(tmp_path / name)
        if name == "black.png":
            expect(shown.get_by_role("alert")).to_contain_text("nothing white")
    expect(shown).to_contain_text("marked")
    shown.get_by_role("button", name="Start").click()
    expect(page.get_by_text("Queued", exact=True)).to_be_visible()
    [job] = jobs.page("default")[0]
    assert job.options.mask


def test_what_an_address_becomes_is_not_said_of_another_choice(open_page: OpenPage, clip: Path) -> None:
    page = open_page()
    drop(page, clip)
    expect(card(page, clip.name)).to_contain_text("new frames")
    with page.expect_response(lambda each: "/jobs/estimate?" in each.url and "speed=" in each.url) as answer:
        page.get_by_label("Slow motion").check()
    estimate = answer.value.text()
    page.route(
        "**/jobs/estimate", lambda route: route.fulfill(body=estimate, content_type="application/json")
    )
    address = page.get_by_label("https://… of a video")
    address.fill("https://example.org/far.mp4")
    address.press("Enter")
    expect(card(page, "far.mp4")).to_contain_text("24 fps · 2 s")
    page.get_by_label("Smoother").check()
    expect(card(page, "far.mp4")).to_contain_text("of the choice before")
    expect(card(page, "far.mp4")).to_contain_text("24 fps · 2 s")


def test_a_file_that_is_gone_is_asked_for(open_page: OpenPage, clip: Path, tmp_path: Path) -> None:
    page = open_page()
    page.route("**/uploads/*", lambda route: route.abort())
    path = tmp_path / "gone.mp4"
    path.write_bytes(clip.read_bytes() + bytes(2**20))  # of two pieces, one of which is on its way
    drop(page, path)
    expect(card(page, path.name)).to_contain_text("The service does not answer.")
    path.unlink()
    page.unroute_all()
    expect(card(page, path.name).get_by_role("alert")).to_contain_text("The file cannot be read any more")


def test_a_clip_that_is_removed_while_it_is_sent_leaves_no_upload(
    open_page: OpenPage, clip: Path, url: str
) -> None:
    page = open_page()
    page.route(
        "**/uploads/*", lambda route: route.abort() if route.request.method == "PATCH" else route.continue_()
    )
    drop(page, clip)
    expect(card(page, clip.name)).to_contain_text("The service does not answer.")
    [kept] = page.evaluate("Object.values(localStorage)")
    at = url + json.loads(kept)["value"]
    card(page, clip.name).get_by_role("button", name="Remove").click()
    until(lambda: httpx.head(at, headers={"Tus-Resumable": "1.0.0"}).status_code == 404)


def test_an_upload_that_is_removed_meanwhile_is_sent_again(
    open_page: OpenPage, clip: Path, tmp_path: Path, url: str
) -> None:
    page = open_page()
    sent: list[str] = []

    def send_the_first(route: Route) -> None:
        if route.request.method != "PATCH":
            return route.continue_()
        sent.append(route.request.url)
        return route.continue_() if len(sent) == 1 else route.abort()

    page.route("**/uploads/*", send_the_first)
    path = tmp_path / "two-pieces.mp4"
    path.write_bytes(clip.read_bytes() + bytes(2**20))
    drop(page, path)
    expect(card(page, path.name)).to_contain_text("The service does not answer.")
    httpx.delete(sent[0], headers={"Tus-Resumable": "1.0.0"}).raise_for_status()
    page.unroute_all()
    expect(card(page, path.name)).to_contain_text("new frames")


def test_a_file_that_is_dropped_twice_is_two_clips(open_page: OpenPage, clip: Path) -> None:
    page = open_page()
    page.route(
        "**/uploads/*", lambda route: route.abort() if route.request.method == "PATCH" else route.continue_()
    )
    drop(page, clip)
    expect(card(page, clip.name)).to_contain_text("The service does not answer.")
    drop(page, clip)
    expect(card(page, clip.name)).to_have_count(2)
    expect(card(page, clip.name).last).to_contain_text("The service does not answer.")
    page.unroute_all()
    expect(page.get_by_text("new frames")).to_have_count(2)
    card(page, clip.name).first.get_by_role("button", name="Remove").click()
    card(page, clip.name).get_by_role("button", name="Start").click()
    expect(card(page, clip.name)).to_contain_text("Queued")


def test_lists_of_jobs_and_options_come_when_the_service_answers(open_page: OpenPage, jobs: Jobs) -> None:
    page = open_page("docs")
    page.route("**/jobs?*", lambda route: route.abort())
    page.goto(page.url.replace("docs", "#/jobs"))
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.unroute_all()
    expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.route("**/openapi.json", lambda route: route.abort())
    page.get_by_role("link", name="New", exact=True).click()
    page.get_by_text("More options").click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.unroute_all()
    expect(page.get_by_label("Quality")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_list_is_filtered_and_a_job_removed(
    open_page: OpenPage,
    clip: Path,
    jobs: Jobs,
    finish: Callable[[str, bytes], None],
    started: Callable[..., Job],
) -> None:
    page = open_page()
    job = started(page)
    finish(job.id, RESULT)
    page.get_by_role("link", name="Jobs", exact=True).click()
    page.get_by_role("button", name="Failed").click()
    expect(page.get_by_text("There are no such jobs.")).to_be_visible()
    page.get_by_role("button", name="Done").click()
    page.get_by_role("link", name=clip.name).click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="No").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("group").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There are no such jobs.")).to_be_visible()  # of those that were listed before
    expect(card(page, clip.name)).to_have_count(0)
    with pytest.raises(Problem):
        jobs.get(job.id)


def test_the_service_goes_away_and_comes_back(
    open_page: OpenPage, clip: Path, jobs: Jobs, redis: Redis, settings: Settings, started: Callable[..., Job]
) -> None:
    page = open_page()
    drop(page, clip)
    expect(card(page, clip.name)).to_contain_text("new frames")
    with away(redis, settings):
        card(page, clip.name).get_by_role("button", name="Start").click()
        expect(card(page, clip.name)).to_contain_text("The job queue does not answer")
    expect(card(page, clip.name)).to_contain_text("Next in the queue")
    assert len(jobs.page("default")[0]) == 1


def test_a_start_whose_answer_is_lost_makes_one_job(open_page: OpenPage, clip: Path, jobs: Jobs) -> None:
    page = open_page()
    drop(page, clip)
    expect(card(page, clip.name)).to_contain_text("new frames")
    answers: list[APIResponse] = []

    def lose_the_first(route: Route) -> None:
        answers.append(route.fetch())
        return route.abort() if len(answers) == 1 else route.fulfill(response=answers[-1])

    page.route(lambda address: "/jobs?" in address, lose_the_first)
    card(page, clip.name).get_by_role("button", name="Start").click()
    expect(card(page, clip.name)).to_contain_text("Next in the queue")
    assert len(answers) == 2 and len(jobs.page("default")[0]) == 1
