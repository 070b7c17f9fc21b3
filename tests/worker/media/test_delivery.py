"""What comes out is chosen once, and one more kind is one more entry in a table."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import worker
from service.api.options import parse_options
from service.jobs.problems import PROBLEMS
from tests.worker.conftest import Interpolated, MakeVideo, decoded, packet_times
from worker.media.choose import choose
from worker.media.delivery import Delivery
from worker.media.errors import MediaError
from worker.media.facts import AudioInfo, SubtitleInfo, VideoInfo
from worker.media.sandbox import probe
from worker.plan import FOURTH, JobPlan

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
    chosen = choose(info, parse_options({}), RATE)
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
        "Subtitle track 5 (hdmv_pgs_subtitle) is left out",
    ]
    assert [(text.index, text.codec) for text in chosen.texts] == [(4, "mov_text")]
    assert chosen.chapters


def test_slow_motion_has_neither_sound_nor_text(info: VideoInfo) -> None:
    chosen = choose(info, parse_options({"speed": "0.5"}), RATE)
    assert (chosen.sounds, chosen.texts, chosen.chapters) == ((), (), False)


def test_a_delivery_is_read_as_it_was_written_with_what_is_not_known(info: VideoInfo) -> None:
    chosen = choose(info, parse_options({"quality": 0}), RATE)
    stored = json.loads(json.dumps(chosen.as_dict()))
    assert Delivery.from_dict(stored) == chosen
    stored |= {"grain": 3}
    stored["sounds"][0]["title"] = "Director"
    assert Delivery.from_dict(stored).as_dict() == stored


SOURCE = (
    "-f",
    "lavfi",
    "-i",
    "testsrc2=size=96x64:rate=25:duration=0.36",
    "-f",
    "lavfi",
    "-i",
    "sine=duration=0.36",
)

CODECS = [
    *(("mp4", "h264", True), ("mp4", "hevc", True), ("mp4", "av1", True), ("mkv", "vp9", True)),
    *(("mkv", "ffv1", True), ("mov", "prores", False), ("webm", "vp9", True), ("mov", "hevc", True)),
]


@pytest.mark.parametrize(("container", "codec", "exact"), CODECS)
def test_each_codec_has_every_frame_at_its_time(
    video: MakeVideo, delivered: Interpolated, container: str, codec: str, exact: bool
) -> None:
    source = video("delivered.mp4", *SOURCE, "-pix_fmt", "yuv420p", "-c:a", "aac")
    result, plan = delivered(source, container=container, codec=codec, quality=0)
    assert packet_times(result) == [Fraction(k, 50) for k in range(18)]
    assert len(plan.segments) > 1
    if exact:
        assert np.array_equal(decoded(result, "yuv420p")[::2], decoded(source, "yuv420p"))
    with av.open(str(result)) as made:
        [picture, sound] = made.streams
        assert picture.codec_context.codec.canonical_name == codec
        assert picture.disposition & 1 and sound.type == "audio"


def test_dnxhr_is_refused_before_the_first_frame_where_it_has_no_such_size(
    video: MakeVideo, delivered: Interpolated
) -> None:
    source = video("delivered.mp4", *SOURCE, "-pix_fmt", "yuv420p", "-c:a", "aac")
    with pytest.raises(MediaError, match="96x64 with the codec dnxhr .*at least 256x120") as caught:
        delivered(source, container="mov", codec="dnxhr")
    assert PROBLEMS[caught.value.slug][0] == 422


@pytest.mark.parametrize("container", ["gif", "apng", "webp"])
def test_animations_have_every_frame_at_its_time(
    video: MakeVideo, delivered: Interpolated, container: str
) -> None:
    source = video("delivered.mp4", *SOURCE, "-pix_fmt", "yuv420p", "-c:a", "aac")
    result, plan = delivered(source, container=container)
    assert {note.code for note in plan.notes} >= {"audio-dropped"}
    with Image.open(result) as made:
        assert (made.format, made.size) == ({"apng": "PNG"}.get(container, container.upper()), (96, 64))
        lengths = []
        for k in range(made.n_frames):
            made.seek(k)
            made.load()
            lengths.append(made.info["duration"])
        # The last picture is there twice: WebP makes one of both.
        assert lengths == ([20] * 16 + [40] if container == "webp" else [20] * 18)


@pytest.mark.parametrize(("container", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("exr", ".exr")])
def test_pictures_come_as_a_zip_with_their_times(
    video: MakeVideo, delivered: Interpolated, container: str, suffix: str, tmp_path: Path
) -> None:
    source = video("delivered.mp4", *SOURCE, "-pix_fmt", "yuv420p", "-c:a", "aac")
    result, plan = delivered(source, container=container)
    with zipfile.ZipFile(result) as made:
        *names, times = made.namelist()
        assert names == [f"frame-{k:08}{suffix}" for k in range(1, 19)]
        lines = made.read(times).decode().splitlines()
        assert lines[1:] == [f"{name},{Fraction(k, 50)}" for k, name in enumerate(names)]
        made.extract(names[0], tmp_path)
    assert not list(result.parent.glob("*.pictures"))
    with av.open(str(tmp_path / names[0])) as picture, av.open(str(source)) as original:
        [got], wanted = picture.decode(video=0), next(original.decode(video=0))
        assert (got.width, got.height) == (96, 64)
        if container != "exr":
            difference = got.to_ndarray(format="rgb24").astype(int) - wanted.to_ndarray(format="rgb24")
            assert np.median(np.abs(difference)) <= 2  # hard edges of colour are as sharp as the scaler
        else:  # linear light: darker in the middle of the range, white and black the same
            light = got.reformat(format="gbrpf32le").to_ndarray()
            assert 0.95 < light.max() < 1.1 and -0.05 < light.min() < 0.05


@pytest.mark.parametrize(
    ("pixels", "options", "made", "codes"),
    [
        ("yuv444p10le", {}, "yuv444p10le", ["pixels-unplayable"]),
        ("yuv444p10le", {"pixel_format": "compatible"}, "yuv420p", ["pixels-depth", "pixels-chroma"]),
        ("yuv422p", {"codec": "av1"}, "yuv420p", ["pixels-chroma"]),
        ("yuv420p", {"pixel_format": "yuv444p10le", "codec": "hevc"}, "yuv444p10le", ["pixels-unplayable"]),
        ("yuv444p12le", {"container": "mkv", "codec": "ffv1"}, "yuv444p10le", ["pixels-depth"]),
    ],
)
def test_pixels_are_those_asked_for_and_notes_say_what_changes(
    video: MakeVideo,
    delivered: Interpolated,
    pixels: str,
    options: dict[str, str],
    made: str,
    codes: list[str],
) -> None:
    source = video(f"{pixels}.mkv", "-c:v", "ffv1", "-pix_fmt", pixels, "-frames:v", "4")
    result, plan = delivered(source, **options)
    assert [note.code for note in plan.notes] == codes
    with av.open(str(result)) as file:
        assert next(file.decode(video=0)).format.name == made


@pytest.fixture
def full_range(video: MakeVideo) -> Path:
    """Black, dark and white, in codes from 0 to 255."""
    shades = "geq=lum='if(lt(X,32),0,if(lt(X,64),20,255))':cb=128:cr=128"
    filters = f"format=yuv444p,setparams=range=full:colorspace=bt709,{shades}"
    return video("full.mp4", "-vf", filters, "-c:v", "libx264", "-qp", 0, "-pix_fmt", "yuvj444p")


def test_lossless_video_keeps_full_range(full_range: Path, delivered: Interpolated) -> None:
    assert probe(full_range).full_range
    result, _ = delivered(full_range, container="mkv", codec="ffv1")
    assert probe(result).full_range
    frames = decoded(result, "yuv444p")[::2]
    assert all(map(np.array_equal, frames, decoded(full_range, "yuvj444p")))


def test_what_becomes_of_full_range_and_of_rgb_is_said(
    full_range: Path, video: MakeVideo, delivered: Interpolated
) -> None:
    def said(source: Path, **options: str) -> tuple[bool, bool]:
        result, plan = delivered(source, **options)
        return probe(result).full_range, "pixels-range" in {note.code for note in plan.notes}

    rgb = video("rgb.mov", "-c:v", "png", "-pix_fmt", "rgb24", "-frames:v", 3)
    gray = video("gray.mov", "-c:v", "png", "-pix_fmt", "gray", "-frames:v", 3)
    assert said(full_range) == said(gray) == (True, False)
    assert said(full_range, container="mov", codec="prores") == said(rgb) == (False, True)


@pytest.mark.parametrize("container", ["gif", "apng", "webp", "png", "jpeg"])
def test_pictures_of_full_range_have_its_light(
    full_range: Path, delivered: Interpolated, tmp_path: Path, container: str
) -> None:
    result, _ = delivered(full_range, container=container, duration="0.08")
    if zipfile.is_zipfile(result):
        with zipfile.ZipFile(result) as pictures:
            result = Path(pictures.extract(pictures.namelist()[0], tmp_path))
    with Image.open(result) as picture:
        shades = np.asarray(picture.convert("L"))[32, [16, 48, 80]]
    assert np.abs(shades.astype(int) - [0, 20, 255]).max() <= 3


@pytest.mark.parametrize("turn", ["90", "-90", "180", "90 hflip", "0 vflip"])
def test_pictures_are_upright_and_of_square_pixels(
    video: MakeVideo, delivered: Interpolated, tmp_path: Path, turn: str
) -> None:
    degrees, *flips = turn.split()
    flip = ["-display_" + name for name in flips]
    upright = video(
        "sar.mp4", *SOURCE[:4], "-vf", "setsar=3/2", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-an"
    )
    turned = video(f"{turn}.mp4", "-display_rotation", degrees, *flip, "-i", upright, "-c", "copy")
    wanted = video(
        f"{turn}.png", "-i", turned, "-frames:v", 1, "-vf", "scale=iw*max(sar\\,1):ih*max(1/sar\\,1)"
    )
    result, _ = delivered(turned, container="png", duration="0.08")
    with zipfile.ZipFile(result) as pictures:
        first = pictures.extract(pictures.namelist()[0], tmp_path)
    with Image.open(first) as got, Image.open(wanted) as shown:
        assert got.size == shown.size == ((64, 144) if degrees.endswith("90") else (144, 64))
        difference = np.asarray(got.convert("RGB")).astype(int) - np.asarray(shown.convert("RGB"))
    assert np.median(np.abs(difference)) <= 3


@pytest.mark.parametrize(
    ("pixels", "codec", "profile"),
    [
        ("yuva444p10le", "prores", "ap4h"),
        ("yuv444p10le", "prores", "ap4h"),
        ("yuv422p10le", "prores", "apch"),
        ("yuv444p10le", "dnxhr", "DNXHR 444"),
        ("yuv422p10le", "dnxhr", "DNXHR HQX"),
    ],
)
def test_studio_codecs_have_the_profile_of_the_pixels_that_the_source_has_already(
    video: MakeVideo, delivered: Interpolated, pixels: str, codec: str, profile: str
) -> None:
    large = ("-f", "lavfi", "-i", "testsrc2=size=256x120:rate=25:duration=0.08")
    source = video(f"{pixels}.mkv", *large, "-c:v", "ffv1", "-pix_fmt", pixels)
    result, _ = delivered(source, container="mov", codec=codec)
    with av.open(str(result)) as file:
        context = file.streams.video[0].codec_context
        assert profile in (
            context.codec_tag,
            context.profile,
        )  # QuickTime tells the profiles of ProRes by tags
        assert next(file.decode(video=0)).format.name.startswith(pixels.removesuffix("10le"))


def test_a_plan_is_refused_by_releases_that_would_make_something_else(clip: Path) -> None:
    def version(**options: object) -> int:
        plan = JobPlan.make(clip, probe(clip), parse_options(options), segment_frames=96)
        return int(json.loads(plan.to_json())["version"])

    assert version() == 1
    assert {version(container="mkv"), version(pixel_format="yuv444p"), version(max_bitrate="1M")} == {FOURTH}


@pytest.mark.parametrize(
    ("container", "rate", "codes"),
    [
        ("mp4", "59.94", []),
        ("mkv", "50", []),
        ("mkv", "59.94", ["times-rounded"]),
        ("gif", "100", ["pixels-palette", "times-unplayable"]),
    ],
)
def test_a_coarse_clock_is_named(info: VideoInfo, container: str, rate: str, codes: list[str]) -> None:
    bare = replace(info, audio=(), subtitles=(), others=())
    options = parse_options({"container": container, "target_fps": rate})
    assert [note.code for note in choose(bare, options, options.rate).notes] == codes


def test_an_odd_size_is_made_even_without_a_black_line(video: MakeVideo, delivered: Interpolated) -> None:
    white = ("-f", "lavfi", "-i", "color=white:size=97x65:rate=25:duration=0.12")
    source = video("odd.mkv", *white, "-c:v", "ffv1", "-pix_fmt", "yuv444p")
    result, plan = delivered(source, pixel_format="compatible")
    assert [note.code for note in plan.notes] == ["pixels-chroma", "pixels-padded"]
    with av.open(str(result)) as file:
        frame = next(file.decode(video=0)).to_ndarray()
    assert frame.shape == (66 * 3 // 2, 98)
    assert frame[:66].min() > 225


def test_a_cap_holds_the_bitrate(video: MakeVideo, delivered: Interpolated) -> None:
    noise = (
        "-f",
        "lavfi",
        "-i",
        "nullsrc=size=96x64:rate=25:duration=2,format=gray,geq=random(1)*255:128:128",
    )
    source = video("noise.mkv", *noise, "-c:v", "ffv1", "-pix_fmt", "yuv420p")
    free = delivered(source, segment_frames=200)[0].stat().st_size
    capped, _ = delivered(source, segment_frames=200, max_bitrate="300k")
    most = 2 * 300_000 + 150_000  # bits in two seconds, and half a second's at once
    assert free * 8 > 1.5 * most and capped.stat().st_size * 8 < 1.05 * most


#: They make videos of their own, or ask for a kind of result by its name.
COMMANDS = {"bench", "doctor", "cli.py", "compare.py", "comparison.py"}


@pytest.mark.parametrize(
    ("word", "knows"),
    [
        *(
            ("libx264", "codecs.py"),
            ("h264_metadata", "codecs.py"),
            ('"mp4"', "codecs.py containers.py delivery.py"),
        ),
        *(("mov_text", "containers.py"), ("movflags", "containers.py"), ("video/mp4", ""), ('".mp4"', "")),
    ],
)
def test_no_other_module_knows_what_comes_out(word: str, knows: str) -> None:
    folder = Path(worker.__file__).parent
    modules = [path for path in folder.rglob("*.py") if not COMMANDS & set(path.parts)]
    assert sorted(path.name for path in modules if word in path.read_text()) == knows.split()
