"""What the prober says of good files, and of bad ones."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from base64 import b64decode
from fractions import Fraction
from pathlib import Path

import pytest
from av import CodecContext, Packet

from tests.worker.conftest import MakeVideo, packet_times
from worker.media import probe as media
from worker.media.errors import MediaError
from worker.media.facts import Limits, VideoInfo
from worker.media.sandbox import picture, probe
from worker.media.times import Timeline, frame_times

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


def refused(path: Path, limits: Limits | None = None) -> str:
    """The slug of the error; its detail must be sentences, and say what to do."""
    with pytest.raises(MediaError) as caught:
        probe(path, limits or Limits())
        frame_times(path)
    assert caught.value.detail.endswith(".")
    assert caught.value.detail.count(". ") >= 1
    return caught.value.slug


def test_facts_of_an_ordinary_file(video: MakeVideo) -> None:
    sound = ("-f", "lavfi", "-i", "sine=sample_rate=44100:duration=0.6")
    picture = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30000/1001:duration=0.6")
    info = probe(video("ordinary.mp4", *picture, *sound, *H264, "-bf", "2", "-c:a", "aac"))
    assert (info.codec, info.width, info.height) == ("h264", 96, 64)
    assert (info.pixel_format, info.working_format) == ("yuv420p", "yuv420p")
    assert info.average_rate == Fraction(30000, 1001)
    assert (info.frames, info.duration) == (18, 18 * Fraction(1001, 30000))
    assert [(sound.codec, sound.channels, sound.sample_rate) for sound in info.audio] == [("aac", 1, 44100)]
    assert VideoInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("turned.mp4", (*H264, "-vf", "scale=640:320,drawbox=w=iw/2:c=red:t=fill"), (160, 320)),
        ("palette.gif", ("-vf", "scale=100:50,drawbox=w=iw/2:c=red:t=fill"), (100, 50)),
        (
            "rgb.mkv",
            ("-c:v", "ffv1", "-vf", "scale=640:320,drawbox=w=iw/2:c=red:t=fill,format=gbrp10"),
            (320, 160),
        ),
        (
            "wide.mkv",
            ("-c:v", "ffv1", "-vf", "scale=320:320,drawbox=w=iw/2:c=red:t=fill,setsar=2"),
            (320, 160),
        ),
        (
            "full.mkv",
            ("-c:v", "ffv1", "-vf", "drawbox=w=iw/2:c=red:t=fill,scale=640:320:out_range=full"),
            (320, 160),
        ),
    ],
)
def test_the_first_frame_is_drawn_small_and_as_it_is_shown(
    video: MakeVideo, name: str, arguments: tuple[str, ...], size: tuple[int, int]
) -> None:
    white = ("-f", "lavfi", "-i", "color=white:size=96x48:rate=5:duration=0.4")
    path = video(name, *white, *arguments)
    if name == "turned.mp4":
        path = video("upright.mp4", "-display_rotation", "90", "-i", path, "-c", "copy")
    [frame] = CodecContext.create("mjpeg", "r").decode(Packet(b64decode(picture(path))))
    assert (frame.width, frame.height) == size
    shown = frame.to_ndarray(format="rgb24").astype(int)
    first, last = shown[size[1] // 4 * 3, size[0] // 4], shown[size[1] // 4, size[0] // 4 * 3]
    if name == "turned.mp4":  # counterclockwise: what was left is below
        first = shown[-10, size[0] // 2]
    assert first == pytest.approx([254, 0, 0], abs=6) and last == pytest.approx([255, 255, 255], abs=9)


def test_times_with_b_frames_are_those_of_display(video: MakeVideo) -> None:
    path = video("b-frames.mp4", *H264, "-bf", "3", "-x264-params", "b-adapt=0:b-pyramid=strict")
    assert frame_times(path) == Timeline([Fraction(k, 25) for k in range(15)], Fraction(15, 25))


def test_times_of_a_varying_rate_are_read_as_they_are(video: MakeVideo) -> None:
    kept = "select='not(eq(n,3)+eq(n,4)+eq(n,9))'"
    path = video("varying.mp4", "-vf", kept, "-fps_mode", "passthrough", *H264)
    assert frame_times(path).times == [Fraction(k, 25) for k in range(15) if k not in (3, 4, 9)]


def test_an_edit_list_hides_what_is_before_it(video: MakeVideo) -> None:
    whole = video("whole.mp4", *H264, "-g", "100", "-bf", "2")
    cut = video("cut.mp4", "-ss", "0.21", "-i", whole, "-c", "copy")
    info, timeline = probe(cut), frame_times(cut)
    with_discarded = len(packet_times(whole))
    assert info.frames == len(timeline.times) == len(packet_times(cut)) < with_discarded
    assert timeline.times[0] >= 0


def test_transport_streams_start_where_they_start(video: MakeVideo) -> None:
    path = video("late.ts", *H264, "-bf", "2")
    info, timeline = probe(path), frame_times(path)
    assert timeline.times[0] == info.start > 1
    assert len(timeline.times) == 15


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hidden.webm", ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "200k")),
        ("packed.avi", ("-c:v", "mpeg4", "-bf", "2")),
        ("program.mpg", ("-c:v", "mpeg2video", "-bf", "2")),
    ],
)
def test_where_packets_are_not_frames_the_decoder_is_asked(
    video: MakeVideo, name: str, arguments: tuple[str, ...]
) -> None:
    timeline = frame_times(video(name, *arguments))
    assert len(timeline.times) == 15
    gaps = [b - a for a, b in zip(timeline.times, [*timeline.times[1:], timeline.end], strict=True)]
    assert all(abs(gap - Fraction(1, 25)) <= Fraction(1, 1000) for gap in gaps)


@pytest.mark.parametrize(
    ("pixel_format", "size", "expected"),
    [
        ("yuv420p", (96, 64), "yuv420p"),
        ("yuvj420p", (96, 64), "yuv420p"),
        ("nv12", (96, 64), "yuv420p"),
        ("yuva420p", (96, 64), "yuv420p"),
        ("gray", (96, 64), "yuv420p"),
        ("yuv410p", (96, 64), "yuv420p"),
        ("yuv411p", (96, 64), "yuv422p"),
        ("yuyv422", (96, 64), "yuv422p"),
        ("yuv444p", (96, 64), "yuv444p"),
        ("yuv420p10le", (96, 64), "yuv420p10le"),
        ("yuv420p12le", (96, 64), "yuv420p10le"),
        ("p010le", (96, 64), "yuv420p10le"),
        ("yuv422p10le", (96, 64), "yuv422p10le"),
        ("bgra", (96, 64), "yuv444p"),
        ("pal8", (96, 64), "yuv444p"),
        ("gbrp10le", (96, 64), "yuv444p10le"),
        ("yuv420p", (95, 64), "yuv444p"),
        ("yuv420p", (96, 63), "yuv444p"),
        ("yuv422p10le", (96, 63), "yuv422p10le"),
        ("yuv422p", (95, 63), "yuv444p"),
    ],
)
def test_working_format(pixel_format: str, size: tuple[int, int], expected: str) -> None:
    assert media.working_format(pixel_format, *size) == expected


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


def test_a_file_cut_off_is_as_long_as_what_is_left(video: MakeVideo, tmp_path: Path) -> None:
    data = video("whole.mkv", *H264, "-g", "5").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) * 2 // 3])
    assert 3 < probe(path).frames == len(frame_times(path).times) < 15


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


def test_frames_without_times_are_counted(video: MakeVideo) -> None:
    bare = video("bare.h264", *H264)
    assert probe(bare, Limits(max_frames=15)).frames == 15
    assert refused(bare, Limits(max_frames=14)) == "limit-exceeded"


def test_the_still_picture_of_an_animation_is_no_other_stream(video: MakeVideo) -> None:
    moving = video("moving.avif", "-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "yuv420p")
    assert (probe(moving).frames, probe(moving).others) == (15, ())


def test_the_command_answers_in_json_and_exits_well(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    command = [sys.executable, "-m", "worker.media.probe", "probe", str(tmp_path / "text.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["error"]["type"] == "unreadable-video"


def test_reading_times_by_decoding_can_be_stopped(video: MakeVideo) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        frame_times(video("stopped.webm", "-c:v", "libvpx"), check)
    assert calls == 5
