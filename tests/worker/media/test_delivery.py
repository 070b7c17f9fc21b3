"""What comes out is chosen once, and one more kind is one more entry in a table."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

import worker
from service.api.options import parse_options
from tests.worker.conftest import Average, MakeVideo, packet_times
from worker import pipeline
from worker.media import delivery as deliveries
from worker.media.delivery import Container, Delivery
from worker.media.facts import AudioInfo, SubtitleInfo, VideoInfo
from worker.media.sandbox import probe
from worker.plan import JobPlan

RATE = Fraction(50)


@pytest.fixture
def info(clip: Path) -> VideoInfo:
    sounds = (
        AudioInfo(1, "aac", 2, 48000),
        AudioInfo(2, "pcm_s16le", 8, 96000),
        AudioInfo(3, "vorbis", 1, 44100),
        AudioInfo(6, "dts", 6, 48000),
        AudioInfo(7, "pcm_f32le", 2, 48000),
        AudioInfo(8, "pcm_s16le", 16, 48000),
    )
    texts = (SubtitleInfo(4, "subrip"), SubtitleInfo(5, "hdmv_pgs_subtitle"))
    return replace(probe(clip), audio=sounds, subtitles=texts)


def test_streams_are_copied_converted_or_left_out(info: VideoInfo) -> None:
    chosen = Delivery.choose(info, parse_options({}), RATE)
    assert [(sound.index, sound.codec, sound.bitrate) for sound in chosen.sounds] == [
        (1, "copy", 0),
        (2, "flac", 0),
        (3, "aac", 192_000),
        (6, "aac", 576_000),  # as many bits for each of six channels as for each of two
        (7, "flac", 0),
    ]
    assert [note.text.split(":")[0] for note in chosen.notes] == [
        "Sound track 3 (vorbis) is encoded again, as AAC",
        "Sound track 6 (dts) is encoded again, as AAC",
        "Sound track 7 (pcm_f32le) has at most 24 bits a sample in the result, as FLAC.",
        "Sound track 8 (pcm_s16le) has 16 channels. The result can have 8, so it is left out.",
    ]
    assert [(text.index, text.codec) for text in chosen.texts] == [(4, "mov_text")]
    assert chosen.chapters


def test_slow_motion_has_neither_sound_nor_text(info: VideoInfo) -> None:
    chosen = Delivery.choose(info, parse_options({"speed": "0.5"}), RATE)
    assert (chosen.sounds, chosen.texts, chosen.chapters) == ((), (), False)


def test_a_delivery_is_read_as_it_was_written_with_what_is_not_known(info: VideoInfo) -> None:
    chosen = Delivery.choose(info, parse_options({"quality": 0}), RATE)
    stored = json.loads(json.dumps(chosen.as_dict()))
    assert Delivery.from_dict(stored) == chosen
    stored |= {"grain": 3}
    stored["sounds"][0]["title"] = "Director"
    assert Delivery.from_dict(stored).as_dict() == stored


def test_another_delivery_is_an_entry_in_each_table(
    video: MakeVideo, tmp_path: Path, average: Average, monkeypatch: pytest.MonkeyPatch
) -> None:
    matroska = Container(
        muxer="matroska",
        suffixes=(".mkv",),
        media_type="video/x-matroska",
        finest_clock=1000,
        coarsest_clock=1000,
        clocks=lambda picture, movie: {},
        finish={},
        playable_sounds=frozenset({"aac"}),
        sound_encoder="aac",
        lossless_encoder="flac",
        readable_texts=frozenset(),
        text_encoder="",
    )
    monkeypatch.setitem(deliveries.CONTAINERS, "mkv", matroska)
    monkeypatch.setitem(deliveries.CODECS, "ffv1", lambda _: {"format": "matroska", "vcodec": "ffv1"})
    tone = ("-f", "lavfi", "-i", "sine=sample_rate=48000:duration=0.6")
    picture = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.6")
    source = video("delivered.mp4", *picture, *tone, "-pix_fmt", "yuv420p", "-c:a", "aac")
    plan = JobPlan.make(source, probe(source), parse_options({}), segment_frames=16)
    plan = replace(plan, delivery=replace(plan.delivery, container="mkv", codec="ffv1"))
    parts = [tmp_path / str(index) for index in range(len(plan.segments))]
    for index, part in enumerate(parts):
        pipeline.render_segment(plan, index, source, part, average)
    result = tmp_path / "result"
    pipeline.assemble(plan, parts, source, result)
    with av.open(str(result)) as made:
        assert made.format.name.startswith("matroska")
        assert [stream.codec_context.name for stream in made.streams] == ["ffv1", "aac"]
    assert packet_times(result) == [Fraction(20 * k, 1000) for k in range(30)]


@pytest.mark.parametrize(
    "word", ["libx264", "h264_metadata", '"mp4"', ".mp4", "video/mp4", "mov_text", "movflags"]
)
def test_no_other_module_knows_what_comes_out(word: str) -> None:
    folder = Path(worker.__file__).parent
    modules = [path for path in folder.rglob("*.py") if "bench" not in path.parts]
    assert [path.name for path in modules if word in path.read_text()] == ["delivery.py"]
