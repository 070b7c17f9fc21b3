"""Whole videos, from a file to a file: counts, times, pixels, tags and sound of the result."""

from __future__ import annotations

import itertools
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.worker.conftest import Interpolate, MakeVideo, decoded, packet_times
from worker.media import ffmpeg
from worker.media.frame import turned as turned_by
from worker.media.sandbox import probe
from worker.media.times import frame_times
from worker.schedule import Factor, Schedule, TargetRate

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
FILM = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=24000/1001:duration=1.001")
TONE = ("-f", "lavfi", "-i", "sine=sample_rate=48000:duration=0.6")
PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.6")


def test_factor_two_and_three(video: MakeVideo, interpolated: Interpolate) -> None:
    source = video("even.mp4", *H264, "-bf", "3")
    for factor in (2, 3):
        result = interpolated(source, factor=factor)
        assert packet_times(result) == [Fraction(k, 25 * factor) for k in range(15 * factor)]
        assert len(decoded(result, "yuv420p")) == 15 * factor
        assert probe(result).duration == Fraction(15, 25)


def test_film_to_sixty(video: MakeVideo, interpolated: Interpolate) -> None:
    result = interpolated(video("film.mp4", *FILM, *H264), target_fps="60")
    count = -(-24 * 1001 * 60 // 24000)
    assert packet_times(result) == [Fraction(k, 60) for k in range(count)]
    assert len(decoded(result, "yuv420p")) == count


def test_film_to_the_rate_of_television(video: MakeVideo, interpolated: Interpolate) -> None:
    result = interpolated(video("film.mp4", *FILM, *H264), target_fps="59.94")
    assert packet_times(result) == [Fraction(1001 * k, 60000) for k in range(60)]


@pytest.mark.parametrize("name", ["varying.mp4", "varying.mkv"])
def test_a_varying_rate(video: MakeVideo, interpolated: Interpolate, name: str) -> None:
    kept = "select='not(eq(n,3)+eq(n,4)+eq(n,9))'"
    source = video(name, "-vf", kept, "-fps_mode", "passthrough", *H264, "-bf", "2")
    timeline = frame_times(source)
    times, end = timeline.times, timeline.end
    for options, retime in (({"factor": 2}, Factor(2)), ({"target_fps": 60}, TargetRate(Fraction(60)))):
        result = interpolated(source, **options)
        assert packet_times(result) == [frame.time for frame in Schedule(times, end, retime)]


@pytest.mark.parametrize(
    "expression",
    [
        "if(N,30+N/25,0)",  # a gap of 30 s after the first frame
        "N*10",
        "if(eq(N,14),20,N/25)",  # the last but one is shown for long
        "N*N/100",
        "N/25",
    ],
)
def test_frames_are_as_long_as_they_were_however_uneven(
    video: MakeVideo, interpolated: Interpolate, expression: str
) -> None:
    name = "uneven-" + "".join(filter(str.isalnum, expression))
    plain = video(f"{name}.mkv", "-vf", f"setpts='({expression})/TB'", "-fps_mode", "passthrough", *H264)
    source = video(f"{name}.mp4", "-i", plain, "-c", "copy", "-video_track_timescale", 1000)
    timeline = frame_times(source)
    times, end = timeline.times, timeline.end
    result = interpolated(source, factor=2, segment_frames=12)
    shown = [frame.time - times[0] for frame in Schedule(times, end, Factor(2))]
    made = frame_times(result)
    assert made.times == shown
    assert made.end == end - times[0]
    with av.open(str(result)) as file:
        stream = file.streams.video[0]
        lengths = {
            frame.pts * stream.time_base: frame.duration * stream.time_base for frame in file.decode(stream)
        }
        assert abs(file.duration / av.time_base - (end - times[0])) < Fraction(1, 1000)
    assert lengths == {a: b - a for a, b in itertools.pairwise([*shown, end - times[0]])}


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"speed": "0.25"}, [Fraction(k, 25) for k in range(60)]),  # 25 frames a second, as the source
        ({"speed": "0.4"}, [Fraction(k, 25) for k in range(38)]),  # 0.6 s become 1.5 s
        ({"speed": "1/3", "target_fps": 60}, [Fraction(k, 60) for k in range(108)]),
    ],
)
def test_slow_motion(
    video: MakeVideo, interpolated: Interpolate, options: dict[str, object], times: list[Fraction]
) -> None:
    result = interpolated(video("even.mp4", *H264, "-bf", "3"), **options)
    assert packet_times(result) == times
    assert len(decoded(result, "yuv420p")) == len(times)
    assert frame_times(result).end == Fraction(15, 25) / Fraction(str(options["speed"]))


