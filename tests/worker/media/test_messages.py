"""What describes the pictures, scene by scene, comes along with them, or is named with the time at which it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.sidedata.sidedata import Type as SideData

from service.api.options import parse_options
from tests.worker.conftest import Interpolated, MakeVideo
from worker.media.choose import choose
from worker.media.messages import (
    ATSC,
    CAPTIONS,
    KINDS,
    USER_DATA,
    apart,
    kind,
    of_frames,
    packed,
    read,
    together,
    unpacked,
    written,
)
from worker.media.sandbox import probe

FRAMES = 10
LIGHT = next(mark for mark, name in KINDS.items() if name == "DYNAMIC_HDR_PLUS")
AFD = next(mark for mark, name in KINDS.items() if name == "AFD")
MADE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.4", "-g", 5, "-bf", 2)
CODECS = {"hevc": ("libx265", "-x265-params", "log-level=none"), "av1": ("libsvtav1",), "h264": ("libx264",)}


def light(number: int) -> bytes:
    """HDR10+ of a picture (SMPTE ST 2094-40): one window, whose brightest parts grow with ``number``."""
    fields = [(1, 8), (1, 2), (400, 27), (0, 1)]
    fields += [(1000 * number + k, 17) for k in range(3)]
    fields += [(number, 17), (1, 4), (50, 7), (0, 17), (0, 10), (0, 1), (0, 1), (0, 1)]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 8)
    return LIGHT + int(bits, 2).to_bytes(len(bits) // 8)


@pytest.fixture
def described(video: MakeVideo, tmp_path: Path) -> Callable[..., Path]:
    """Makes a video of HDR10 whose frames carry HDR10+ from ``first`` on, each its own."""

    def make(codec: str, first: int = 0, suffix: str = "mp4") -> Path:
        path = tmp_path / f"described.{suffix}"
        encoder, *more = CODECS[codec]
        pixels = ("-pix_fmt", "yuv420p10le", "-color_trc", "smpte2084", "-color_primaries", "bt2020")
        plain = video(f"{codec}.mp4", *MADE, "-c:v", encoder, *more, *pixels, "-colorspace", "bt2020nc")
        with av.open(str(plain)) as source, av.open(str(path), "w") as made:
            stream = made.add_stream_from_template(source.streams.video[0], opaque=True)
            packets = [packet for packet in source.demux(video=0) if packet.size]
            order = sorted(packet.pts or 0 for packet in packets)
            for packet in packets:
                number = order.index(packet.pts or 0)
                new = av.Packet(written(bytes(packet), [light(number)] if number >= first else [], codec))
                new.is_keyframe, new.time_base, new.stream = packet.is_keyframe, packet.time_base, stream
                new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
                made.mux(new)
        return path

    return make


def seen(path: Path) -> list[bytes]:
    """What FFmpeg's decoder reads of each frame."""
    with av.open(str(path)) as file:
        frames = [frame.side_data.get(SideData.DYNAMIC_HDR_PLUS) for frame in file.decode(video=0)]
    return [b"" if data is None else bytes(data) for data in frames]


@pytest.mark.parametrize(
    ("source", "container", "codec"),
    [("hevc", "mp4", "hevc"), ("hevc", "mkv", "av1"), ("av1", "mp4", "hevc")],
)
def test_new_frames_have_the_light_of_the_frame_before(
    described: Callable[..., Path],
    delivered: Interpolated,
    source: str,
    container: str,
    codec: str,
) -> None:
    path = described(source)
    expected = seen(path)
    assert all(expected) and len(set(expected)) == FRAMES
    result, plan = delivered(
        path, segment_frames=8 if codec == "av1" else 99, container=container, codec=codec
    )
    found = seen(result)
    assert found[::2] == found[1::2] == expected
    assert "side-data-dropped" not in {note.code for note in plan.notes}


def test_slow_motion_and_streams_without_times_have_it_too(
    described: Callable[..., Path], video: MakeVideo, delivered: Interpolated
) -> None:
    path = described("hevc")
    bare = video("bare.hevc", "-i", path, "-c", "copy")
    result, _ = delivered(bare, segment_frames=99, codec="hevc", speed="0.5")
    assert seen(result)[::2] == seen(result)[1::2] == seen(path)


