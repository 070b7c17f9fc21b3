"""All that a file has beside its moving picture comes along where the container can hold it; a note says where not."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import pytest
from av.sidedata.sidedata import Type as SideData

from tests.worker.conftest import Interpolated, MakeVideo, packet_times
from worker.media.sandbox import probe

PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.6")
TONE = ("-f", "lavfi", "-i", "sine=sample_rate=48000:duration=0.6")
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")

ASS = """[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment
Style: Default,Arial,20,&H00FF00FF,8
[Events]
Format: Layer, Start, End, Style, Text
Dialogue: 0,0:00:00.10,0:00:00.40,Default,{\\pos(10,10)}Hello
"""
SRT = "1\n00:00:00,100 --> 00:00:00,400\nHello\n"
METADATA = """;FFMETADATA1
title=A film
[CHAPTER]
TIMEBASE=1/1000
START=0
END=300
title=One
[CHAPTER]
TIMEBASE=1/1000
START=300
END=600
title=Two
"""


def pgs() -> bytes:
    """A white square from 0.1 s to 0.4 s, as a Blu-ray has subtitles."""

    def segment(time: float, kind: int, data: bytes) -> bytes:
        return b"PG" + struct.pack(">IIBH", int(time * 90000), 0, kind, len(data)) + data

    window = struct.pack(">BBHHHH", 1, 0, 10, 10, 8, 8)
    runs = (bytes([0, 0x88, 1]) + bytes(2)) * 8
    square = struct.pack(">HBBI", 0, 0, 0xC0, (len(runs) + 4) << 8)[:7] + struct.pack(">HH", 8, 8) + runs
    shown = struct.pack(">HHBHBBBBHBBHH", 96, 64, 16, 0, 0x80, 0, 0, 1, 0, 0, 0, 10, 10)
    gone = struct.pack(">HHBHBBBB", 96, 64, 16, 1, 0, 0, 0, 0)
    return b"".join(
        (
            *(segment(0.1, 0x16, shown), segment(0.1, 0x17, window)),
            *(segment(0.1, 0x14, bytes([0, 0, 1, 235, 128, 128, 255])), segment(0.1, 0x15, square)),
            *(segment(0.1, 0x80, b""), segment(0.4, 0x16, gone), segment(0.4, 0x17, window)),
            segment(0.4, 0x80, b""),
        )
    )


@pytest.fixture
def rich(video: MakeVideo, tmp_path: Path) -> Path:
    """A Matroska file of all that there is."""
    for name, content in (("s.ass", ASS), ("s.srt", SRT), ("m.txt", METADATA)):
        (tmp_path / name).write_text(content)
    (tmp_path / "s.sup").write_bytes(pgs())
    (tmp_path / "font.ttf").write_bytes(bytes(2000))
    cover = video("cover.png", "-f", "lavfi", "-i", "color=red:size=32x32", "-frames:v", 1)
    texts = [word for name in ("s.ass", "s.srt", "s.sup", "m.txt") for word in ("-i", tmp_path / name)]
    second = ("-f", "lavfi", "-i", "testsrc=size=48x32:rate=25:duration=0.6")
    maps = [word for stream in (0, 1, 1, 1, 2, 3, 4, 5) for word in ("-map", stream)]
    said = {
        "s:v:0": ["title=Main", "language=eng"],
        "s:a:0": ["title=Director", "language=deu"],
        "s:a:1": ["title=Voix", "language=fra"],
        "s:s:0": ["title=Signs", "language=jpn"],
        "s:t:0": ["mimetype=font/ttf", "filename=font.ttf"],
        "s:t:1": ["mimetype=image/png", "filename=cover.png"],
    }
    words = [
        word for stream, several in said.items() for each in several for word in (f"-metadata:{stream}", each)
    ]
    codecs = (
        "-c:a:0",
        "flac",
        "-c:a:1",
        "aac",
        "-c:a:2",
        "libvorbis",
        "-c:s:0",
        "ass",
        "-c:s:1",
        "subrip",
        "-c:s:2",
        "copy",
    )
    more = (
        "-map_metadata",
        6,
        "-disposition:a:1",
        "default",
        "-disposition:a:0",
        "comment",
        "-disposition:s:0",
        "forced",
    )
    attached = ("-attach", tmp_path / "font.ttf", "-attach", cover)
    inputs = (*PICTURE, *TONE, *second, *texts)
    return video("rich.mkv", *inputs, *maps, *H264, *codecs, *attached, *words, *more)


@dataclass
class Kept:
    """What is in a result: (type, codec, language, title) of each stream."""

    streams: list[tuple[str, str, str, str]] = field(default_factory=list)
    chapters: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path) -> Kept:
        with av.open(str(path)) as file:
            assert file.metadata.get("title") == "A film"
            return cls(
                [stream for each in file.streams if (stream := _described(each))],
                [each["metadata"]["title"] for each in file.chapters()],
            )


def _described(stream: Any) -> tuple[str, str, str, str] | None:
    said, context = stream.metadata, stream.codec_context
    if stream.type == "data":
        return None  # where MP4 puts its chapters
    codec = context.codec.canonical_name if context else said.get("filename", "")
    language = said.get("language", "").removeprefix("und")
    return stream.type, codec, language, said.get("title") or said.get("name", "")


SOUNDS = [("audio", "flac", "deu", "Director"), ("audio", "aac", "fra", "Voix")]
MAIN, FILM = ("video", "h264", "eng", "Main"), ("video", "h264", "", "")
COVER, MOV_TEXT = ("video", "png", "", ""), ("subtitle", "mov_text", "", "")

EXPECTED = {
    "mkv": (
        [
            *(MAIN, *SOUNDS, ("audio", "vorbis", "", ""), ("subtitle", "ass", "jpn", "Signs")),
            *(("subtitle", "subrip", "", ""), ("subtitle", "hdmv_pgs_subtitle", "", "")),
            *(FILM, ("attachment", "font.ttf", "", ""), COVER),
        ],
        ["stream-copied"],
    ),
    "mp4": (
        [
            *(MAIN, *SOUNDS, ("audio", "aac", "", ""), ("subtitle", "mov_text", "jpn", "Signs"), MOV_TEXT),
            *(FILM, COVER),
        ],
        ["audio-encoded", "subtitles-converted", "subtitles-dropped", "stream-copied", "stream-dropped"],
    ),
    "mov": (
        [
            *(MAIN, ("audio", "pcm_s24le", "ger", "Director"), SOUNDS[1], ("audio", "aac", "", "")),
            *(("subtitle", "mov_text", "jpn", "Signs"), MOV_TEXT, FILM),
        ],
        [
            *("audio-encoded", "subtitles-converted", "subtitles-dropped", "stream-copied"),
            *("stream-dropped", "stream-dropped", "tags-dropped", "tags-dropped"),
        ],
    ),
    "webm": (
        [
            *(
                ("video", "vp9", "eng", "Main"),
                ("audio", "opus", "deu", "Director"),
                ("audio", "opus", "fra", "Voix"),
            ),
            *(
                ("audio", "vorbis", "", ""),
                ("subtitle", "webvtt", "jpn", "Signs"),
                ("subtitle", "webvtt", "", ""),
            ),
        ],
        [
            *("audio-encoded", "audio-encoded", "subtitles-converted", "subtitles-dropped"),
            *("stream-dropped", "stream-dropped", "stream-dropped", "tags-dropped"),
        ],
    ),
}


@pytest.mark.parametrize("container", EXPECTED)
def test_every_stream_comes_along_or_is_named(rich: Path, delivered: Interpolated, container: str) -> None:
    result, plan = delivered(rich, container=container)
    streams, codes = EXPECTED[container]
    kept = Kept.of(result)
    assert kept.streams == streams
    assert kept.chapters == ["One", "Two"]
    assert [note.code for note in plan.notes] == codes
    assert packet_times(result)[0] == 0
    with av.open(str(result)) as file:
        assert [stream.disposition.value & 1 for stream in file.streams.audio[:2]] == [0, 1]
        if container == "mkv":
            assert file.streams[-1].disposition.name == "attached_pic"
            assert file.streams.attachments[0].data == bytes(2000)
            [dialogue] = [p for p in file.demux(file.streams.subtitles[0]) if p.size]
            assert b"\\pos(10,10)" in bytes(dialogue)
            assert b"Arial,20" in (file.streams.subtitles[0].codec_context.extradata or b"")


def test_slow_motion_names_what_it_leaves_out(rich: Path, delivered: Interpolated) -> None:
    result, plan = delivered(rich, container="mkv", speed="0.5")
    assert [(kind, codec) for kind, codec, _, _ in Kept.of(result).streams] == [
        ("video", "h264"),
        ("attachment", "font.ttf"),
        ("video", "png"),
    ]
    dropped = ["audio-dropped"] * 3 + ["subtitles-dropped"] * 3 + ["stream-dropped", "chapters-dropped"]
    assert [note.code for note in plan.notes] == dropped


MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "h264"), ("mp4", "hevc"), ("mkv", "av1"), ("webm", "vp9"), ("mov", "prores"), ("mkv", "ffv1")],
)
def test_the_metadata_of_hdr10_and_the_place_of_chroma_are_kept(
    video: MakeVideo, delivered: Interpolated, container: str, codec: str
) -> None:
    hdr = ("-mastering_display", MASTERING, "-content_light", "1000,400", *PICTURE)
    tags = "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc:chroma_location=topleft"
    filters = f"format=yuv420p10le,{tags}"
    source = video("hdr.mp4", *hdr, "-vf", filters, "-c:v", "libx265", "-x265-params", "log-level=none")
    before = probe(source)
    assert (before.mastering, before.light, before.chroma_location) == (MASTERING, "1000,400", 3)
    result, plan = delivered(source, container=container, codec=codec)
    after = probe(result)
    assert (after.mastering, after.light) == (MASTERING, "1000,400")
    assert (after.primaries, after.transfer, after.matrix) == (9, 16, 9)
    assert codec == "prores" or after.chroma_location == 3
    assert {note.code for note in plan.notes} <= {"pixels-unplayable"}
    with av.open(str(result)) as file:
        kinds = {data.type for data in next(file.decode(video=0)).side_data}
    assert {SideData.MASTERING_DISPLAY_METADATA, SideData.CONTENT_LIGHT_LEVEL} <= kinds


@pytest.mark.parametrize(
    ("container", "codec", "code"),
    [("mp4", "h264", None), ("mkv", "hevc", None), ("mp4", "hevc", "side-data-dropped")],
)
def test_a_stereoscopic_video_stays_one_or_a_note_says_that_it_is_none(
    video: MakeVideo, delivered: Interpolated, container: str, codec: str, code: str | None
) -> None:
    source = video("stereo.mp4", *PICTURE, *H264, "-x264-params", "frame-packing=3")
    result, plan = delivered(source, container=container, codec=codec)
    assert [note.code for note in plan.notes] == ([code] if code else [])
    assert probe(result).stereo == ("" if code else "side by side")


@pytest.mark.parametrize(
    ("suffix", "container"), [("mov", "mp4"), ("mov", "mov"), ("mov", "mkv"), ("mkv", "mp4")]
)
def test_a_timecode_counts_at_the_new_rate(
    video: MakeVideo, delivered: Interpolated, suffix: str, container: str
) -> None:
    source = video(f"timecode.{suffix}", *PICTURE, *H264, "-timecode", "01:00:00:12")
    result, plan = delivered(source, container=container)
    assert not plan.notes
    with av.open(str(result)) as file:
        said = file.streams.video[0].metadata
    assert (said.get("timecode") or said["TIMECODE"]) == "01:00:00:24"


def test_what_describes_the_pictures_and_does_not_come_along_is_named(
    video: MakeVideo, delivered: Interpolated
) -> None:
    hdr = ("-mastering_display", MASTERING, "-content_light", "1000,400", *PICTURE)
    source = video("hdr.mov", *hdr, *H264, "-timecode", "01:00:00:12")
    _, plan = delivered(source, container="gif")
    assert [note.code for note in plan.notes] == ["pixels-palette", "side-data-dropped", "side-data-dropped"]


def test_hdr_that_is_not_told_is_named(video: MakeVideo, delivered: Interpolated) -> None:
    tags = "format=yuv420p10le,setparams=color_primaries=bt2020:color_trc=arib-std-b67:colorspace=bt2020nc"
    source = video("hlg.mkv", *PICTURE, "-vf", tags, "-c:v", "ffv1")
    for container, codes in (("webp", ["side-data-dropped"]), ("mkv", [])):
        _, plan = delivered(source, container=container, duration="0.08")
        assert [note.code for note in plan.notes if note.code == "side-data-dropped"] == codes