def test_slow_motion_keeps_every_source_frame_of_a_varying_rate(
    video: MakeVideo, interpolated: Interpolate
) -> None:
    kept = "select='not(eq(n,3)+eq(n,4)+eq(n,9))'"
    source = video("varying.mp4", "-vf", kept, "-fps_mode", "passthrough", *H264, "-bf", "2")
    result = interpolated(source, speed="0.5", quality=0, segment_frames=8)
    assert np.array_equal(decoded(result, "yuv420p")[::2], decoded(source, "yuv420p"))
    times = frame_times(source).times
    assert packet_times(result)[::2] == [2 * (time - times[0]) for time in times]


def test_slow_motion_begins_with_its_first_frame(video: MakeVideo, interpolated: Interpolate) -> None:
    late = ("-f", "lavfi", "-itsoffset", "0.2", "-i", "testsrc2=size=96x64:rate=25:duration=0.6")
    source = video("late-picture.mkv", *late, *TONE, *H264, "-c:a", "aac")
    assert packet_times(interpolated(source, factor=2))[0] == Fraction(1, 5)
    assert packet_times(interpolated(source, speed="0.5"))[0] == 0


def test_slow_motion_leaves_out_what_has_times_of_its_own(
    video: MakeVideo, interpolated: Interpolate, tmp_path: Path
) -> None:
    with av.open(str(interpolated(annotated(video, tmp_path), speed="0.5"))) as result:
        assert result.metadata["title"] == "A film"
        assert result.chapters() == [] and len(result.streams) == 1


def test_segments_make_the_same_video_as_one(video: MakeVideo, interpolated: Interpolate) -> None:
    source = video("long.mp4", *FILM, *H264, "-bf", "3", "-g", "7")
    whole = interpolated(source, target_fps=60, quality=0)
    pieces = interpolated(source, segment_frames=9, target_fps=60, quality=0)
    assert packet_times(pieces) == packet_times(whole)
    assert np.array_equal(decoded(pieces, "yuv420p"), decoded(whole, "yuv420p"))


@pytest.mark.parametrize(
    ("name", "working", "arguments"),
    [
        ("8.mp4", "yuv420p", H264),
        ("10.mp4", "yuv420p10le", ("-c:v", "libx264", "-pix_fmt", "yuv420p10le")),
        ("422.mkv", "yuv422p10le", ("-c:v", "ffv1", "-pix_fmt", "yuv422p10le")),
        ("444.mkv", "yuv444p", ("-c:v", "ffv1", "-pix_fmt", "yuv444p")),
        ("full.mov", "yuvj420p", ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "2")),
        ("late.ts", "yuv420p", (*H264, "-bf", "2")),
    ],
)
def test_source_frames_reach_the_result_bit_for_bit(
    video: MakeVideo, interpolated: Interpolate, name: str, working: str, arguments: tuple[str, ...]
) -> None:
    source = video(name, *arguments)
    result = interpolated(source, segment_frames=12, factor=2, quality=0)
    assert np.array_equal(decoded(result, working)[::2], decoded(source, working))


def test_ten_bits_stay_ten_bits(video: MakeVideo, interpolated: Interpolate) -> None:
    source = video("10.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p10le")
    with av.open(str(interpolated(source, factor=2))) as result:
        [stream] = result.streams.video
        assert (stream.pix_fmt, stream.profile) == ("yuv420p10le", "High 10")


