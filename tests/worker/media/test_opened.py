"""Files that are refused, each with its reason."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.worker.conftest import MakeVideo
from tests.worker.media.conftest import H264, refused
from worker.media.errors import MediaError
from worker.media.facts import Limits
from worker.media.sandbox import probe


def test_cover_art_is_not_the_video(video: MakeVideo) -> None:
    cover = video("cover.png", "-frames:v", "1", "-update", "1")
    sound = ("-f", "lavfi", "-i", "sine=duration=0.5")
    art = ("-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic")
    song = video("song.m4a", *sound, "-i", cover, *art)
    assert refused(song) == "no-video-stream"


def test_sound_alone(video: MakeVideo) -> None:
    assert refused(video("sound.mp4", "-f", "lavfi", "-i", "sine=duration=0.5")) == "no-video-stream"


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    assert refused(tmp_path / "empty.mp4") == "unreadable-video"


def test_text_named_mp4(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("This is no video.\n" * 1000)
    assert refused(tmp_path / "text.mp4") == "unreadable-video"


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nwhole.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile whole.mp4\n",
    ],
)
def test_playlists_open_no_other_file(video: MakeVideo, playlist: str) -> None:
    whole = video("whole.mp4", *H264, "-g", "100", "-bf", "2")
    path = whole.with_name("playlist.mp4")
    path.write_text(playlist)
    assert refused(path) in {"unsupported-format", "unreadable-video"}  # new demuxers also look at the name


def test_a_file_whose_index_is_cut_off(video: MakeVideo, tmp_path: Path) -> None:
    data = video("whole.mp4", *H264, "-g", "100", "-bf", "2").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    assert refused(tmp_path / "cut.mp4") == "unreadable-video"


def test_a_header_without_frames(video: MakeVideo, tmp_path: Path) -> None:
    data = video("fragments.mp4", *H264, "-movflags", "frag_keyframe+empty_moov").read_bytes()
    path = tmp_path / "header.mp4"
    path.write_bytes(data[: data.index(b"moof") - 4])
    assert refused(path) == "damaged-video"


@pytest.mark.parametrize("side", [8000, 16384, 65535])
def test_a_picture_too_large_is_refused_by_its_header(video: MakeVideo, tmp_path: Path, side: int) -> None:
    data = bytearray(video("small.gif").read_bytes())
    assert struct.unpack("<HH", data[6:10]) == (96, 64)
    data[6:10] = struct.pack("<HH", side, side)
    path = tmp_path / "huge.gif"
    path.write_bytes(data)
    assert refused(path) == "limit-exceeded"


def test_a_picture_too_large_to_open_is_named(tmp_path: Path) -> None:
    path = tmp_path / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W16384 H16384 F25:1 C420\nFRAME\n" + bytes(1000))
    with pytest.raises(MediaError, match="16384x16384 pixels; at most 1000 pixels") as caught:
        probe(path, Limits(max_pixels=1000))
    assert caught.value.slug == "limit-exceeded"


@pytest.mark.parametrize(
    "limits", [Limits(max_pixels=96 * 64 - 1), Limits(max_frames=14), Limits(max_duration=0.5)]
)
def test_limits(video: MakeVideo, limits: Limits) -> None:
    whole = video("whole.mp4", *H264, "-g", "100", "-bf", "2")
    assert probe(whole, Limits(96 * 64, 15, 0.6)).frames == 15
    assert refused(whole, limits) == "limit-exceeded"
