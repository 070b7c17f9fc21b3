"""Every page of documentation is easy to read in a terminal, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 120
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for place in (".", "docs", "deploy", "dain_core")
    for page in (ROOT / place).glob("*.md" if place == "." else "**/*.md")
)


@pytest.mark.parametrize("page", PAGES)
def test_no_line_of_prose_is_longer_than_others_can_read(page: str) -> None:
    lines = enumerate((ROOT / page).read_text().splitlines(), 1)
    assert not [number for number, line in lines if len(line) > LONGEST and not line.startswith("|")]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_is_there(page: str) -> None:
    text = re.sub(r"`[^`]*`", "", (ROOT / page).read_text())
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    assert not [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]


def test_what_holds_is_where_the_threat_model_says() -> None:
    named = re.findall(
        r"`((?:service|worker|dain_core|tests)/[^`]*)`", (ROOT / "docs/security.md").read_text()
    )
    assert len(named) > 20 and not [path for path in named if not (ROOT / path).exists()]


def test_the_pages_are_found() -> None:
    assert {"README.md", "CHANGELOG.md", "docs/design.md", "deploy/kubernetes/README.md"} <= set(PAGES)


def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert built.returncode == 0, built.stderr
    for page, words in (
        ("index.html", "makes video smoother"),
        ("reference/http/index.html", "GET /jobs/{job_id}"),
        ("reference/settings/index.html", "DAIN_MAX_UPLOAD_BYTES"),
    ):
        assert words in (tmp_path / "site" / page).read_text(), page