def test_tags_and_shape_are_carried(video: MakeVideo, interpolated: Interpolate) -> None:
    tags = "colour_primaries=9:transfer_characteristics=16:matrix_coefficients=9:video_full_range_flag=1"
    coded = ("-vf", "setsar=8/9", "-c:v", "libx264", "-pix_fmt", "yuv420p10le")
    source = video("tags.mp4", *coded, "-bsf:v", f"h264_metadata={tags}")
    before, after = probe(source), probe(interpolated(source, factor=2))
    assert (before.primaries, before.transfer, before.matrix, before.full_range) == (9, 16, 9, True)
    assert (after.primaries, after.transfer, after.matrix, after.full_range) == (9, 16, 9, True)
    assert before.sample_aspect_ratio == after.sample_aspect_ratio == Fraction(8, 9)


@pytest.mark.parametrize(
    ("code", "matrix"), [(8, "ycgco"), (10, "bt2020"), (14, "bt2020")], ids=["YCgCo", "constant", "ICtCp"]
)
def test_planes_pass_whatever_their_colours_mean(
    video: MakeVideo, interpolated: Interpolate, code: int, matrix: str
) -> None:
    tag = f"h264_metadata=matrix_coefficients={code}"
    source = video(f"matrix-{code}.mp4", "-c:v", "libx264", "-pix_fmt", "yuv444p", "-bsf:v", tag)
    assert probe(source).color_matrix == matrix
    result = interpolated(source, factor=2, quality=0)
    assert probe(result).matrix == code
    before, after = decoded(source, "yuv444p"), decoded(result, "yuv444p")
    assert np.array_equal(after[::2], before)
    means = (np.add(first, second, dtype=int) / 2 for first, second in itertools.pairwise(before))
    assert max(np.abs(new - mean).max() for new, mean in zip(after[1::2], means, strict=False)) <= 1.5


def test_gray_has_no_matrix_of_rgb(video: MakeVideo, interpolated: Interpolate) -> None:
    source = video("gray.mov", "-vf", "format=gray", "-c:v", "png")
    result = probe(interpolated(source, factor=2))
    assert (result.pixel_format, result.matrix, result.full_range) == ("yuvj420p", 1, True)


def test_whiter_than_white_is_the_same_in_new_frames(video: MakeVideo, interpolated: Interpolate) -> None:
    source = video("whiter.mp4", "-vf", "geq=lum='if(lt(X,48),250,3)':cb=60:cr=200", *H264)
    result = decoded(interpolated(source, factor=2, quality=0), "yuv420p")
    assert all(np.array_equal(frame, result[0]) for frame in result) and set(result[0]) == {3, 60, 200, 250}


def test_untagged_stays_untagged(video: MakeVideo, interpolated: Interpolate) -> None:
    after = probe(interpolated(video("even.mp4", *H264, "-bf", "3"), factor=2))
    assert (after.primaries, after.transfer, after.matrix, after.full_range) == (2, 2, 2, False)