def test_what_cannot_come_is_named_with_its_time(described: Callable[..., Path]) -> None:
    path = described("hevc", 5)
    info = probe(path)
    for options in ({"container": "mkv", "codec": "vp9"}, {"codec": "h264"}, {"container": "gif"}):
        delivery = choose(info, parse_options(options), Fraction(50))
        [note] = [note for note in delivery.notes if "HDR10+" in note.text]
        assert (note.code, note.time) == ("side-data-dropped", "1/5")
        assert (options.get("codec") or options["container"]) in note.text


RPU = b"\x00\x00\x00\x09\x7c\x01\x19\x08\x09\x00\x40\x61\x80"  # a unit that begins as Dolby Vision's do


def test_dolby_vision_is_named_wherever_it_begins(video: MakeVideo, tmp_path: Path) -> None:
    encoder, *more = CODECS["hevc"]
    plain = video("dolby.mp4", *MADE, "-c:v", encoder, *more, "-pix_fmt", "yuv420p10le")
    path = tmp_path / "dolby.mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                data = bytes(packet) + (
                    RPU if (packet.pts or 0) * packet.time_base >= Fraction(1, 5) else b""
                )
                new = av.Packet(data)
                new.is_keyframe, new.time_base, new.stream = packet.is_keyframe, packet.time_base, stream
                new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
                made.mux(new)
    info = probe(path)
    [note] = choose(info, parse_options({}), Fraction(50)).notes[-1:]
    assert (note.code, note.time) == ("side-data-dropped", "1/5")
    assert "Dolby Vision" in note.text and "base layer" in note.text


@pytest.mark.parametrize(
    ("profile", "base"),
    [("8.1", "HDR10"), ("8.4", "HLG"), ("7.6", "HDR10"), ("5.0", "wrong"), ("", "base layer")],
)
def test_the_note_on_dolby_vision_says_what_remains(
    described: Callable[..., Path], profile: str, base: str
) -> None:
    info = replace(probe(described("hevc")), side_data=("DOVI_METADATA",), dolby_vision=profile)
    [note] = [
        n for n in choose(info, parse_options({"codec": "hevc"}), Fraction(50)).notes if "Dolby" in n.text
    ]
    assert base in note.text and profile in note.text


def test_the_active_format_of_mpeg_2_comes_into_every_codec() -> None:
    data = USER_DATA + AFD[len(ATSC) :] + b"\x41\xf8"
    message = AFD + b"\x41\xf8"
    assert read(b"\0\0\1\0\0\0" + data + b"\0\0\1\1", "mpeg2video") == [message]
    h264 = b"\0\0\0\2\x09\x10\0\0\0\2\x65\x88"
    assert read(written(h264, [message, CAPTIONS + b"\x41\xff\xfc\0\0\xff"], "h264"), "h264")[0] == message
    frame = b"\x32\2\0\0"
    assert read(written(frame, [message], "av1"), "av1") == [message]


@pytest.mark.parametrize("length", [5, 254, 255, 700])
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_a_message_of_any_length_is_read_as_it_was_written(codec: str, length: int) -> None:
    packet = (
        b"\x32\2\0\0" if codec == "av1" else b"\0\0\0\3\x26\1\0" if codec == "hevc" else b"\0\0\0\2\x65\x88"
    )
    message = LIGHT + b"\0\0\1\0\0\0\3"[:length].ljust(length, b"\0") + b"\x07"
    made = written(packet, [message], codec)
    assert read(made, codec) == [message]
    assert made.endswith(packet) and kind(message) == "DYNAMIC_HDR_PLUS"
    assert codec == "av1" or b"\0\0\1" not in made[4:-7]


def test_what_is_packed_is_unpacked() -> None:
    dated = [(-3, b""), (5, together([b"one", b""]))]
    assert unpacked(packed(dated)) == dated
    assert apart(dated[1][1]) == [b"one", b""]


def test_a_description_holds_until_the_next_one() -> None:
    shown = [Fraction(k, 50) for k in range(6)]
    one, two = LIGHT + b"1", AFD + b"2"
    changes = [
        (Fraction(-1), together([two])),
        (Fraction(1, 25), together([one, two])),
        (Fraction(2, 25), b""),
    ]
    both = ("AFD", "DYNAMIC_HDR_PLUS")
    assert of_frames(changes, shown, both) == {0: [two], 1: [two], 2: [one, two], 3: [one, two]}
    assert of_frames(changes, shown, ("DYNAMIC_HDR_PLUS",)) == {2: [one], 3: [one]}
