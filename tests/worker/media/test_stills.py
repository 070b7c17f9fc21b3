"""Pictures in a ZIP archive, or in a folder, and animated WebP."""

from __future__ import annotations

import io
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.api.options import parse_options
from service.jobs.stills import archived, in_order
from tests.worker.conftest import Average, Interpolate, Interpolated, MakeVideo, decoded, packet_times
from worker import pipeline
from worker.media import stills
from worker.media.decode import Decoder
from worker.media.errors import MediaError
from worker.media.facts import Choice, Limits
from worker.media.sandbox import probe
from worker.media.times import frame_times
from worker.plan import JobPlan

LINEAR = (
    ",zscale=transferin=iec61966-2-1:transfer=linear:primariesin=709:primaries=709:matrixin=709:matrix=gbr"
)
TWELVE = ("-vf", "trim=end_frame=12", "-c:v", "ffv1", "-pix_fmt", "yuv420p")


def archive_of(video: MakeVideo, folder: Path, suffix: str, *options: str) -> Path:
    """An archive of twelve pictures, not in their order."""
    (folder / "pictures").mkdir()
    made = video("stills.mkv", *TWELVE)
    light = f"{LINEAR},format=gbrpf32le" if suffix == "exr" else ""
    for k in range(12):
        name = folder / "pictures" / f"frame{k}.{suffix}"
        video(
            name,
            "-i",
            made,
            "-vf",
            f"select=eq(n\\,{k}){light}",
            "-frames:v",
            "1",
            *options,
        )
    path = folder / "upload"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/frame0.png", b"not a picture")
        archive.writestr("read me.txt", b"")
        for picture in sorted((folder / "pictures").iterdir(), reverse=True):
            archive.write(picture, f"clip/{picture.name}")
    return path


@pytest.mark.parametrize(
    ("suffix", "options"), [("tiff", ("-pix_fmt", "yuv420p")), ("jpg", ("-q:v", "2")), ("exr", ())]
)
def test_pictures_come_in_the_order_of_their_numbers(
    video: MakeVideo, tmp_path: Path, suffix: str, options: tuple[str, ...]
) -> None:
    path = archive_of(video, tmp_path, suffix, *options)
    choice = Choice(rate="24")
    info = probe(path, choice=choice)
    timeline = frame_times(path, choice=choice)
    assert (info.container, info.frames, info.average_rate, info.duration) == ("zip", 12, 24, Fraction(1, 2))
    assert timeline.times == [Fraction(k, 24) for k in range(12)] and timeline.end == Fraction(1, 2)
    every = []
    for first, last in ((0, 11), (7, 9)):
        with (
            stills.unpacked(path, tmp_path, range(first, last + 1)) as folder,
            Decoder(folder, info, first, last, timeline) as decoder,
        ):
            given = list(decoder)
        assert [frame.index for frame in given] == list(range(first, last + 1)) and not decoder.held
        every.append([np.concatenate([plane.ravel() for plane in frame.planes]) for frame in given])
    assert np.array_equal(every[1], every[0][7:10])
    if suffix == "exr":
        assert "light-clipped" in [note.code for note in info.notes]
        luma = [frame[: 96 * 64] for frame in decoded(video("stills.mkv", *TWELVE), "yuv420p")]
        given = [frame[: 96 * 64] / 4 for frame in every[0]]
        assert abs(np.mean(given) - np.mean(luma)) < 1.5
    else:
        one = [
            decoded(tmp_path / "pictures" / f"frame{k}.{suffix}", info.working_format)[0] for k in range(12)
        ]
        assert np.array_equal(every[0], one)
    assert not [place for place in tmp_path.iterdir() if place.is_dir() and place.name != "pictures"]


