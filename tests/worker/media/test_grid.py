"""The table in docs/media.md of what is kept, converted and dropped is what jobs do."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

from service.jobs.notes import NOTES
from tests.worker.conftest import Interpolated, MakeVideo
from worker.media.choose import choose
from worker.media.delivery import Delivery
from worker.media.facts import VideoInfo
from worker.media.sandbox import probe
from worker.plan import JobPlan

PAGE = Path(__file__).parents[3] / "docs" / "media.md"
BEGIN, END = "<!-- made by tests/worker/media/test_grid.py -->\n", "<!-- end -->"

STREAMS = ("mp4", "mov", "mkv", "webm")
PICTURES = "gif"  # for all that hold pictures alone
COLUMNS = (*STREAMS, "animations, pictures")
WORDS = {
    "copy": "kept",
    "libopus": "Opus",
    "mov_text": "text",
    "webvtt": "text",
    "pcm_s24le": "PCM",
    "ass": "ASS",
    "eia_608": "CEA-608",
}

PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.2")
TONE = ("-f", "lavfi", "-i", "sine=sample_rate=48000:duration=0.2")
SOUNDS = {
    "AAC": "aac",
    "MP3": "libmp3lame",
    "AC-3": "ac3",
    "E-AC-3": "eac3",
    "Opus": "libopus",
    "Vorbis": "libvorbis",
    "MP2": "mp2",
    "DTS": "dca",
    "TrueHD": "truehd",
    "FLAC": "flac",
    "ALAC": "alac",
    "PCM, 16 bits": "pcm_s16le",
    "PCM, floating point": "pcm_f32le",
}
TEXTS = {
    "SubRip": "subrip",
    "ASS": "ass",
    "WebVTT": "webvtt",
    "PGS (Blu-ray)": "pgs",
    "VobSub (DVD)": "dvdsub",
}
#: Of what codec the pictures are in each container.
CAPTIONED = {
    "closed captions within H.264, HEVC, AV1": ("h264", "hevc", "av1", "av1", "gif"),
    "closed captions beside VP9, ProRes, DNxHR, FFV1": ("vp9", "prores", "ffv1", "vp9", "gif"),
}
OTHERS = {"film": "further video (H.264)", "cover": "cover picture", "attachment": "fonts, attachments"}


@pytest.fixture
def all_kinds(video: MakeVideo, tmp_path: Path) -> Path:
    """A file with a track of every kind, in the order of the tables above."""
    from tests.worker.media.test_streams import ASS, METADATA, SRT, pgs

    for name, content in (("s.ass", ASS), ("s.srt", SRT), ("m.txt", METADATA)):
        (tmp_path / name).write_text(content)
    (tmp_path / "s.sup").write_bytes(pgs())
    (tmp_path / "font.ttf").write_bytes(bytes(2000))
    cover = video("cover.png", "-f", "lavfi", "-i", "color=red:size=32x32", "-frames:v", 1)
    texts = (
        "-i",
        tmp_path / "s.srt",
        "-i",
        tmp_path / "s.ass",
        "-i",
        tmp_path / "s.sup",
        "-i",
        tmp_path / "m.txt",
    )
    maps = [
        "-map",
        0,
        *["-map", 1] * len(SOUNDS),
        "-map",
        2,
        "-map",
        3,
        "-map",
        2,
        "-map",
        4,
        "-map",
        4,
        "-map",
        0,
    ]
    codecs = [word for k, codec in enumerate(SOUNDS.values()) for word in (f"-c:a:{k}", codec)]
    codecs += [
        "-ac",
        2,
        "-strict",
        -2,
        "-c:s",
        "copy",
        "-c:s:1",
        "ass",
        "-c:s:2",
        "webvtt",
        "-c:s:4",
        "dvdsub",
    ]
    said = [
        "-map_metadata",
        5,
        "-metadata:s:t:0",
        "mimetype=font/ttf",
        "-metadata:s:t:0",
        "filename=font.ttf",
    ]
    said += [
        "-metadata:s:t:1",
        "mimetype=image/png",
        "-metadata:s:t:1",
        "filename=cover.png",
        "-metadata:s:a:0",
        "title=A",
        *("-metadata", "director=B"),
        *("-disposition:a:1", "comment", "-disposition:s:0", "forced"),
    ]
    attached = ["-attach", tmp_path / "font.ttf", "-attach", cover]
    h264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p"]
    return video("kinds.mkv", *PICTURE, *TONE, *texts, *maps, *h264, *codecs, *attached, *said)


def outcome(index: int, delivery: Delivery) -> str:
    """What becomes of a stream of the source."""
    for track in (*delivery.sounds, *delivery.texts):
        if track.index == index:
            return WORDS.get(track.codec, track.codec.upper())
    return "kept" if index in {extra.index for extra in delivery.extras} else "–"


def rows(info: VideoInfo, plans: dict[str, JobPlan]) -> list[tuple[str, ...]]:
    """The rows of the table: what there is, and what becomes of it in each container."""
    named = [(track.index, f"sound: {name}") for track, name in zip(info.audio, SOUNDS, strict=True)]
    named += [(track.index, f"subtitles: {name}") for track, name in zip(info.subtitles, TEXTS, strict=True)]
    named += [
        (other.index, OTHERS[other.kind])
        for other in sorted(info.others, key=lambda o: list(OTHERS).index(o.kind))
    ]
    found = [(what, *(outcome(index, plan.delivery) for plan in plans.values())) for index, what in named]
    captioned = replace(info, captions=True, side_data=("A53_CC",))
    chapters = ["kept" if plan.delivery.chapters else "–" for plan in plans.values()]
    more = [("chapters", *chapters)]
    for what, codecs in CAPTIONED.items():
        asked = (
            plan.options.model_copy(update={"codec": codec})
            for plan, codec in zip(plans.values(), codecs, strict=True)
        )
        more.append((what, *(heard(choose(captioned, options, Fraction(50))) for options in asked)))
    return [*found, *more]


def heard(delivery: Delivery) -> str:
    """What becomes of closed captions."""
    track = "eia_608" if delivery.caption_track == "copy" else delivery.caption_track
    return "kept" if delivery.captions else WORDS.get(track, "–")


def said(result: Path) -> dict[str, bool]:
    """Which marks and tags a result has."""
    made = probe(result)
    roles = {role for track in (*made.audio, *made.subtitles) for role in track.roles}
    return {
        "mark of a track: forced": "forced" in roles,
        "mark of a track: comment": "comment" in roles,
        "tag: title": "title" in made.tags,
        "tag: director": "director" in made.tags,
    }


def test_the_table_says_what_jobs_do(all_kinds: Path, delivered: Interpolated) -> None:
    plans, told = {}, {}
    for name, container in zip(COLUMNS, (*STREAMS, PICTURES), strict=True):
        result, plans[name] = delivered(all_kinds, container=container)
        delivery, told[name] = plans[name].delivery, said(result)
        with av.open(str(result)) as file:
            assert len(file.streams.audio) == len(delivery.sounds)
            assert len(file.streams.subtitles) == len(delivery.texts)
            stills = sum(extra.kind in ("film", "cover") for extra in delivery.extras)
            assert len(file.streams.video) == 1 + stills
            assert len(file.chapters()) == (2 if delivery.chapters else 0)
        codes = {code for code in NOTES if code.endswith("-dropped")} - {"tags-dropped"}
        dropped = {note.stream for note in plans[name].notes if note.code in codes}
        for index in range(1, len(SOUNDS) + len(TEXTS) + len(OTHERS) + 1):
            assert (outcome(index, delivery) == "–") == (index in dropped)
    marks = [(what, *("kept" if told[name][what] else "–" for name in COLUMNS)) for what in told["mkv"]]
    table = [("", *COLUMNS), ("---",) * (1 + len(COLUMNS)), *rows(plans["mp4"].info, plans), *marks]
    text = "".join(f"| {' | '.join(row)} |\n" for row in table)
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == text
