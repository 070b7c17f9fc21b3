"""That everybody can use the page: by keyboard, with a screen reader, on a small screen, in large type, in the dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from service.jobs.machine import Jobs
from service.jobs.problems import Problem
from service.jobs.records import Job, State
from tests.api import RESULT
from tests.service.api.conftest import job, make_job  # noqa: F401
from tests.web.conftest import OpenPage

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture
def show(
    open_page: OpenPage,
    clip: Path,
    tmp_path: Path,
    make_job: Callable[[], Job],  # noqa: F811
    jobs: Jobs,
    finish: Callable[[str, bytes], None],
    make_key: Callable[..., dict[str, str]],
) -> Callable[..., Page]:
    """Brings the page into a state by its name."""

    def show(state: str, **context: object) -> Page:
        if state == "sign-in":
            make_key("ann")
        if state in ("start", "sign-in"):
            page = open_page(**context)
        elif state == "clips":
            (tmp_path / "text.mp4").write_bytes(b"no video" * 99)
            page = open_page(**context)
            page.get_by_label("Choose files").set_input_files([clip, tmp_path / "text.mp4"])
            page.get_by_label("Slow motion").check()
            page.get_by_text("More options").click()
            expect(page.get_by_role("combobox", name="Codec")).to_be_visible()
            expect(page.get_by_role("alert").last).to_contain_text("cannot be read")
            page.get_by_text("Mark what stands still").click()
            expect(page.get_by_role("img", name="The first frame, to be painted on")).to_be_visible()
        else:
            done, failed, _ = make_job(), make_job(), make_job()
            finish(done.id, RESULT)
            jobs.finish(
                failed.id, State.FAILED, error=Problem("encode-failed", "The disk of the worker is full.")
            )
            page = open_page("#/jobs" if state == "jobs" else f"#/jobs/{failed.id}", **context)
            expect(page.get_by_role("alert")).to_contain_text("The disk of the worker")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        return page

    return show


@pytest.mark.parametrize("state", ["start", "clips", "jobs", "job", "sign-in"])
def test_each_state_can_be_read(state: str, show: Callable[..., Page]) -> None:
    check_readable(show(state))


#: A colour on its way to another has too little contrast.
SETTLED = """() => Promise.all(
    document.getAnimations().filter(each => each instanceof CSSTransition).map(each => each.finished.catch(() => {}))
)"""


def check_readable(page: Page) -> None:
    """On a small screen, in large type, in both colours, and by the rules of axe-core."""
    for width, type_size in ((320, "100%"), (640, "200%")):
        page.set_viewport_size({"width": width, "height": 640})
        page.evaluate("size => { document.documentElement.style.fontSize = size }", type_size)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "wider than the screen"
    if not AXE.exists():
        pytest.skip("axe-core is not there: npm ci --prefix web")
    page.evaluate(AXE.read_text())
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.evaluate(SETTLED)
        found = page.evaluate("rules => axe.run(rules)", rules)["violations"]
        assert not [(each["id"], each["help"], [node["html"] for node in each["nodes"]]) for each in found]


def tab_to(target: Locator) -> None:
    """Presses the tabulator until the focus has come to `target`, past whatever else can have it."""
    expect(target).to_be_visible()
    for _ in range(20):
        target.page.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"the focus does not come to {target}")


def test_all_is_reached_by_keyboard(open_page: OpenPage, clip: Path, jobs: Jobs) -> None:
    page = open_page()
    # A key goes to what is there when it is pressed.
    expect(page.get_by_label("Choose files")).to_be_attached()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(clip)
    tab_to(page.get_by_label("Smoother"))  # which is chosen: with the arrow keys others are
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Exact rate")).to_be_checked()
    page.keyboard.press("Tab")
    page.keyboard.type("0")
    page.keyboard.press("Control+A")
    page.keyboard.type("48")
    expect(page.get_by_role("article")).to_contain_text("48 fps")
    tab_to(page.get_by_role("button", name="Start"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name=clip.name)).to_be_visible()
    page.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    # What asks whether it is meant has the focus.
    sure = page.get_by_role("group", name="Cancel this job?").get_by_role("button", name="Cancel")
    expect(sure).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()