def test_between_two_pictures_come_as_many_as_are_asked_for(
    video: MakeVideo, interpolated: Interpolate, tmp_path: Path
) -> None:
    for name, luma in (("a9.png", 60), ("a10.png", 160)):
        color = f"color=#{luma:02x}{luma:02x}{luma:02x}:size=64x48"
        video(tmp_path / name, "-f", "lavfi", "-i", color, "-frames:v", "1")
    with archived(tmp_path) as archive:
        result = interpolated(archive, factor=4, quality=0, scene_threshold=1, source_fps="10")
    means = [frame[: 64 * 48].mean() for frame in decoded(result, "yuv444p")]
    assert len(means) == 8 and np.allclose(np.diff(means[:5]), np.diff(means[:5])[0], atol=1.5)
    assert means[4:] == [means[4]] * 4 and packet_times(result)[4] == Fraction(1, 10)


def test_a_picture_that_is_damaged_is_held(video: MakeVideo, tmp_path: Path) -> None:
    path = archive_of(video, tmp_path, "png")
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("clip/frame5.png").header_offset + 60
    data = bytearray(path.read_bytes())
    data[at : at + 300] = bytes(300)
    path.write_bytes(data)
    info, timeline = probe(path), frame_times(path)
    with (
        stills.unpacked(path, tmp_path, range(3, 9)) as folder,
        Decoder(folder, info, 3, 8, timeline) as decoder,
    ):
        given = list(decoder)
    assert [frame.index for frame in given] == list(range(3, 9)) and decoder.held == 1
    assert given[2].planes is given[1].planes
    assert [(note.code, note.time) for note in decoder.notes if note.code == "frames-held"] == [
        ("frames-held", "1/5")
    ]


def test_an_archive_is_not_trusted(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n"
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, bytes(32 << 20))
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, png)
    names = ("/etc/a.png", "C:\\b.png")
    climbing = tmp_path / "climbing.zip"
    with zipfile.ZipFile(climbing, "w") as archive:
        for name in names:
            archive.writestr(name, png)
    mixed = tmp_path / "mixed.zip"
    with zipfile.ZipFile(mixed, "w") as archive:
        for name in ("a.png", "b.jpg"):
            archive.writestr(name, png)
    for path, slug in (
        (bomb, "limit-exceeded"),
        (packed, "unreadable-video"),
        (mixed, "unreadable-video"),
        (climbing, "damaged-video"),
    ):
        with pytest.raises(MediaError) as caught:
            probe(path)
        assert caught.value.slug == slug
    place = tmp_path / "place"
    place.mkdir()
    with stills.unpacked(climbing, place, [0, 1]) as folder:
        assert sorted(file.name for file in folder.iterdir()) == ["00000000", "00000001"]
    with pytest.raises(MediaError, match="2 pictures"):
        probe(climbing, Limits(max_frames=1))


def test_numbers_in_names_count_as_numbers() -> None:
    assert in_order(["b2", "b10", "a3", "b02"]) == ["a3", "b02", "b2", "b10"]


@pytest.mark.parametrize("lossless", [0, 1])
def test_animated_webp_has_its_frames_at_their_times(
    video: MakeVideo, interpolated: Interpolate, lossless: int
) -> None:
    path = video(f"moving{lossless}.webp", "-c:v", "libwebp_anim", "-lossless", str(lossless), "-loop", "0")
    info, timeline = probe(path), frame_times(path)
    assert (info.container, info.width, info.height, info.frames) == ("webp_anim", 96, 64, 15)
    assert timeline.times == [Fraction(k, 25) for k in range(15)] and timeline.end == Fraction(15, 25)
    with Decoder(path, info, 5, 14, timeline) as decoder:
        assert len(list(decoder)) == 10 and not decoder.held
    assert packet_times(interpolated(path, factor=2)) == [Fraction(k, 50) for k in range(30)]


def test_animated_webp_may_be_transparent_later_on(video: MakeVideo) -> None:
    later = "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='if(gte(N,2)*lt(X,32),0,255)'"
    made = ("-f", "lavfi", "-i", f"testsrc2=size=96x64:rate=25:duration=0.2,{later}")
    path = video("later.webp", *made, "-c:v", "libwebp_anim", "-lossless", "0")
    info, timeline = probe(path), frame_times(path)
    assert info.alpha and not info.transparent
    with Decoder(path, info, 0, 4, timeline) as decoder:
        assert [int(frame.planes[3].min()) for frame in decoder] == [255, 255, 0, 0, 0]


