"""Videos that are transparent in places: nothing of what lies under a transparent pixel is seen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dain_core.runtime.color import ColorSpec
from dain_core.runtime.engine import Interpolator
from dain_core.runtime.pixels import PixelFormat
from service.api.options import parse_options
from tests.worker.conftest import Average, Done, Interpolate, Interpolated, MakeVideo, decoded
from worker import pipeline
from worker.media import ffmpeg
from worker.media.errors import MediaError
from worker.media.sandbox import probe
from worker.plan import JobPlan
from worker.transfer import Transfer

# A third is transparent over something bright, a third is half so, a third is opaque.
PARTS = "geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='if(lt(X,32),0,if(lt(X,64),128,255))'"
MADE = ("-f", "lavfi", "-i", f"testsrc2=size=96x64:rate=25:duration=0.2,format=rgba,{PARTS}")


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vp9.webm", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-lossless", "1")),
        ("prores.mov", ("-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le")),
        ("qtrle.mov", ("-c:v", "qtrle")),
        ("png.mov", ("-c:v", "png")),
        ("ffv1.mkv", ("-c:v", "ffv1", "-pix_fmt", "yuva444p")),
        ("clear.gif", ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse")),
    ],
)
def test_what_is_transparent_is_background(
    video: MakeVideo, interpolated: Interpolate, name: str, arguments: tuple[str, ...]
) -> None:
    source = video(name, *MADE, *arguments)
    info = probe(source)
    assert (info.alpha, info.transparent) == (True, True)
    frames = pictures(interpolated(source, factor=2, quality=0, background="#2040c0"))
    assert len(frames) == 10
    for frame in frames:
        assert np.abs(frame[:, :30] - (0x20, 0x40, 0xC0)).max() <= 3


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [
        ("webm", "vp9", "yuva420p"),
        ("mov", "prores", "yuva444p10le"),
        ("mkv", "ffv1", "yuva444p"),
        ("gif", "gif", "rgba"),
    ],
)
def test_alpha_comes_along_where_the_result_can_hold_it(
    video: MakeVideo, interpolated: Interpolate, container: str, codec: str, pixels: str
) -> None:
    source = video("qtrle.mov", *MADE, "-c:v", "qtrle")
    result = interpolated(source, factor=2, quality=0, container=container, codec=codec, enhance="sharpen")
    info = probe(result)
    assert (info.alpha, info.transparent) == (True, True)
    decoder = ("-c:v", "libvpx-vp9") if codec == "vp9" else ()
    command = [
        ffmpeg.binary(),
        "-v",
        "error",
        *decoder,
        "-i",
        result,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgba",
        "-",
    ]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    alpha = np.frombuffer(data, np.uint8).reshape(-1, 64, 96, 4)[..., 3].astype(int)
    assert len(alpha) >= 9
    assert np.abs(alpha[:, :, :30]).max() <= 2 and alpha[:, :, 66:].min() >= 253
    assert codec == "gif" or np.abs(alpha[:, :, 36:60] - 128).max() <= 3


def test_alpha_moves_as_the_picture_does() -> None:
    """The edge of a thing and of its alpha are at one place in a new frame."""
    generator = torch.Generator().manual_seed(2)
    texture = torch.rand(1, 3, 16, 16, generator=generator)
    texture = torch.nn.functional.interpolate(texture, size=(64, 64), mode="bicubic").clamp(0, 1) * 0.6 + 0.4
    lite = Interpolator.load("dain-lite", device="cpu")
    frames, alphas = [], []
    for place in (20, 28, 36):
        alphas.append(torch.zeros(1, 1, 96, 128))
        frames.append(torch.zeros(1, 3, 96, 128))
        alphas[-1][..., 16:80, place : place + 64] = 1
        frames[-1][..., 16:80, place : place + 64] = texture
    pair = lite.pair(lite.frame(frames[0]), lite.frame(frames[2]))
    moved = lite.moved(pair, alphas[0], alphas[2], 0.5)
    blend = (alphas[0] + alphas[2]) / 2
    assert float((moved - alphas[1]).abs().mean()) < 0.25 * float((blend - alphas[1]).abs().mean())
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1


def test_hidden_colour_does_not_reach_what_is_seen() -> None:
    pixels = PixelFormat.named("yuva444p")
    transfer = Transfer(torch.device("cpu"), pixels, ColorSpec("bt709", False))
    planes = [np.full((8, 8), code, np.uint8) for code in (180, 90, 200, 255)]
    planes[3][:, :4] = 0
    uploaded = transfer.upload(planes)
    rgb, alpha = transfer.rgb(uploaded), transfer.alpha(uploaded)
    assert alpha is not None and not rgb[..., :4].any()
    back = transfer.download(Done(rgb), None, alpha)
    assert [
        np.abs(ours[:, 4:].astype(int) - plane[:, 4:]).max() <= 1
        for ours, plane in zip(back, planes, strict=True)
    ]
    assert not back[3][:, :4].any()


def test_opaque_pixels_stay_and_others_are_mixed(video: MakeVideo, interpolated: Interpolate) -> None:
    source = video("mixed.mkv", *MADE, "-c:v", "ffv1", "-pix_fmt", "yuva444p")
    plain = video("plain.mkv", *MADE, "-c:v", "ffv1", "-pix_fmt", "yuv444p")
    result = interpolated(source, factor=2, quality=0, background="white")
    before = np.stack(decoded(plain, "yuv444p")).reshape(-1, 3, 64, 96).astype(int)
    after = np.stack(decoded(result, "yuv444p")).reshape(-1, 3, 64, 96).astype(int)[::2]
    assert np.array_equal(after[..., 64:], before[..., 64:])
    white = np.array((235, 128, 128)).reshape(3, 1, 1)
    mixed = (before[..., 32:64] * 128 + white * 127) / 255
    assert np.abs(after[..., 32:64] - mixed).max() <= 0.5
    assert np.array_equal(after[..., :32], np.broadcast_to(white, after[..., :32].shape))


def test_a_note_says_so_where_something_is_transparent(video: MakeVideo) -> None:
    def codes(source: Path) -> set[str]:
        plan = JobPlan.make(source, probe(source), parse_options({}), segment_frames=9)
        return {note.code for note in plan.notes}

    clear = video("qtrle.mov", *MADE, "-c:v", "qtrle")
    whole = video("small.gif")
    assert "alpha-dropped" in codes(clear)
    assert probe(whole).alpha and not probe(whole).transparent
    assert "alpha-dropped" not in codes(whole)


def test_what_is_transparent_later_on_has_a_note(video: MakeVideo, average: Average, tmp_path: Path) -> None:
    later = PARTS.replace("lt(X,32)", "lt(X,32)*gte(N,5)").replace("lt(X,64)", "lt(X,64)*gte(N,5)")
    made = ("-f", "lavfi", "-i", f"testsrc2=size=96x64:rate=25:duration=0.32,format=rgba,{later}")
    source = video("later.mkv", *made, "-c:v", "ffv1", "-pix_fmt", "yuva420p")
    plan = JobPlan.make(source, probe(source), parse_options({}), segment_frames=4)
    assert not probe(source).transparent
    found = []
    for k in range(len(plan.segments)):
        notes = pipeline.render_segment(plan, k, source, tmp_path / f"{k}.mp4", average).notes
        found.append("alpha-dropped" in {note.code for note in notes})
    assert len(found) > 2 and not found[0] and found[-1]
    strict = JobPlan.make(source, probe(source), parse_options({"strict": "true"}), segment_frames=99)
    with pytest.raises(MediaError, match="transparent"):
        pipeline.render_segment(strict, 0, source, tmp_path / "0.mp4", average)


def test_an_avif_sequence_keeps_the_alpha_of_its_second_stream(
    video: MakeVideo, delivered: Interpolated
) -> None:
    parts = "[0:v]split[a][b];[a]format=yuv420p[color];[b]format=gray,geq=lum='255*lt(X,48)'[alpha]"
    maps = ("-filter_complex", parts, "-map", "[color]", "-map", "[alpha]", "-color_range:v:1", "pc")
    pattern = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.2")
    source = video("alpha.avif", *pattern, *maps, "-c:v", "libaom-av1", "-cpu-used", 8, "-crf", 10)
    info = probe(source)
    assert info.alpha and info.alpha_stream is not None and not info.others
    result, plan = delivered(source, container="mkv", codec="ffv1", segment_frames=3)
    assert "alpha-dropped" not in {note.code for note in plan.notes} and len(plan.segments) > 1
    opaque = np.stack(decoded(result, "yuva420p"))[:, -96 * 64 :].reshape(-1, 64, 96)
    assert opaque.shape[0] == 10 and opaque[..., :44].min() > 240 and opaque[..., 52:].max() < 15
    plain, plan = delivered(source)
    assert "alpha-dropped" in {note.code for note in plan.notes}
    shown = np.stack(decoded(plain, "yuv420p"))[:, : 96 * 64].reshape(-1, 64, 96)
    assert shown[..., 56:].max() < 24  # the black background
