"""What this machine can encode is known before a frame is made."""

from __future__ import annotations

from service.jobs.formats import CODECS, COMMON_CODECS, is_gpu
from worker.media import encode, ffmpeg


def test_a_worker_lists_the_codecs_that_it_has() -> None:
    assert set(encode.codecs(has_gpu=False)) == set(COMMON_CODECS)
    assert set(encode.codecs(has_gpu=True)) >= set(COMMON_CODECS)
    assert [name for name in CODECS if is_gpu(name)] == ["h264_nvenc", "hevc_nvenc", "av1_nvenc"]


def test_an_encoder_is_tried() -> None:
    assert ffmpeg.encodes("libx264")
    assert not ffmpeg.encodes("libx999")
