"""Files that are damaged, cut off, or that change their size: what can be decoded is exact, and the rest is said."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from service.api.options import parse_options
from service.jobs.notes import Note
from tests.worker.conftest import Average, MakeVideo, decoded
from worker import pipeline
from worker.media.decode import Decoder
from worker.media.errors import MediaError
from worker.media.sandbox import probe
from worker.media.times import Timeline, frame_times
from worker.plan import JobPlan

NOISE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=2,noise=alls=20:allf=t")
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "2", "-g", "12")


def read(path: Path, first: int = 0) -> tuple[list[np.ndarray], Timeline, list[Note]]:
    """The frames of a video from ``first`` on, their times, and all that is said of them."""
    info, timeline = probe(path), frame_times(path)
    with Decoder(path, info, first, len(timeline.times) - 1, timeline) as decoder:
        frames = [np.concatenate([plane.ravel() for plane in frame.planes]) for frame in decoder]
    return frames, timeline, [*info.notes, *timeline.notes, *decoder.notes]


def codes(notes: Sequence[Note]) -> set[str]:
    return {note.code for note in notes}


def packet_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as file:
        return sorted(
            packet.pts * packet.time_base for packet in file.demux(video=0) if packet.pts is not None
        )


def test_what_is_decoded_of_a_damaged_file_is_exact_and_at_its_time(video: MakeVideo, tmp_path: Path) -> None:
    whole = video("whole.mp4", *NOISE, *H264)
    data = bytearray(whole.read_bytes())
    at = data.index(b"mdat") + len(data) // 2
    data[at : at + 9000] = b"\x55" * 9000
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    frames, timeline, notes = read(damaged)
    assert np.array_equal(frames, decoded(damaged, "yuv420p"))
    places = [packet_times(whole).index(time) for time in timeline.times]
    assert 30 < len(places) < 50
    good = decoded(whole, "yuv420p")
    assert sum(np.array_equal(good[k], frame) for k, frame in zip(places, frames, strict=True)) > 25
    assert "frames-damaged" in codes(notes)

    def lost_in(**options: str) -> list[Note]:
        plan = JobPlan.make(damaged, probe(damaged), parse_options(options), segment_frames=99)
        assert codes(JobPlan.from_json(plan.to_json()).notes) == codes(plan.notes)
        return [note for note in plan.notes if note.code == "frames-lost"]

    [lost] = lost_in()
    assert lost.text.startswith(f"{50 - len(places)} frame") and lost.time
    assert Fraction(lost.time) in {Fraction(k, 25) for k in range(50)} - {*timeline.times}
    assert not lost_in(duration="0.4")  # which ends before any is lost
    assert np.array_equal(read(damaged, 20)[0], frames[20:])


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "avi"])
def test_a_file_that_breaks_off_is_taken_up_to_there(video: MakeVideo, tmp_path: Path, kind: str) -> None:
    whole = video(f"long.{kind}", *NOISE, *H264, *(("-movflags", "+faststart") if kind == "mp4" else ()))
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    frames, timeline, notes = read(cut)
    good = decoded(whole, "yuv420p")
    assert 20 < len(frames) < 40 and np.array_equal(frames, decoded(cut, "yuv420p"))
    same = [np.array_equal(a, b) for a, b in zip(frames, good, strict=False)]
    assert sum(same) >= len(frames) - 3  # the last picture is cut, too
    if kind != "avi":  # which stores no times
        assert [*timeline.times] == sorted({*packet_times(whole)} & {*timeline.times})
    assert ("file-truncated" in codes(notes)) == (kind != "ts")  # which tells not how much there was


@pytest.mark.parametrize("kind", ["ts", "mkv"])
def test_frames_of_another_size_keep_their_shape(
    video: MakeVideo, average: Average, tmp_path: Path, kind: str
) -> None:
    white = "color=white:size={}:rate=25:duration=0.4"
    parts = [
        video(f"{size}.ts", "-f", "lavfi", "-i", white.format(size), "-output_ts_offset", later, *H264)
        for size, later in (("96x64", 0), ("64x64", 0.4), ("128x32", 0.8))
    ]
    source = tmp_path / "sizes.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    if kind == "mkv":
        texts = tmp_path / "parts.txt"
        texts.write_text("".join(f"file '{part}'\n" for part in parts))
        source = video("sizes.mkv", "-f", "concat", "-safe", "0", "-i", texts, "-c", "copy")
    for first in (0, 15):
        frames, timeline, notes = read(source, first)
        lit = [(frame[: 96 * 64].reshape(64, 96) > 128) for frame in frames]
        sizes = [(int(luma.any(axis=1).sum()), int(luma.any(axis=0).sum())) for luma in lit]
        assert sizes == ([(64, 96)] * 10 + [(64, 64)] * 10 + [(24, 96)] * 10)[first:]
        [note] = [note for note in notes if note.code == "size-changes"]
        assert note.text.startswith(f"{20 - max(first - 10, 0)} frames") and "96x64" in note.text
    plan = JobPlan.make(source, probe(source), parse_options({"strict": "true"}), segment_frames=1000)
    with pytest.raises(MediaError) as caught:
        pipeline.render_segment(plan, 0, source, tmp_path / "0.mp4", average)
    assert caught.value.slug == "loss-refused"


def test_each_frame_of_another_size_is_counted_by_one_segment(
    video: MakeVideo, average: Average, tmp_path: Path
) -> None:
    small = (
        "-f",
        "lavfi",
        "-i",
        "color=white:size=64x64:rate=25:duration=0.4",
        "-output_ts_offset",
        0.4,
        *H264,
    )
    large = ("-f", "lavfi", "-i", "color=white:size=96x64:rate=25:duration=0.4", *H264)
    source = tmp_path / "two.ts"
    source.write_bytes(b"".join(video(*each).read_bytes() for each in (("l.ts", *large), ("s.ts", *small))))
    plan = JobPlan.make(source, probe(source), parse_options({}), segment_frames=8)
    parts = range(len(plan.segments))
    notes = [
        note
        for k in parts
        for note in pipeline.render_segment(plan, k, source, tmp_path / "x.mp4", average).notes
    ]
    assert len(parts) > 3
    assert sum(int(note.text.split()[0]) for note in notes if note.code == "size-changes") == 10


def test_a_header_that_lies_changes_nothing(video: MakeVideo, tmp_path: Path) -> None:
    whole = video("whole.mp4", *NOISE, *H264)
    data = bytearray(whole.read_bytes())
    entry = data.index(b"avc1", data.index(b"stsd")) + 28
    data[entry : entry + 4] = struct.pack(">HH", 640, 480)  # the size of the picture
    for box, at in ((b"mvhd", 20), (b"mdhd", 20)):
        place = data.index(box) + at
        data[place : place + 4] = struct.pack(">I", 1 << 20)  # the duration
    lying = tmp_path / "lying.mp4"
    lying.write_bytes(data)
    info = probe(lying)
    assert (info.width, info.height, info.frames, info.duration) == (96, 64, 50, 2)
    assert np.array_equal(read(lying)[0], decoded(whole, "yuv420p"))
