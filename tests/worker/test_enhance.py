"""What is done with all frames in the end."""

from __future__ import annotations

import numpy as np
import pytest

from service.api.options import parse_options
from service.jobs.problems import Problem
from tests.worker.conftest import Interpolate, MakeVideo, decoded

LAVFI = ("-f", "lavfi", "-i")
BANDS = "color=gray:size=192x64:rate=25:duration=0.2,geq=lum='100+8*floor(X/32)':cb=128:cr=128,format=yuv420p"
NOISE = "color=gray:size=96x64:rate=25:duration=0.2,geq=lum='60+X':cb=128:cr=128,noise=alls=9:allf=t,format=yuv420p"
SOFT = "testsrc2=size=96x64:rate=25:duration=0.2,gblur=1,format=yuv420p"


def detail(frame: np.ndarray, width: int) -> float:
    """The mean of the steps from pixel to pixel."""
    return float(np.abs(np.diff(frame[: width * 64].reshape(64, width).astype(int), axis=1)).mean())


@pytest.mark.parametrize(
    ("name", "made", "width", "least", "most"),
    [("denoise", NOISE, 96, 0.0, 0.85), ("sharpen", SOFT, 96, 1.1, 3.0), ("deband", BANDS, 192, 1.01, 9.0)],
)
def test_all_frames_are_enhanced_wherever_segments_begin(
    video: MakeVideo,
    interpolated: Interpolate,
    name: str,
    made: str,
    width: int,
    least: float,
    most: float,
) -> None:
    source = video(f"{name}.mkv", *LAVFI, made, "-c:v", "ffv1")
    plain = decoded(interpolated(source, factor=2, quality=0), "yuv420p")
    whole, parts = (
        decoded(interpolated(source, length, factor=2, quality=0, enhance=name), "yuv420p")
        for length in (99, 4)
    )
    assert np.array_equal(whole, parts)
    changes = [
        detail(after, width) / detail(before, width) for before, after in zip(plain, whole, strict=True)
    ]
    assert least <= min(changes) and max(changes) <= most


def test_a_list_is_done_in_one_order_and_what_is_unknown_is_refused() -> None:
    options = parse_options({"enhance": "Sharpen, denoise"})
    assert (options.enhance, options.enhancements) == ("denoise,sharpen", ("denoise", "sharpen"))
    assert parse_options({}).enhancements == parse_options({"enhance": "none"}).enhancements == ()
    with pytest.raises(Problem, match=r"enhance was 'blur'.*deband, denoise, sharpen"):
        parse_options({"enhance": "blur"})