@pytest.mark.parametrize(("degrees", "flip"), [(90, False), (270, False), (180, False), (0, True)])
def test_rotation_is_carried(
    video: MakeVideo, interpolated: Interpolate, tmp_path: Path, degrees: int, flip: bool
) -> None:
    upright = video("even.mp4", *H264, "-bf", "3")
    turned = tmp_path / "turned.mp4"
    with av.open(str(upright)) as given, av.open(str(turned), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        stream.set_display_rotation(degrees, hflip=flip)
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    before, after = probe(turned), probe(interpolated(turned, factor=2))
    assert before.rotation == degrees or flip
    assert after.display_matrix == before.display_matrix != ()
    assert flip or before.display_matrix == turned_by(
        degrees
    )  # which stands in where PyAV tells the angle alone
    assert (after.width, after.height) == (96, 64)


@pytest.mark.parametrize("size", ["95x63", "96x63", "95x64", "1x1", "2x2"])
def test_odd_sizes_stay_what_they_are(video: MakeVideo, interpolated: Interpolate, size: str) -> None:
    filters = f"format=yuv444p,scale={size.replace('x', ':')}"
    source = video(f"{size}.mkv", "-vf", filters, "-c:v", "ffv1", "-pix_fmt", "yuv420p")
    result = interpolated(source, factor=2, quality=0, dedup="off")  # a few pixels look much alike
    info = probe(result)
    assert f"{info.width}x{info.height}" == size
    luma = info.width * info.height
    frames = zip(decoded(result, info.pixel_format)[::2], decoded(source, "yuv420p"), strict=True)
    assert all(np.array_equal(after[:luma], before[:luma]) for after, before in frames)


def test_a_gif_becomes_video(video: MakeVideo, interpolated: Interpolate) -> None:
    source = video("small.gif")
    result = interpolated(source, factor=2, quality=0)
    info = probe(result)
    assert (info.pixel_format, info.matrix, info.full_range, info.frames) == ("yuv444p", 1, False, 30)
    with av.open(str(source)) as given, av.open(str(result)) as made:
        rgb = [next(file.decode(video=0)).to_ndarray(format="rgb24").astype(int) for file in (given, made)]
    assert np.abs(rgb[0] - rgb[1]).mean() < 2


@pytest.mark.parametrize(
    ("name", "late", "codec", "result_codec", "tolerance"),
    [
        ("click.mp4", "0", "aac", "aac", 0),
        ("late-click.mp4", "0.123", "aac", "aac", 0),
        ("late-click.mov", "0.123", "pcm_s16le", "flac", Fraction(1, 48000)),
        ("late-click.mkv", "0.123", "libopus", "opus", Fraction(1, 1000)),  # Matroska counts milliseconds
        ("late-click.ts", "0.2", "mp2", "aac", Fraction(1, 48000)),
        ("late-vorbis.mkv", "0.08", "libvorbis", "aac", Fraction(1, 1000)),
    ],
)
def test_sound_stays_where_it_was_against_the_picture(
    video: MakeVideo,
    interpolated: Interpolate,
    name: str,
    late: str,
    codec: str,
    result_codec: str,
    tolerance: Fraction,
) -> None:
    click = ("-itsoffset", late, "-f", "lavfi", "-i", "aevalsrc='exp(-((t-0.3)*2000)^2)':s=48000:d=0.6")
    source = video(name, *PICTURE, *click, *H264, "-bf", "2", "-c:a", codec)
    result = interpolated(source, segment_frames=12, factor=2)
    assert probe(result).audio[0].codec == result_codec
    offsets = [loudest_moment(path) - frame_times(path).times[0] for path in (source, result)]
    assert abs(offsets[0] - offsets[1]) <= tolerance


EARLY_SOUND = ("-map", "1:v", "-map", "0:a")
EARLY_PICTURE = ("-map", "0:v", "-map", "1:a")
BEFORE_ZERO = [
    ("cut.mp4", "aac", (), ("-ss", "0.21"), 0),  # an edit list that begins within a frame, of sound as well
    ("cut.mov", "pcm_s16le", (), ("-ss", "0.21"), 0),
    ("offsets.mp4", "aac", ("-movflags", "+negative_cts_offsets"), (), 0),
    ("delay.mp4", "aac", ("-use_editlist", "0"), (), 0),  # of B-frames
    ("sound.mp4", "aac", EARLY_SOUND, ("-itsoffset", "-0.1"), 0),
    ("picture.mp4", "aac", EARLY_PICTURE, ("-itsoffset", "-0.1"), 0),
    ("picture.ts", "aac", EARLY_PICTURE, ("-itsoffset", "-0.1"), 0),
    ("sound.mkv", "aac", EARLY_SOUND, ("-itsoffset", "-0.1"), Fraction(1, 1000)),  # which counts milliseconds
    ("picture.mkv", "aac", EARLY_PICTURE, ("-itsoffset", "-0.1"), Fraction(1, 1000)),
]


@pytest.mark.parametrize(("name", "codec", "written", "read", "tolerance"), BEFORE_ZERO)
def test_sound_stays_to_the_sample_where_a_file_begins_before_its_zero(
    video: MakeVideo,
    interpolated: Interpolate,
    name: str,
    codec: str,
    written: tuple[str, ...],
    read: tuple[str, ...],
    tolerance: Fraction,
) -> None:
    click = ("-f", "lavfi", "-i", "aevalsrc='exp(-((t-0.4)*2000)^2)':s=48000:d=0.6")
    whole = video("whole.mov", *PICTURE, *click, *H264, "-bf", "3", "-c:a", codec)
    kept = ("-avoid_negative_ts", "disabled") if name.endswith("mkv") else ()
    source = video(name, *read, "-i", whole, "-i", whole, "-c", "copy", *written, *kept)
    result = interpolated(source, segment_frames=99, audio="best")
    offsets = [loudest_moment(path) - frame_times(path).times[0] for path in (source, result)]
    assert abs(offsets[0] - offsets[1]) <= tolerance


def loudest_moment(path: Path) -> Fraction:
    """When the sample of the largest value is heard."""
    heard: list[tuple[float, Fraction]] = []
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(float)).reshape(-1)
            peak = int(samples.argmax())
            heard.append((samples[peak], frame.pts * frame.time_base + Fraction(peak, frame.sample_rate)))
    return max(heard)[1]


