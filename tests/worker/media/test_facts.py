"""Facts as they are stored: what other releases wrote is read, and what is not known is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worker.media.errors import MachineError
from worker.media.facts import VideoInfo
from worker.media.sandbox import probe

COMPAT = Path(__file__).parents[2] / "compat"


@pytest.fixture
def stored(clip: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(json.dumps(probe(clip).as_dict()))
    return facts


def keeps(read: Any, written: Any) -> bool:
    """Whether all that was written is read, beside fields that were not there then."""
    if isinstance(written, dict):
        return all(name in read and keeps(read[name], value) for name, value in written.items())
    if isinstance(written, list):
        return len(read) == len(written) and all(map(keeps, read, written))
    return bool(read == written)


def test_facts_are_read_as_they_were_written(stored: dict[str, Any]) -> None:
    info = VideoInfo.from_dict(stored)
    assert info.as_dict() == stored and VideoInfo.from_dict(info.as_dict()) == info


@pytest.mark.parametrize("path", sorted(COMPAT.glob("*/facts.json")), ids=lambda path: path.parent.name)
def test_facts_of_every_release_are_read(path: Path) -> None:
    written = json.loads(path.read_text())
    assert keeps(VideoInfo.from_dict(written).as_dict(), written)


def test_what_a_later_release_added_is_ignored_and_kept(stored: dict[str, Any]) -> None:
    stored |= {"hdr": {"max_cll": 1000}, "subtitles": [{"index": 3, "codec": "subrip", "cues": 7}]}
    info = VideoInfo.from_dict(stored)
    assert info.subtitles[0].codec == "subrip"
    assert keeps(info.as_dict(), stored)


def test_facts_of_a_newer_version_are_refused_in_a_sentence(stored: dict[str, Any]) -> None:
    with pytest.raises(MachineError, match="newer release wrote the video facts .* Update this worker"):
        VideoInfo.from_dict(stored | {"version": 2})


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": "many"},
        {"width": True},
        {"duration": "1e999999999"},
        {"duration": "1/0"},
        {"audio": [{}]},
        {"codec": None},
    ],
)
def test_what_are_no_facts_is_refused(stored: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises((ArithmeticError, LookupError, TypeError, ValueError)):
        VideoInfo.from_dict(stored | wrong)
