"""What a file says of itself and of its tracks is in the result, or a note says that it is not."""

from __future__ import annotations

import re
from pathlib import Path

import av
import pytest
from av.stream import Disposition

from tests.worker.conftest import Interpolated, MakeVideo
from worker.media.containers import CONTAINERS
from worker.media.sandbox import probe

PICTURE = (
    "-f",
    "lavfi",
    "-i",
    "testsrc2=size=96x64:rate=25:duration=0.2",
    "-c:v",
    "libx264",
    "-pix_fmt",
    "yuv420p",
)
TONE = ("-f", "lavfi", "-i", "sine=sample_rate=48000:duration=0.2")
ROLES = sorted(
    CONTAINERS["mkv"].roles - {"descriptions"}
)  # which becomes that of the visually impaired in MP4
TAGS = sorted(CONTAINERS["mp4"].tags | CONTAINERS["mov"].tags | {"director", "rating"})
VALUES = {"location": "+52.5000+013.4000/"}
PHONE = {"com.apple.quicktime.make": "Phone", "com.apple.quicktime.location.iso6709": "+52.5+13.4/"}


@pytest.fixture
def marked(video: MakeVideo, tmp_path: Path) -> Path:
    """A file with a sound and a subtitle track of each role, and all tags that containers know by name."""
    (tmp_path / "s.srt").write_text("1\n00:00:00,000 --> 00:00:00,200\nHello\n")
    maps = ["-map", 0, *["-map", 1] * len(ROLES), *["-map", 2] * len(ROLES)]
    roles = [
        word for k, role in enumerate(ROLES) for kind in "as" for word in (f"-disposition:{kind}:{k}", role)
    ]
    tags = [word for tag in TAGS for word in ("-metadata", f"{tag}={VALUES.get(tag, 3)}")]
    inputs = (*PICTURE[:4], *TONE, "-i", tmp_path / "s.srt")
    return video("marked.mkv", *inputs, *maps, *PICTURE[4:], "-c:a", "aac", "-c:s", "subrip", *roles, *tags)


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "webm", "gif"])
def test_marks_and_tags_are_there_or_noted(marked: Path, delivered: Interpolated, container: str) -> None:
    source = probe(marked)
    assert source.tags == tuple(TAGS)
    result, plan = delivered(marked, container=container)
    made = probe(result)
    notes = [note for note in plan.notes if note.code == "tags-dropped"]
    left_out = {tag for note in notes if note.stream is None for tag in re.findall(r"\w+", note.text)}
    assert {tag for tag in TAGS if tag not in left_out} == set(made.tags)
    unmarked = {note.stream: note.text for note in notes}
    pairs = [
        (source.audio, plan.delivery.sounds, made.audio),
        (source.subtitles, plan.delivery.texts, made.subtitles),
    ]
    for tracks, chosen, found in pairs:
        roles = {track.index: track.roles for track in tracks}
        for track, now in zip(chosen, found, strict=True):
            lost = {
                role for role in roles[track.index] if role.replace("_", " ") in unmarked.get(track.index, "")
            }
            assert set(now.roles) == set(roles[track.index]) - lost


@pytest.mark.parametrize(
    ("container", "kept"),
    [
        ("mp4", {"default", "comment"}),
        ("mkv", {"default", "comment", "original"}),
        ("mov", {"default"}),
        ("gif", {"default"}),
    ],
)
def test_marks_of_the_picture_are_there_or_noted(
    video: MakeVideo, delivered: Interpolated, container: str, kept: set[str]
) -> None:
    source = video("picture.mkv", *PICTURE, "-disposition:v:0", "default+comment+original")
    result, plan = delivered(source, container=container)
    with av.open(str(result)) as file:
        found = file.streams.video[0].disposition
    noted = " ".join(note.text for note in plan.notes if note.code == "tags-dropped")
    for role in ("comment", "original"):
        assert (role in kept) == bool(found & Disposition[role]) == (role not in noted)


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_what_a_phone_says_keeps_its_names(video: MakeVideo, delivered: Interpolated, container: str) -> None:
    said = [word for name, value in PHONE.items() for word in ("-metadata", f"{name}={value}")]
    said += ["-metadata", "creation_time=2026-05-01T10:00:00Z", "-movflags", "use_metadata_tags"]
    source = video("phone.mov", *PICTURE, *said)
    assert set(probe(source).tags) == set(PHONE)
    result, plan = delivered(source, container=container)
    assert not plan.notes
    with av.open(str(result)) as file:
        assert PHONE.items() <= {name.lower(): value for name, value in file.metadata.items()}.items()
        assert file.metadata["creation_time"].startswith("2026-05-01T10:00:00")
        assert file.metadata["major_brand"] == ("qt  " if container == "mov" else "isom")
