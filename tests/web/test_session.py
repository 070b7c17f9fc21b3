"""Who sees the page, and in which language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from service.jobs.keys import open_keys
from service.settings import Settings
from tests.web.conftest import OpenPage


def test_without_keys_nobody_signs_in_until_there_is_one(
    open_page: OpenPage, make_key: Callable[..., dict[str, str]]
) -> None:
    page = open_page("#/jobs")
    expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
    make_key("ann")
    page.get_by_role("button", name="Failed").click()  # asks the service
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    expect(page.get_by_text("This service asks for a key.")).to_be_visible()  # none has ended


def test_with_keys_a_key_signs_in_until_it_signs_out(
    open_page: OpenPage, make_key: Callable[..., dict[str, str]]
) -> None:
    token = make_key("ann")["Authorization"].removeprefix("Bearer ")
    page = open_page()
    page.get_by_label("Key").fill("dain_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("belongs to no key of this service")
    expect(page.get_by_role("alert").locator("code")).to_have_text("dain keys add")
    page.get_by_label("Key").fill("dain_…")
    with page.expect_response(
        "**/session"
    ) as refused:  # the alert is that of the first until this one is there
        page.get_by_role("button", name="Sign in").click()
    assert refused.value.status == 401
    expect(page.get_by_role("alert")).to_contain_text("belongs to no key of this service")
    page.get_by_label("Key").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    [cookie] = page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["expires"] == -1
    page.reload()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert not page.context.cookies()


def test_who_signs_in_next_sees_nothing_of_the_one_before(
    open_page: OpenPage, make_key: Callable[..., dict[str, str]], clip: Path
) -> None:
    tokens = [make_key(owner)["Authorization"].removeprefix("Bearer ") for owner in ("ann", "ben")]
    page = open_page()
    for token in tokens:
        page.get_by_label("Key").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Choose files").wait_for(state="attached")
        expect(page.get_by_role("article")).to_have_count(0)
        page.get_by_label("Choose files").set_input_files(clip)
        expect(page.get_by_role("article")).to_contain_text("new frames")
        [kept] = page.evaluate("Object.values(localStorage)")
        assert "/uploads/" in kept and token not in kept
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        assert page.evaluate("localStorage.length") == 0


def test_a_key_that_is_revoked_is_asked_for_without_a_click(
    open_page: OpenPage, settings: Settings, make_key: Callable[..., dict[str, str]]
) -> None:
    token = make_key("ann")["Authorization"].removeprefix("Bearer ")
    page = open_page("#/jobs")
    page.route("**/events", lambda route: route.fulfill(status=502))
    page.get_by_label("Key").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    keys = open_keys(settings)
    [key] = keys.all().values()
    keys.put(key.model_copy(update={"revoked_at": 1.0}))
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    expect(page.get_by_text("Your key holds no longer")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize(
    "locale, title",
    [
        ("de-AT", "Mehr Bilder, ruhige Bewegung"),
        ("zh-CN", "更多帧，更流畅"),
        ("fr", "More frames, smoother motion"),
    ],
)
def test_the_browser_chooses_the_language(locale: str, title: str, open_page: OpenPage) -> None:
    page = open_page(locale=locale)
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    expect(page.locator("html")).to_have_attribute("lang", "en" if locale == "fr" else locale[:2])
