"""Closed captions within pictures come along, each at its time, as FFmpeg's decoders read them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.sidedata.sidedata import Type as SideData

from service.api.options import parse_options
from tests.worker.conftest import Interpolated, MakeVideo, packet_times
from worker.media.captions import MOST, message, of_frames
from worker.media.messages import ATSC, USER_DATA, written
from worker.media.sandbox import probe
from worker.plan import JobPlan

MADE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.8", "-g", 10, "-bf", 2)
ENCODERS = {
    "h264": ("libx264", "mp4"),
    "hevc": ("libx265", "mp4"),
    "mpeg2video": ("mpeg2video", "ts"),
    "av1": ("libsvtav1", "webm"),
}
FIRST = 2  # frame: captions begin after the first one
PADDING = b"\xfc\x80\x80"  # what CEA-608 says when it says nothing


def said(number: int) -> bytes:
    """Two triplets of CEA-608 and CEA-708 for a frame, with zeros that must not look like the start of a unit."""
    return bytes([0xFC, 0x94, number | 1]) + bytes([0xFF, 0, 0]) + bytes([0xFE, 0, number & 3])


def carrying(packet: bytes, triplets: bytes, codec: str) -> bytes:
    if codec != "mpeg2video":
        return written(packet, [message(triplets)], codec)
    slices = packet.index(b"\x00\x00\x01\x01")
    return packet[:slices] + USER_DATA + message(triplets).removeprefix(ATSC) + packet[slices:]


@pytest.fixture
def captioned(video: MakeVideo, tmp_path: Path) -> Callable[..., Path]:
    """Makes a video with captions in all frames but the first two."""

    def make(codec: str, spoken: Callable[[int], bytes] = said) -> Path:
        encoder, suffix = ENCODERS[codec]
        path = tmp_path / f"captioned.{suffix}"
        with (
            av.open(str(video(f"{codec}.{suffix}", *MADE, "-c:v", encoder, "-pix_fmt", "yuv420p"))) as source,
            av.open(str(path), "w") as made,
        ):
            stream = made.add_stream_from_template(source.streams.video[0], opaque=True)
            packets = [packet for packet in source.demux(video=0) if packet.size]
            order = sorted(packet.pts or 0 for packet in packets)
            for packet in packets:
                number = order.index(packet.pts or 0)
                data = bytes(packet)
                if number >= FIRST:
                    data = carrying(data, PADDING + spoken(number), codec)
                new = av.Packet(data)
                new.is_keyframe, new.time_base, new.stream = packet.is_keyframe, packet.time_base, stream
                new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
                made.mux(new)
        return path

    return make


def heard(path: Path) -> list[bytes]:
    """What FFmpeg's decoder reads of each frame."""
    with av.open(str(path)) as file:
        frames = [frame.side_data.get(SideData.A53_CC) for frame in file.decode(video=0)]
    return [b"" if data is None else bytes(data) for data in frames]


CASES = [
    ("h264", "mp4", "h264"),
    ("hevc", "mkv", "hevc"),
    ("mpeg2video", "mov", "h264"),
    ("h264", "mp4", "av1"),
    ("av1", "webm", "av1"),
]


@pytest.mark.parametrize(("source", "container", "codec"), CASES)
def test_captions_are_within_the_frames_of_the_result(
    captioned: Callable[..., Path], delivered: Interpolated, source: str, container: str, codec: str
) -> None:
    path = captioned(source)
    expected = [said(number) if number >= FIRST else b"" for number in range(20)]
    assert heard(path) == [PADDING + each if each else each for each in expected]
    frames = 8 if source == codec == "h264" else 99  # of a segment
    result, plan = delivered(path, segment_frames=frames, container=container, codec=codec)
    found = heard(result)
    assert "captions-dropped" not in {note.code for note in plan.notes}
    assert found[::2] == expected
    assert not any(found[1::2])


@pytest.mark.parametrize("options", [{"target_fps": "10"}, {"start": "0.4", "duration": "0.2"}])
def test_captions_keep_their_order_at_another_rate_and_in_a_part(
    captioned: Callable[..., Path], delivered: Interpolated, options: dict[str, str]
) -> None:
    result, plan = delivered(captioned("h264"), **options)
    numbers = range(10, 15) if plan.options.is_excerpt else range(FIRST, 20)
    assert b"".join(heard(result)) == b"".join(map(said, numbers))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"speed": "0.5"}, "slow motion"),
        ({"container": "gif"}, "gif"),
    ],
)
def test_captions_that_cannot_come_are_named(
    captioned: Callable[..., Path], options: dict[str, str], why: str
) -> None:
    path = captioned("h264")
    plan = JobPlan.make(path, probe(path), parse_options(options), segment_frames=99)
    [note] = [note for note in plan.notes if note.code == "captions-dropped"]
    assert why in note.text


