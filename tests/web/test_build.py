"""That what the API serves is what the sources in `web` build."""

from __future__ import annotations

import filecmp
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.api.routes.page import BUILT, read_files
from service.jobs.notes import NOTES

SOURCES = Path(__file__).parents[2] / "web"
MOST_BYTES = 60_000  # compressed


@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_every_note_has_a_sentence_in_every_language(language: str) -> None:
    table = (SOURCES / "src" / "languages" / f"{language}.ts").read_text()
    assert sorted(re.findall(r'"note\.([a-z-]+)": "..', table)) == sorted(NOTES)


def test_the_built_page_is_small() -> None:
    assert sum(len(file.packed) for file in read_files().values()) < MOST_BYTES


@pytest.mark.skipif(
    not (SOURCES / "node_modules").exists(), reason="`make web` has not fetched the page's packages"
)
def test_the_built_page_is_what_the_sources_build(tmp_path: Path) -> None:
    npx = shutil.which("npx")
    assert npx is not None
    for command in (["tsc"], ["vite", "build", "--outDir", str(tmp_path / "web")]):
        subprocess.run([npx, "--no-install", *command], cwd=SOURCES, check=True, capture_output=True)
    compared = filecmp.dircmp(BUILT, tmp_path / "web", ignore=[])
    for each in (compared, *compared.subdirs.values()):
        assert not each.left_only + each.right_only + each.diff_files, (
            "run `npm run build` in web/ and commit"
        )
