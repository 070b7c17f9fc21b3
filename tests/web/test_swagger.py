"""Swagger UI without another host."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.web.conftest import OpenPage


def test_the_api_is_tried_in_the_browser_and_nothing_comes_from_elsewhere(
    open_page: OpenPage, url: str
) -> None:
    page = open_page("docs")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("link", name="Try it").click()
    page.get_by_role("button", name="GET /healthz", exact=False).first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"status": "ok"')
    assert all(each.startswith((url, "data:")) for each in asked) and f"{url}/openapi.json" in asked
