"""The README's tables say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from service.api.options import RequestedHandling, RequestedOptions
from service.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_setting_is_in_the_table_in_its_own_words() -> None:
    for name, field in Settings.model_fields.items():
        row = re.search(rf"^\| `DAIN_{name.upper()}` \| (.*) \| (.*) \|$", README, re.MULTILINE)
        assert row, f"DAIN_{name.upper()} is missing"
        assert row[2] == (field.description or "").rstrip("."), name


def test_every_option_is_in_the_table() -> None:
    for name in (*RequestedOptions.model_fields, *RequestedHandling.model_fields):
        assert f"| `{name}` |" in README
