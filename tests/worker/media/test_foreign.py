"""Files of other people's software, where they are at hand: every frame is the one that FFmpeg decodes."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from worker.media import ffmpeg
from worker.media.decode import Decoder
from worker.media.errors import MediaError
from worker.media.facts import Choice, VideoInfo
from worker.media.sandbox import probe
from worker.media.times import frame_times

FOREIGN = Path(__file__).parents[4] / "shared"
FILES = sorted([*FOREIGN.glob("media/*.*"), *FOREIGN.glob("found/inputs/*.*")])
# Frames that are converted on their way, in which FFmpeg alone does otherwise: tests of their own are about them.
CONVERTED = {"alpha.webm", "chres.ts", "png_gray.mov", "tag_ycgco_bt709_bt709_tv.mp4"}
NO_VIDEO = {".csv", ".html", ".md", ".py", ".sh", ".tsv"}
SEGMENT = 48  # source frames

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FILES, reason="no files of others are here")]


def reference(path: Path, info: VideoInfo) -> list[str]:
    """A hash of every frame that FFmpeg decodes from the beginning, in the working format."""
    colors = "out_range=limited:out_color_matrix=bt709" if info.is_rgb else ""
    command = [ffmpeg.binary(), "-nostdin", "-v", "quiet", "-noautorotate", "-copyts", "-i", str(path)]
    command += ["-map", f"0:{info.stream}", "-fps_mode", "passthrough", "-vf", f"scale={colors}"]
    command += ["-pix_fmt", info.decoded_format, "-f", "framemd5", "-"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return [line.split(",")[-1].strip() for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.suffix not in NO_VIDEO and path.name not in CONVERTED],
    ids=lambda path: path.name,
)
def test_every_frame_is_the_one_that_ffmpeg_decodes_wherever_a_segment_begins(path: Path) -> None:
    try:
        info = probe(path)
        timeline = frame_times(path, choice=Choice(info.stream))
    except MediaError as error:
        assert error.slug == "no-video-stream", error.detail
        return
    wanted = reference(path, info)
    count = len(timeline.times)
    for first in sorted({0, min(SEGMENT, count - 1), count // 2, count - 1}):
        with Decoder(path, info, first, min(first + 2, count - 1), timeline) as decoder:
            for frame in decoder:
                digest = hashlib.md5(b"".join(plane.tobytes() for plane in frame.planes)).hexdigest()
                assert digest == wanted[frame.index], f"frame {frame.index}"
        assert not decoder.held
