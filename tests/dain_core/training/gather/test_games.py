"""Frames out of moments: as light adds up, and no moment twice."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dain_core.training.gather.games import HEIGHT, WIDTH, exposed, main, moments, write


def test_a_frame_is_the_mean_light_while_the_shutter_is_open() -> None:
    levels = [0, 255, 255, 7] + [90, 90, 90, 200] + [255, 0]  # the last one is no whole frame
    frames = list(exposed((np.full((2, 3, 3), level, np.uint8) for level in levels), 4, 3))
    assert [int(frame.max()) for frame in frames] == [212, 90]  # (2 / 3) ** (1 / 2.2) of the range
    assert all(frame.dtype == np.uint8 and frame.min() == frame.max() for frame in frames)


def test_frames_are_written_at_their_rate(tmp_path: Path) -> None:
    shade = np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :, None]
    frames = [np.broadcast_to(np.roll(shade, 40 * k, 1), (HEIGHT, WIDTH, 3)).copy() for k in range(3)]
    assert write(tmp_path / "film.mp4", Fraction(500, 16), frames) == 3
    for read, frame in zip(moments(tmp_path / "film.mp4"), frames, strict=True):
        assert np.abs(read.astype(int) - frame).mean() < 3


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dain_core.training.gather.games.shutil.which", lambda *_, **__: None)
    result = CliRunner().invoke(main, [str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "apt-get install openarena xvfb" in result.output
