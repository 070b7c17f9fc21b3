"""What the first frame says."""

from __future__ import annotations

from base64 import b64decode

import pytest
from av import CodecContext, Packet, VideoFormat

from tests.worker.conftest import MakeVideo
from tests.worker.media.conftest import H264
from worker.media.frame import depth_of, working_format
from worker.media.sandbox import picture


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
    [frame] = CodecContext.create("mjpeg", "r").decode(Packet(b64decode(picture(path)["picture"] or "")))
    assert (frame.width, frame.height) == size
    shown = frame.to_ndarray(format="rgb24").astype(int)
    first, last = shown[size[1] // 4 * 3, size[0] // 4], shown[size[1] // 4, size[0] // 4 * 3]
    if name == "turned.mp4":  # counterclockwise: what was left is below
        first = shown[-10, size[0] // 2]
    assert first == pytest.approx([254, 0, 0], abs=6) and last == pytest.approx([255, 255, 255], abs=9)


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
    depth = depth_of(VideoFormat(pixel_format))
    assert working_format(pixel_format, *size, depth) == expected