def test_animated_webp_that_breaks_off_has_its_whole_frames(video: MakeVideo, tmp_path: Path) -> None:
    whole = video("moving0.webp", "-c:v", "libwebp_anim", "-lossless", "0", "-loop", "0")
    path = tmp_path / "cut.webp"
    path.write_bytes(whole.read_bytes()[:-2000])
    info, timeline = probe(path), frame_times(path)
    assert 5 < info.frames == len(timeline.times) < 15
    assert [note.code for note in info.notes] == ["file-truncated"] and not probe(whole).notes
    with Decoder(path, info, 0, info.frames - 1, timeline) as decoder:
        assert len(list(decoder)) == info.frames and not decoder.held


def test_pictures_of_an_archive_may_be_transparent_later_on(
    video: MakeVideo, average: Average, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, pixels in (("1.png", "rgb24"), ("2.png", "rgba"), ("3.png", "rgba")):
            look = "format=rgba,geq=r=0:g=255:b=0:a='if(lt(X,32),0,255)'"
            archive.write(video(name, "-frames:v", "1", "-vf", f"{look},format={pixels}"), name)
    plan = JobPlan.make(path, probe(path), parse_options({"quality": "0"}), segment_frames=99)
    notes = pipeline.render_segment(plan, 0, path, tmp_path / "0.mp4", average).notes
    assert [note.code for note in notes] == ["alpha-dropped"]
    luma = decoded(tmp_path / "0.mp4", "yuv444p")[-1][: 96 * 64].reshape(64, 96)
    assert luma[:, :30].max() < 30  # black, and not green


def test_the_picture_of_most_bits_says_how_many_all_have(video: MakeVideo, tmp_path: Path) -> None:
    source = tmp_path / "deep.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for number, pixels in enumerate(("rgb24", "rgb24", "rgb48be")):
            archive.write(video("picture.png", "-frames:v", 1, "-pix_fmt", pixels), f"{number}.png")
        archive.writestr("3.png", b"\xff" * 26)  # which is none
    info = probe(source)
    assert (info.depth, info.working_format, info.width) == (16, "yuv444p10le", 96)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def zipped(path: Path, suffix: str, *pictures: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, data in enumerate(pictures):
            archive.writestr(f"{number}.{suffix}", data)
    return path


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    rows, columns = np.mgrid[0:64, 0:96]
    waves = [128 + 100 * np.sin(columns / 9 + k) * np.cos(rows / (7 + k)) for k in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


@pytest.mark.parametrize(
    ("suffix", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("tif", "TIFF"), ("bmp", "BMP")]
)
def test_pictures_of_which_the_first_is_gray_keep_the_colours_of_the_others(
    photo: Image.Image, delivered: Interpolated, tmp_path: Path, suffix: str, kind: str
) -> None:
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    coloured = saved(photo, kind, **options)
    source = zipped(tmp_path / "gray.zip", suffix, saved(photo.convert("L"), kind), coloured, coloured)
    assert probe(source).working_format == "yuv444p"
    result, _ = delivered(source, container="png", quality=0)
    with zipfile.ZipFile(result) as made, zipfile.ZipFile(source) as pictures:
        for number in range(3):
            got, wanted = made.read(f"frame-{2 * number + 1:08}.png"), pictures.read(f"{number}.{suffix}")
            with Image.open(io.BytesIO(got)) as one, Image.open(io.BytesIO(wanted)) as other:
                difference = np.asarray(one.convert("RGB")).astype(int) - np.asarray(other.convert("RGB"))
            assert np.abs(difference).max() <= 6


@pytest.mark.parametrize(
    ("suffix", "first", "second"),
    [("exr", "grayf32le", "gbrapf32le"), ("dpx", "gray", "rgba"), ("ppm", "rgb24", "rgb48be")],
)
def test_pictures_of_films_and_plain_ones_keep_what_any_has(
    video: MakeVideo, tmp_path: Path, suffix: str, first: str, second: str
) -> None:
    made = [video(f"{pixels}.{suffix}", "-frames:v", 1, "-pix_fmt", pixels) for pixels in (first, second)]
    info = probe(zipped(tmp_path / "both.zip", suffix, *(path.read_bytes() for path in made)))
    assert (info.alpha, info.depth) == ("a" in second, {"exr": 32, "dpx": 8, "ppm": 16}[suffix])
    assert info.working_format.startswith("yuv444p")


@pytest.mark.parametrize(("size", "pixels"), [("800x600", "rgb24"), ("96x64", "pal8")])
def test_a_tiff_tells_at_its_end_that_it_has_colours(
    photo: Image.Image, video: MakeVideo, tmp_path: Path, size: str, pixels: str
) -> None:
    options = ("-frames:v", 1, "-s", size, "-compression_algo", "raw", "-pix_fmt", pixels)
    coloured = video("coloured.tif", *options).read_bytes()
    source = zipped(tmp_path / "both.zip", "tif", saved(photo.convert("L"), "TIFF"), coloured)
    assert probe(source).working_format == "yuv444p"


def test_the_picture_of_finest_colours_says_what_all_have(photo: Image.Image, tmp_path: Path) -> None:
    coarse, fine = saved(photo, "JPEG", subsampling=2), saved(photo, "JPEG", subsampling=0)
    assert probe(zipped(tmp_path / "fine.zip", "jpg", coarse, fine)).working_format == "yuv444p"
    assert probe(zipped(tmp_path / "coarse.zip", "jpg", coarse, coarse)).working_format == "yuv420p"


def test_one_picture_has_colours_and_another_more_bits(photo: Image.Image, tmp_path: Path) -> None:
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    info = probe(zipped(tmp_path / "both.zip", "png", saved(photo, "PNG"), saved(deep, "PNG")))
    assert (info.depth, info.working_format) == (16, "yuv444p10le")


TRANSPARENT = [
    ("webp", "WEBP", {"lossless": True}),
    ("webp", "WEBP", {}),
    ("tif", "TIFF", {}),
    ("png", "PNG", {}),
    ("qoi", "QOI", {}),
]


@pytest.mark.parametrize(("suffix", "kind", "options"), TRANSPARENT, ids=lambda value: str(value))
def test_a_later_picture_of_any_kind_may_be_transparent(
    photo: Image.Image, tmp_path: Path, suffix: str, kind: str, options: dict[str, object]
) -> None:
    through = photo.copy()
    through.putalpha(100)
    first, second = saved(photo, kind, **options), saved(through, kind, **options)
    assert probe(zipped(tmp_path / "later.zip", suffix, first, second)).alpha
    assert not probe(zipped(tmp_path / "opaque.zip", suffix, first, first)).transparent


def test_a_palette_with_a_see_through_colour_is_transparent(photo: Image.Image, tmp_path: Path) -> None:
    through = saved(photo.quantize(16), "PNG", transparency=3)
    assert probe(zipped(tmp_path / "palette.zip", "png", saved(photo, "PNG"), through)).alpha


def test_pictures_that_are_turned_in_several_ways_are_named(photo: Image.Image, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[274] = 6
    upright, other = saved(photo, "JPEG"), saved(photo, "JPEG", exif=turned)
    assert not probe(zipped(tmp_path / "same.zip", "jpg", other, other)).notes
    [note] = probe(zipped(tmp_path / "several.zip", "jpg", upright, other)).notes
    assert "EXIF" in note.text and note.loses


def test_pictures_of_several_sizes_are_named_and_keep_their_shape(
    photo: Image.Image, tmp_path: Path, average: Average
) -> None:
    small = photo.resize((48, 64))
    source = zipped(tmp_path / "sizes.zip", "jpg", *(saved(each, "JPEG") for each in (photo, small, photo)))
    plan = JobPlan.make(source, probe(source), parse_options({}), segment_frames=99)
    notes = pipeline.render_segment(plan, 0, source, tmp_path / "0.mp4", average).notes
    assert [note.code for note in notes] == ["size-changes"]
    luma = decoded(tmp_path / "0.mp4", plan.delivery.pixel_format)[2][: 96 * 64].reshape(64, 96)
    assert luma[:, :20].max() < 40 < luma[:, 30:60].mean()