TIMELESS = [("mpeg2video", "mpg"), ("h264", "avi"), ("h264", "h264"), ("mpeg2video", "m2v")]


@pytest.mark.parametrize(("codec", "suffix"), TIMELESS)
def test_captions_of_packets_without_times_come_to_their_frames(
    captioned: Callable[..., Path], video: MakeVideo, delivered: Interpolated, codec: str, suffix: str
) -> None:
    path = video(f"timeless.{suffix}", "-i", captioned(codec), "-c", "copy")
    result, plan = delivered(path, segment_frames=99)
    assert "captions-dropped" not in {note.code for note in plan.notes}
    assert heard(result)[::2] == [said(number) if number >= FIRST else b"" for number in range(20)]


def spoken(first: int, second: int) -> bytes:
    """A triplet of CEA-608, whose bytes have an odd number of ones."""
    return bytes([0xFC, *(each | (0 if each.bit_count() % 2 else 0x80) for each in (first, second))])


#: What is shown from the third frame to the 16th: load, place, two letters, show, clear.
HI = {3: (0x14, 0x20), 4: (0x14, 0x70), 5: (0x48, 0x69), 6: (0x14, 0x2F), 16: (0x14, 0x2C)}
TRACKS = [
    ("mkv", "ffv1", "ass"),
    ("webm", "vp9", "webvtt"),
    ("mp4", "vp9", "mov_text"),
    ("mov", "prores", "eia_608"),
]


@pytest.mark.parametrize(("container", "codec", "track"), TRACKS)
def test_captions_become_a_track_beside_pictures_without_room(
    captioned: Callable[..., Path],
    video: MakeVideo,
    delivered: Interpolated,
    container: str,
    codec: str,
    track: str,
) -> None:
    path = captioned("h264", lambda number: spoken(*HI[number]) if number in HI else PADDING)
    result, plan = delivered(path, segment_frames=99, container=container, codec=codec)
    [note] = [note for note in plan.notes if note.code.startswith("captions")]
    assert note.code == "captions-converted" and "if anything" in note.text  # nobody has listened yet
    [text] = probe(result).subtitles
    assert text.codec == track
    lines = video("said.srt", "-i", result, "-map", "0:s").read_text()
    (begin, end), shown = _times(lines.splitlines()[1]), lines.splitlines()[2]
    assert "Hi" in shown
    assert begin == pytest.approx(6 / 25, abs=0.05)
    if track == "eia_608":  # which goes on as it was said
        end = float(packet_times(result, "subtitles")[-2])  # the last one erases, at the end
    assert end == pytest.approx(16 / 25, abs=0.05)


def test_a_part_begins_with_the_caption_that_is_shown_then(
    captioned: Callable[..., Path], video: MakeVideo, delivered: Interpolated
) -> None:
    path = captioned("h264", lambda number: spoken(*HI[number]) if number in HI else PADDING)
    options = {"container": "mp4", "codec": "vp9", "start": "0.4", "duration": "0.2"}
    result, _ = delivered(path, segment_frames=99, **options)
    lines = video("said.srt", "-i", result, "-map", "0:s").read_text().splitlines()
    assert "Hi" in lines[2]
    assert _times(lines[1]) == pytest.approx([0, 0.2], abs=0.07)  # it ends a thirtieth of a second early


def _times(line: str) -> list[float]:
    return [float(each.strip().replace(",", ".").rpartition(":")[2]) for each in line.split("-->")]


def test_what_is_too_much_for_a_frame_comes_with_the_next() -> None:
    times = [Fraction(k, 25) for k in range(4)]
    much = b"\xfe\x01\x02" * (MOST + 2)
    found = of_frames([(Fraction(-1), b"no"), (Fraction(0), much), (Fraction(1, 25), b"abc")], times)
    assert found == {0: much[: 3 * MOST], 1: much[3 * MOST :] + b"abc"}
