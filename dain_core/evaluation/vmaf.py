"""VMAF (Li et al., Netflix, 2016): what people would think of made frames, as FFmpeg's libvmaf predicts it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import imageio_ffmpeg
import torch
from torch import Tensor

from dain_core.evaluation.pictures import EvaluationError

#: A model that libvmaf carries. NEG ("no enhancement gain") does not reward frames that are sharper than the true ones.
MODEL = "vmaf_v0.6.1neg"

#: libvmaf crashes on sides of up to 16 pixels. On sides below this one its coarse scales are a few pixels of border.
MIN_SIDE = 32

# One input holds both pictures, the made one on top. libvmaf reads the luma alone, in the range of video.
_GRAPH = (
    "scale=out_color_matrix=bt709:out_range=tv,format=yuv444p,split[upper][lower];"
    "[upper]crop=iw:ih/2:0:0[made];[lower]crop=iw:ih/2:0:ih/2[truth];"
    "[made][truth]libvmaf=model=version={model}:n_threads={threads}:log_fmt=json:log_path=/dev/stdout"
)


@dataclass(frozen=True)
class Vmaf:
    """VMAF by an FFmpeg `program` that has libvmaf: 100 is the best, 0 the worst."""

    program: str

    def __call__(
        self, first: Tensor, last: Tensor, made: Sequence[Tensor], truths: Sequence[Tensor]
    ) -> list[float] | None:
        """The VMAF of each made frame, or None if a side of the frames is shorter than `MIN_SIDE`.

        VMAF forgives more where there is motion. It sees the true motion, as the given frames stand around the others.

        Args:
            first, last: the given frames, (1, 3, H, W) in [0, 1].
            made, truths: the frames between them, of the same shape.

        Raises:
            EvaluationError: the program cannot be run, or fails.
        """
        if min(first.shape[-2:]) < MIN_SIDE:
            return None
        pairs = torch.cat([torch.cat([first, *run, last]) for run in (made, truths)], 2)
        height, width = pairs.shape[-2:]
        graph = _GRAPH.format(model=MODEL, threads=torch.get_num_threads())
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-i", "pipe:0"]
        command = [self.program, "-nostdin", "-v", "error", *source, "-lavfi", graph, "-f", "null", "-"]
        pixels = (pairs * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        try:
            ended = subprocess.run(command, input=pixels.tobytes(), capture_output=True)
        except OSError as error:
            raise EvaluationError(f"{self.program} cannot be run ({error.strerror})") from error
        if ended.returncode:
            reason = ended.stderr.decode(errors="replace").strip() or f"status {ended.returncode}"
            raise EvaluationError(f"{self.program} fails to compute VMAF ({reason})")
        return [frame["metrics"]["vmaf"] for frame in json.loads(ended.stdout)["frames"][1:-1]]


def load_vmaf() -> tuple[Vmaf | None, str]:
    """VMAF by the FFmpeg program of imageio-ffmpeg, or None and why not."""
    black = torch.zeros(1, 3, MIN_SIDE, MIN_SIDE)
    try:
        vmaf = Vmaf(imageio_ffmpeg.get_ffmpeg_exe())
        vmaf(black, black, [black], [black])
    except (
        RuntimeError,
        EvaluationError,
    ) as error:  # RuntimeError: imageio-ffmpeg has no program for this machine
        reason = f"VMAF is left out: {error}. "
        return None, reason + "Unset IMAGEIO_FFMPEG_EXE, or let it name an FFmpeg with libvmaf."
    return vmaf, ""
