"""A real browser and a real API. Where there is no chromium these tests are skipped: apt-get install chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.service.conftest import finish, jobs, make_key, store, url  # noqa: F401

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

expect.set_options(timeout=30_000)  # machines may be busy

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs a test of the page once more where it fails: a browser on a busy machine loses time, and at worst a key.

    pytest prints each such RERUN. `--reruns 0` on the command line does without.
    """
    for item in items:
        if item.path.is_relative_to(HERE) and item.config.getoption("reruns") is None:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module. It ends with them: beside it no other test can run an event loop."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        # Without its sandbox, since root runs the tests in CI.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Opens the page in a new window with cookies of its own: `open_page("#/jobs", locale="de")`.

    Further arguments are those of Playwright's `new_context`. The page is that of the test's API, or the one at `base`.
    What the page throws, or breaks of its policy, fails the test.
    """
    contexts, faults = [], []

    def watch(message: Any) -> None:
        # Chromium names each answer of 4xx and 5xx in the console; the page shows them to people.
        if message.type == "error" and "Failed to load resource" not in message.text:
            faults.append(message.text)

    def open(at: str = "", base: str | None = None, **context: Any) -> Page:
        contexts.append(browser.new_context(**{"locale": "en-GB", **context}))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", watch)
        page.goto(f"{base or request.getfixturevalue('url')}/{at}")
        return page

    yield open
    for context in contexts:
        context.close()
    assert not faults
