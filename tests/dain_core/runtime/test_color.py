"""Pixel formats, and colours that the standards give in numbers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dain_core.runtime.color import MATRICES, ColorSpec, to_rgb, to_yuv
from dain_core.runtime.pixels import FORMATS, PixelFormat

LIMITED_601, FULL_601 = ColorSpec("bt601", False), ColorSpec("bt601", True)
FULL_YCGCO = ColorSpec("ycgco", True)
LIMITED_709, LIMITED_2020 = ColorSpec("bt709", False), ColorSpec("bt2020", False)
RED, GREEN, BLUE, WHITE, BLACK = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0, 0, 0)


def picture(color: tuple[int, ...]) -> Tensor:
    return torch.tensor(color, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 4, 4)


@pytest.mark.parametrize(
    ("spec", "name", "color", "codes"),
    [
        (LIMITED_601, "yuv420p", RED, (81, 90, 240)),
        (LIMITED_601, "yuv420p", GREEN, (145, 54, 34)),
        (LIMITED_601, "yuv422p", BLUE, (41, 240, 110)),
        (LIMITED_709, "yuv420p", RED, (63, 102, 240)),
        (LIMITED_709, "yuv444p", GREEN, (173, 42, 26)),
        (LIMITED_709, "yuv420p", BLUE, (32, 240, 118)),
        (LIMITED_709, "yuv420p10le", RED, (250, 409, 960)),
        (LIMITED_2020, "yuv420p10le", RED, (294, 387, 960)),
        (LIMITED_709, "yuv420p", WHITE, (235, 128, 128)),
        (LIMITED_709, "yuv420p", BLACK, (16, 128, 128)),
        (LIMITED_2020, "yuv422p10le", WHITE, (940, 512, 512)),
        (FULL_601, "yuv420p", WHITE, (255, 128, 128)),
        (FULL_601, "yuv444p", RED, (76, 85, 255)),
        (FULL_601, "yuv444p10le", WHITE, (1023, 512, 512)),
        (FULL_YCGCO, "yuv444p", RED, (64, 64, 255)),
        (FULL_YCGCO, "yuv420p", GREEN, (128, 255, 128)),
        (FULL_YCGCO, "yuv444p", BLUE, (64, 64, 1)),
        (FULL_YCGCO, "yuv422p", WHITE, (255, 128, 128)),
    ],
)
def test_known_colours(
    spec: ColorSpec, name: str, color: tuple[int, ...], codes: tuple[int, int, int]
) -> None:
    fmt = PixelFormat.named(name)
    planes = to_yuv(picture(color), fmt, spec)
    assert tuple(int(plane[0, 0]) for plane in planes) == codes
    back = to_rgb(planes, fmt, spec)
    assert float((back - picture(color)).abs().max()) < 1.5 / 219 * 2


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("height", "width"), [(32, 48), (17, 23), (1, 1), (2, 3)])
def test_smooth_colours_come_back_within_one_code(
    matrix: str, full_range: bool, name: str, height: int, width: int
) -> None:
    fmt, spec = PixelFormat.named(name), ColorSpec(matrix, full_range)
    top = 2 ** (fmt.depth - 8)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = fmt.plane_shapes(width, height)[1]
    v, u = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    planes = [110 * top + x + y, 120 * top + u - v, 124 * top + v]
    back = to_yuv(to_rgb(planes, fmt, spec), fmt, spec)
    for ours, theirs in zip(back, planes, strict=True):
        assert ours.shape == theirs.shape
        assert int((ours.long() - theirs).abs().max()) <= 1


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_code_comes_back(matrix: str, full_range: bool, name: str) -> None:
    """Also codes that stand for no colour of a screen: whiter than white, blacker than black, more saturated."""
    fmt, spec = PixelFormat.named(name), ColorSpec(matrix, full_range)
    most = 2**fmt.depth - 1
    for codes in ((245, 128, 128), (5, 128, 128), (200, 60, 200), (255, 255, 255), (0, 0, 0), (255, 0, 128)):
        code = [most * value // 255 for value in codes]
        planes = [torch.full(shape, value) for shape, value in zip(fmt.plane_shapes(9, 7), code, strict=True)]
        back = to_yuv(to_rgb(planes, fmt, spec), fmt, spec)
        assert [sorted({*plane.flatten().tolist()}) for plane in back] == [[value] for value in code]


def test_colours_without_a_code_become_the_nearest() -> None:
    fmt = PixelFormat.named("yuv444p")
    for value, luma in ((5.0, 255), (-5.0, 0)):
        planes = to_yuv(torch.full((1, 3, 2, 2), value), fmt, LIMITED_709)
        assert [int(plane[0, 0]) for plane in planes] == [luma, 128, 128]


def test_chroma_lies_on_the_left_column_and_between_the_rows() -> None:
    fmt = PixelFormat.named("yuv420p")
    luma = torch.full((4, 8), 128, dtype=torch.uint8)
    u = torch.full((2, 4), 128, dtype=torch.uint8)
    v = torch.tensor([[100, 110, 120, 130], [140, 150, 160, 170]], dtype=torch.uint8)
    red = to_rgb([luma, u, v], fmt, FULL_601)[0, 0] * 255
    difference = (red - 128) / (2 * (1 - 0.299)) + 128  # the V that each pixel was given
    torch.testing.assert_close(difference[0, :4], torch.tensor([100.0, 105, 110, 115]), atol=1e-3, rtol=0)
    torch.testing.assert_close(difference[:, 0], torch.tensor([100.0, 110, 130, 140]), atol=1e-3, rtol=0)


@given(st.sampled_from(list(FORMATS)), st.integers(1, 99), st.integers(1, 99))
def test_planes_fit_together(name: str, width: int, height: int) -> None:
    fmt = PixelFormat.named(name)
    planes = [np.zeros(shape, fmt.dtype) for shape in fmt.plane_shapes(width, height)]
    assert fmt.frame_bytes(width, height) == sum(plane.nbytes for plane in planes)
    made = to_yuv(torch.zeros(1, 3, height, width), fmt, LIMITED_709)
    assert [plane.shape for plane in made] == [torch.Size(plane.shape) for plane in planes]
    assert made[0].numpy().view(fmt.dtype).dtype == fmt.dtype


def test_ten_bit_samples_come_as_int16_views() -> None:
    fmt = PixelFormat.named("yuv444p10le")
    samples = np.full((2, 2), 940, "<u2"), np.full((2, 2), 512, "<u2"), np.full((2, 2), 512, "<u2")
    planes = [torch.from_numpy(plane.view("<i2")) for plane in samples]
    torch.testing.assert_close(to_rgb(planes, fmt, LIMITED_709), torch.ones(1, 3, 2, 2))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="'nv12' is not supported.*yuv420p"):
        PixelFormat.named("nv12")
    with pytest.raises(ValueError, match="'smpte240m' is none of bt601, bt709, bt2020, ycgco"):
        ColorSpec("smpte240m", False)
    with pytest.raises(ValueError, match="yuv420p planes of 4x4"):
        to_rgb([torch.zeros(4, 4)] * 3, PixelFormat.named("yuv420p"), LIMITED_709)


def test_pixel_formats_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import dain_core.runtime.pixels"
    subprocess.run([sys.executable, "-c", code], check=True)
