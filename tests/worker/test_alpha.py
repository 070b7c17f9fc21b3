"""Videos that are transparent in places: nothing of what lies under a transparent pixel is seen."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from service.api.options import parse_options
from tests.worker.conftest import Interpolate, MakeVideo, decoded
from worker.media.sandbox import probe
from worker.plan import JobPlan

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
