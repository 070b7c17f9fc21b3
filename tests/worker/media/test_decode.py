"""Frames are the same wherever decoding begins."""

from __future__ import annotations

import itertools
import os
import signal
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.worker.conftest import MakeVideo, decoded
from worker.media import ffmpeg
from worker.media.decode import Decoder
from worker.media.errors import MachineError, MediaError
from worker.media.facts import VideoInfo
from worker.media.probe import ONE_VIEW
from worker.media.sandbox import probe
from worker.media.times import DISORDERED, Timeline, frame_times

NOISE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=3,noise=alls=20:allf=t")
TONE = ("-f", "lavfi", "-i", "sine=duration=3")
LONG = Timeline([Fraction(k, 25) for k in range(75)], Fraction(3))
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


def frames(path: Path, first: int, last: int, info: VideoInfo, timeline: Timeline) -> list[np.ndarray]:
    """Source frames ``first`` to ``last``, each as the flat bytes of its planes."""
    with Decoder(path, info, first, last, timeline) as decoder:
        given = list(decoder)
        assert decoder.held == 0
    assert [(frame.index, frame.time) for frame in given] == [
        (k, timeline.times[k]) for k in range(first, last + 1)
    ]
    return [np.concatenate([plane.ravel() for plane in frame.planes]) for frame in given]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sound.avi", (*TONE, "-c:v", "mpeg4", "-bf", "2", "-g", "250", "-c:a", "libmp3lame")),
        ("silent.avi", ("-c:v", "mpeg4", "-bf", "2", "-g", "40")),
        ("phone.3gp", ("-vf", "scale=176:144", "-c:v", "h263", "-g", "40")),
        ("media.asf", ("-c:v", "wmv2", "-g", "40")),
        ("mpeg2.mpg", ("-c:v", "mpeg2video", "-bf", "2", "-g", "15")),
        ("mpeg2.ts", ("-c:v", "mpeg2video", "-bf", "2", "-g", "12")),
        ("hidden.webm", ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-g", "40")),
        ("cinepak.avi", ("-pix_fmt", "rgb24", "-c:v", "cinepak", "-g", "40")),
        ("closed.mp4", (*H264, "-bf", "3", "-g", "12")),
        ("open.ts", (*H264, "-g", "20", "-bf", "3", "-x264-params", "open-gop=1")),
        ("long.ts", (*H264, "-bf", "3", "-g", "250")),
        ("refresh.mp4", (*H264, "-g", "20", "-bf", "0", "-intra-refresh", "1")),
    ],
)
def test_frames_are_the_same_wherever_decoding_begins(
    video: MakeVideo, name: str, arguments: tuple[str, ...]
) -> None:
    path = video(f"seek-{name}", *NOISE, *arguments)
    known = info, _ = probe(path), frame_times(path)
    whole = frames(path, 0, 74, *known)
    assert info.is_rgb or np.array_equal(whole, decoded(path, info.working_format))
    for first, last in ((1, 3), (43, 52), (74, 74)):
        assert np.array_equal(frames(path, first, last, *known), whole[first : last + 1])


@pytest.mark.parametrize(
    "codec", [("h263", "-vf", "scale=176:144"), ("libx265", "-x265-params", "log-level=0")]
)
def test_an_index_of_key_frames_that_are_none_misleads_nobody(
    video: MakeVideo, tmp_path: Path, codec: tuple[str, ...]
) -> None:
    name, *options = codec
    whole = video(f"index-{name}.mov", *NOISE, "-pix_fmt", "yuv420p", "-c:v", name, *options, "-g", "25")
    data = bytearray(whole.read_bytes())
    at = data.index(b"stss") + 8
    [count] = struct.unpack(">I", data[at : at + 4])
    assert count > 2
    for place in range(at + 8, at + 4 + 4 * count, 4):
        [sample] = struct.unpack(">I", data[place : place + 4])
        data[place : place + 4] = struct.pack(">I", sample + 5)
    lying = tmp_path / "lying.mov"
    lying.write_bytes(data)
    known = probe(lying), frame_times(lying)
    every = frames(lying, 0, 74, *known)
    assert np.array_equal(every, decoded(whole, "yuv420p"))
    for first in (33, 47):
        assert np.array_equal(frames(lying, first, 74, *known), every[first:])


