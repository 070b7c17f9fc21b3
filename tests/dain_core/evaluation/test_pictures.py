from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dain_core.evaluation.pictures import (
    EvaluationError,
    jpeg,
    pictures_of,
    png,
    read_gray16,
    read_picture,
    read_video,
)


def test_png_keeps_every_bit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    depth = np.random.default_rng(0).integers(0, 65536, (7, 5), np.uint16)
    (tmp_path / "a.png").write_bytes(png(pixels))
    (tmp_path / "b.png").write_bytes(png(depth))
    assert torch.equal(read_picture(tmp_path / "a.png"), torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert np.array_equal(read_gray16(tmp_path / "b.png"), depth)


def test_jpeg_is_close_and_not_too_wide(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8), 3).reshape(1, 64, 3).repeat(40, 0)
    (tmp_path / "whole.jpg").write_bytes(jpeg(ramp, 1000))
    (tmp_path / "small.jpg").write_bytes(jpeg(ramp, 32))
    whole = read_picture(tmp_path / "whole.jpg")[0].permute(1, 2, 0).numpy()
    assert np.abs(whole.astype(int) - ramp).max() < 6
    assert read_picture(tmp_path / "small.jpg").shape == (1, 3, 20, 32)


def test_a_video_gives_every_frame(clip: Path) -> None:
    frames = list(read_video(clip))
    assert len(frames) == 12 and {frame.shape for frame in frames} == {(1, 3, 64, 96)}
    assert not torch.equal(frames[0], frames[1])


@pytest.mark.parametrize("content", [b"", b"not a picture" * 50, None])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"broken\.png: .+\. .+"):
        read_picture(path)


def test_sound_is_no_video(make_clip: Callable[..., Path]) -> None:
    path = make_clip("sound.wav", source="sine=duration=0.1")
    with pytest.raises(EvaluationError, match="no picture"):
        list(read_video(path))


def test_frames_that_change_their_size(tmp_path: Path) -> None:
    path = tmp_path / "sizes.mjpeg"
    path.write_bytes(b"".join(jpeg(np.zeros((16, width, 3), np.uint8), 64) for width in (32, 32, 48)))
    with pytest.raises(
        EvaluationError, match=r"sizes\.mjpeg: frame 2 is 48x16, the frames before it are 32x16"
    ):
        list(read_video(path))


def test_frames_are_counted_as_people_count(tmp_path: Path) -> None:
    for name in ("frame10.png", "frame2.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures_of(tmp_path)] == ["frame2.png", "frame10.png"]