@pytest.mark.parametrize(
    ("codec", "samples", "layout"),
    [("pcm_s16le", "s16", "stereo"), ("pcm_s24le", "s32", "5.1"), ("wavpack", "s16p", "stereo")],
)
def test_lossless_sound_loses_nothing(
    video: MakeVideo, interpolated: Interpolate, codec: str, samples: str, layout: str
) -> None:
    noise = ("-f", "lavfi", "-i", "anoisesrc=duration=0.6:seed=1", "-af", f"aformat=channel_layouts={layout}")
    source = video(f"lossless-{codec}.mkv", *PICTURE, *noise, *H264, "-c:a", codec, "-sample_fmt", samples)
    result = interpolated(source, factor=2)
    assert np.array_equal(heard(source), heard(result))


def heard(path: Path) -> np.ndarray:
    """The samples of the first sound track, as 32 bits."""
    command = [ffmpeg.binary(), "-v", "error", "-i", str(path), "-map", "0:a:0", "-f", "s32le", "-"]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.int32)


def test_copied_sound_is_the_same_packets(video: MakeVideo, interpolated: Interpolate) -> None:
    source = video("tone.mp4", *PICTURE, "-itsoffset", "0", *TONE, *H264, "-c:a", "aac")
    result = interpolated(source, factor=2)
    packets = []
    for path in (source, result):
        with av.open(str(path)) as file:
            packets.append([bytes(packet) for packet in file.demux(audio=0) if packet.size])
    assert packets[0] == packets[1]
    assert packet_times(result, "audio") == packet_times(source, "audio")


def test_sound_can_be_left_out(video: MakeVideo, interpolated: Interpolate) -> None:
    source = video("tone.mp4", *PICTURE, "-itsoffset", "0", *TONE, *H264, "-c:a", "aac")
    assert probe(interpolated(source, factor=2, audio="none")).audio == ()


def annotated(video: MakeVideo, tmp_path: Path) -> Path:
    """A video with sound, a subtitle, a chapter and a title."""
    text, chapters = tmp_path / "text.srt", tmp_path / "chapters.txt"
    text.write_text("1\n00:00:00,100 --> 00:00:00,400\nHello\n")
    chapters.write_text(
        ";FFMETADATA1\ntitle=A film\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=300\ntitle=One\n"
    )
    inputs = (*TONE, "-i", text, "-i", chapters, "-map", "0", "-map", "1", "-map", "2", "-map_metadata", "3")
    return video("more.mkv", *PICTURE, *inputs, "-c:a", "aac", "-c:s", "srt", *H264)


def test_subtitles_chapters_and_metadata_are_carried(
    video: MakeVideo, interpolated: Interpolate, tmp_path: Path
) -> None:
    source = annotated(video, tmp_path)
    with av.open(str(interpolated(source, factor=2))) as result:
        assert result.metadata["title"] == "A film"
        assert [chapter["metadata"]["title"] for chapter in result.chapters()] == ["One"]
        [subtitle] = result.streams.subtitles
        packets = [packet for packet in result.demux(subtitle) if packet.size > 2]
        assert [packet.pts * packet.time_base for packet in packets] == [Fraction(1, 10)]


def test_a_real_clip_with_b_frames_and_a_cut(
    video: MakeVideo, interpolated: Interpolate, bikes: Path
) -> None:
    source = video("bikes.mp4", "-i", bikes, "-frames:v", 76, "-c", "copy")  # up to the second cut
    result = interpolated(source, segment_frames=100, factor=2, quality=0)
    assert packet_times(result) == [Fraction(k, 50) for k in range(152)]
    assert np.array_equal(decoded(result, "yuv420p")[::2], decoded(source, "yuv420p"))