def test_frames_that_cannot_be_decoded_are_held(video: MakeVideo) -> None:
    whole = video("pictures.mkv", "-c:v", "ffv1", "-slicecrc", "1")
    timeline = Timeline([Fraction(k, 25) for k in range(20)], Fraction(20, 25))
    with Decoder(whole, probe(whole), 0, 19, timeline) as decoder:  # five more than there are
        given = list(decoder)
    assert [frame.index for frame in given] == list(range(20))
    assert decoder.held == 5
    assert all(frame.planes is given[14].planes for frame in given[15:])


def test_a_range_without_a_frame_is_damage(video: MakeVideo) -> None:
    whole = video("pictures.mkv", "-c:v", "ffv1", "-slicecrc", "1")
    timeline = Timeline([Fraction(k, 25) for k in range(400)], Fraction(400, 25))
    with Decoder(whole, probe(whole), 300, 310, timeline) as decoder, pytest.raises(MediaError) as caught:
        list(decoder)
    assert caught.value.slug == "damaged-video"


@pytest.mark.parametrize("read", [frame_times, lambda path: list(Decoder(path, probe(path), 0, 74, LONG))])
def test_too_little_memory_is_no_fault_of_the_video(
    video: MakeVideo, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    path = video("seek-silent.avi", *NOISE, "-c:v", "mpeg4", "-bf", "2", "-g", "40")
    monkeypatch.setattr(ffmpeg, "MEMORY_BYTES", 256 << 20)
    with pytest.raises(MachineError, match="ulimit"):
        read(path)


def test_a_decoder_that_the_machine_ends_leaves_no_frames_to_be_held(video: MakeVideo) -> None:
    path = video(
        "large.mkv", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25:duration=2", "-c:v", "ffv1"
    )
    with Decoder(path, probe(path), 0, 49, frame_times(path)) as decoder:
        given = iter(decoder)
        next(given)
        assert decoder._process is not None
        os.kill(decoder._process.pid, signal.SIGKILL)
        with pytest.raises(MachineError, match="ended by the machine"):
            list(given)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_pictures_whose_times_are_in_another_order_all_come_in_their_own(
    video: MakeVideo, tmp_path: Path, codec: str
) -> None:
    whole = video(f"order-{codec}.mp4", *NOISE, "-pix_fmt", "yuv420p", "-c:v", codec, "-bf", "3")
    path = tmp_path / "disordered.mp4"
    with av.open(str(whole)) as given, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.size]
        times = sorted(packet.pts for packet in packets)
        swapped = dict(zip(times, times, strict=True))
        for k in (10, 30, 31, 60):
            swapped[times[k]], swapped[times[k + 1]] = swapped[times[k + 1]], swapped[times[k]]
        for packet in packets:
            packet.pts, packet.stream = max(swapped[packet.pts], packet.dts), stream
            made.mux(packet)
    info, timeline = probe(path), frame_times(path)
    assert timeline.notes == (DISORDERED,)
    assert len(timeline.times) == 75
    assert all(a < b for a, b in itertools.pairwise([*timeline.times, timeline.end]))
    every = decoded(whole, "yuv420p")
    assert np.array_equal(frames(path, 0, 74, info, timeline), every)
    assert np.array_equal(frames(path, 58, 63, info, timeline), every[58:64])


def test_of_a_spatial_video_the_base_view_is_taken() -> None:
    path = Path(__file__).parents[2] / "data/spatial.mov"
    info, timeline = probe(path), frame_times(path)
    assert info.notes == (ONE_VIEW,)
    assert (info.width, info.height, len(timeline.times)) == (1934, 2160, 5)
    assert len(frames(path, 0, 4, info, timeline)) == 5
