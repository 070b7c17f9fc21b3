"""Sound that FFmpeg refuses never fails a job at its end: it is converted, or left out with a note."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from service.api.options import parse_options
from tests.worker.conftest import Average, Interpolated, MakeVideo
from worker import pipeline
from worker.media import ffmpeg, tracks
from worker.media.choose import encoded
from worker.media.containers import CONTAINERS
from worker.media.facts import AudioInfo
from worker.media.sandbox import probe
from worker.plan import JobPlan

SPEEX = Path(__file__).parents[2] / "data" / "speex.flv"
PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.6")
DAMAGED = "Error submitting packet to decoder: Invalid data found when processing input"
TONE = ("-f", "lavfi", "-i", "sine=duration=0.6")


Assemble = Callable[[JobPlan, Path], Path]


@pytest.fixture
def assembled(tmp_path: Path, average: Average) -> Assemble:
    """Makes the result of a plan: `assembled(plan, source)`."""

    def run(plan: JobPlan, source: Path) -> Path:
        part, result = tmp_path / "part", tmp_path / "result.mp4"
        pipeline.render_segment(plan, 0, source, part, average)
        pipeline.assemble(plan, [part], source, result)
        return result

    return run


def planned(source: Path) -> JobPlan:
    return JobPlan.make(source, probe(source), parse_options({}), segment_frames=1000)


def heard(path: Path) -> list[tuple[str, str, int]]:
    """The codec, channel layout and sample rate of each sound track; some of it can be decoded."""
    tracks = []
    with av.open(str(path)) as file:
        for stream in file.streams.audio:
            file.seek(0)
            assert next(file.decode(stream)).samples
            tracks.append((stream.codec_context.name, stream.layout.name, stream.sample_rate))
    return tracks


def test_sound_whose_channels_have_no_names_is_converted(assembled: Assemble) -> None:
    plan = planned(SPEEX)
    assert heard(assembled(plan, SPEEX)) == [("aac", "mono", 16000)]
    assert [note.text for note in plan.notes] == [
        "Sound track 1 (speex) is encoded again, as AAC: few players know it in this container."
    ]


@pytest.mark.parametrize(
    ("layout", "channels", "made"),
    [
        ("cube", 8, "quad"),
        ("5.1.2", 8, "5.1"),
    ],
)
def test_the_encoder_is_given_a_layout_that_it_takes(
    video: MakeVideo, assembled: Assemble, layout: str, channels: int, made: str
) -> None:
    filters = f"pan={layout}|" + "|".join(f"c{k}=c0" for k in range(channels))
    sound = (*TONE, "-filter:a", filters, "-c:a", "wavpack")
    source = video(f"{layout}.mkv", *PICTURE, *sound, "-c:v", "mpeg4")
    plan = planned(source)
    track = encoded(AudioInfo(1, "dts", channels, 44100), CONTAINERS["mp4"])
    plan = replace(plan, delivery=replace(plan.delivery, sounds=(track,)))
    assert heard(assembled(plan, source)) == [("aac", made, 44100)]


@pytest.mark.parametrize(("rate", "made"), [(2000, 7350), (192000, 96000)])
def test_the_encoder_is_given_a_rate_that_it_takes(
    video: MakeVideo, assembled: Assemble, rate: int, made: int
) -> None:
    sound = (*TONE, "-c:a", "adpcm_ms", "-ar", rate)
    source = video(f"{rate}.mkv", *PICTURE, *sound, "-c:v", "mpeg4")
    assert [rate for _, _, rate in heard(assembled(planned(source), source))] == [made]


def test_sound_that_the_container_does_not_take_as_it_is_is_encoded(
    video: MakeVideo, assembled: Assemble
) -> None:
    source = video("mp3.avi", *PICTURE, *TONE, "-c:v", "mpeg4", "-c:a", "libmp3lame", "-ar", "8000")
    plan = planned(source)
    assert heard(assembled(plan, source)) == [("aac", "mono", 8000)]
    assert [note.text for note in plan.notes] == [
        "Sound track 1 (mp3) is encoded again, as AAC: the container does not take it as it is."
    ]


@pytest.mark.parametrize(
    ("codec", "filters", "why"),
    [
        ("dca", "noise=amount=1", DAMAGED),  # every byte is damaged
        ("mp2", "noise=amount=1", "Header missing"),
        ("libvorbis", "noise=drop=1", "Empty output stream"),  # no packet is there
    ],
)
def test_sound_that_cannot_be_decoded_is_left_out_and_named(
    video: MakeVideo, assembled: Assemble, codec: str, filters: str, why: str
) -> None:
    broken = ("-c:a:0", codec, "-strict", "-2", "-ac:a:0", "2", "-bsf:a:0", filters)
    tracks = ("-map", "0", "-map", "1", *broken, "-map", "1", "-c:a:1", "aac")
    source = video(f"broken-{codec}.mkv", *PICTURE, *TONE, *tracks, "-c:v", "mpeg4")
    plan = planned(source)
    assert [sound.index for sound in plan.delivery.sounds] == [2]
    assert [note.text for note in plan.notes] == [
        f"Sound track 1 ({plan.info.audio[0].codec}) is left out: FFmpeg cannot put it into the result ({why})."
    ]
    assert [codec for codec, _, _ in heard(assembled(plan, source))] == ["aac"]


def test_sound_that_is_mostly_damaged_does_not_fail_the_job(video: MakeVideo, assembled: Assemble) -> None:
    sound = (*TONE, "-c:a", "adpcm_ms", "-ac", "2", "-bsf:a", "noise=amount=gt(n\\,5)")
    source = video("damaged-sound.mkv", *PICTURE, *sound, "-c:v", "mpeg4")
    plan = planned(source)
    assert [codec for codec, _, _ in heard(assembled(plan, source))] == ["aac"]


def test_what_is_tried_is_what_is_made(video: MakeVideo) -> None:
    source = video("wav.mkv", *PICTURE, *TONE, "-c:v", "mpeg4", "-c:a", "pcm_s16le")
    plan = planned(source)
    assert tracks.that_can_be_made(source, plan.info, plan.delivery) == plan.delivery


@pytest.mark.parametrize(("filter_there", "within"), [(True, 0.05), (False, 0.2)])
def test_sound_is_stretched_with_its_pitch_and_stays_with_the_picture(
    video: MakeVideo,
    delivered: Interpolated,
    monkeypatch: pytest.MonkeyPatch,
    filter_there: bool,
    within: float,
) -> None:
    monkeypatch.setattr(ffmpeg, "has_filter", lambda name: filter_there)
    beep = "aevalsrc='sin(2*PI*1000*t)*between(t,0.3,0.45)':s=48000:d=0.6"
    source = video("beep.mkv", *PICTURE, "-f", "lavfi", "-i", beep, "-c:v", "mpeg4", "-c:a", "pcm_s16le")
    result, plan = delivered(source, speed="0.25", audio="stretch", container="mkv")
    assert [note.code for note in plan.notes] == ["audio-stretched"]
    command = [ffmpeg.binary(), "-v", "error", "-i", result, "-f", "f32le", "-ac", "1", "-"]
    samples = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, "f4")
    [loud] = np.nonzero(np.abs(samples) > 0.3)
    assert abs(loud[0] / 48000 - 1.2) < within and abs(loud[-1] / 48000 - 1.8) < within
    spectrum = np.abs(np.fft.rfft(samples[loud[0] : loud[-1]]))
    assert abs(spectrum.argmax() * 48000 / (loud[-1] - loud[0]) - 1000) < 10


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("delay.mkv", ("-c:v", "mpeg4", "-c:a", "libvorbis")),
        ("delay.mpg", ("-c:v", "mpeg2video", "-c:a", "mp2")),
        ("delay.wmv", ("-c:v", "wmv2", "-c:a", "wmav2")),
    ],
)
def test_sound_that_is_encoded_again_keeps_its_place_to_half_a_millisecond(
    video: MakeVideo, delivered: Interpolated, name: str, codecs: tuple[str, ...]
) -> None:
    noise = "aevalsrc='random(0)*sin(2*PI*4*t)':s=48000:d=0.6"
    source = video(name, *PICTURE, "-f", "lavfi", "-i", noise, *codecs)
    result, plan = delivered(source, segment_frames=100)
    assert [sound.codec for sound in plan.delivery.sounds] == ["aac"]

    def samples(path: Path) -> np.ndarray:
        placed = "aresample=48000:async=1:first_pts=0"
        command = [ffmpeg.binary(), "-v", "error", "-copyts", "-i", path, "-map", "0:a", "-af", placed]
        told = subprocess.run([*command, "-f", "f32le", "-"], check=True, capture_output=True)
        return np.frombuffer(told.stdout, "f4")

    before, after = samples(source), samples(result)
    size = len(before) + len(after)
    alike = np.fft.irfft(np.fft.rfft(before, size) * np.fft.rfft(after, size).conj(), size)
    moved = int(alike.argmax()) / 48000  # circular, but sound only moves to the front
    assert abs(moved - plan.begin) < 0.0005
