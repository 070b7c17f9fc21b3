"""The whole way of a clip through the web page: a browser, the API, Redis, a worker, the network."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
from playwright.sync_api import expect

from tests.stack import Stack
from tests.web.conftest import OpenPage, browser, open_page  # noqa: F401


def test_a_clip_goes_in_and_comes_back_smoother(
    open_page: OpenPage,  # noqa: F811
    stack: Stack,
    small_clip: Path,
) -> None:
    page = open_page(base=stack.url)
    page.get_by_label("Exact rate").check()
    page.get_by_role("combobox", name="Frames a second").fill("48")
    page.get_by_label("Choose files").set_input_files(small_clip)
    card = page.get_by_role("article", name=small_clip.name)
    expect(card).to_contain_text("48 fps")
    card.get_by_role("button", name="Start").click()
    expect(card).to_contain_text("Done", timeout=90_000)
    with page.expect_download() as download:
        card.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "small-48fps.mp4"
    with av.open(str(download.value.path())) as result:
        assert result.streams.video[0].average_rate == Fraction(48)
        assert sum(1 for _ in result.decode(video=0)) == 24
