"""VMAF (Li et al., Netflix, 2016): FFmpeg's libvmaf predicts how people rate made frames."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import imageio_ffmpeg
import torch
from torch import Tensor

from dain_core.evaluation.pictures import EvaluationError

#: A model that comes with libvmaf. NEG ("no enhancement gain") does not reward frames for being sharper than the truth.
MODEL = "vmaf_v0.6.1neg"

#: The shortest side of a frame in pixels. libvmaf crashes on sides of up to 16 pixels. On sides below this length its
#: coarse scales have only a few pixels of border.
MIN_SIDE = 32

# One input holds both pictures, the made picture on top. libvmaf reads only the luma, in the range of video.
_GRAPH = (
    "scale=out_color_matrix=bt709:out_range=tv,format=yuv444p,split[upper][lower];"
    "[upper]crop=iw:ih/2:0:0[made];[lower]crop=iw:ih/2:0:ih/2[truth];"
    "[made][truth]libvmaf=model=version={model}:n_threads={threads}:log_fmt=json:log_path=/dev/stdout"
)


@dataclass(frozen=True)
class Vmaf:
    """The VMAF metric: 100 is the best, 0 the worst.

    Attributes:
        program: the path of an FFmpeg program that has libvmaf.
    """

    program: str

    def __call__(
        self, first: Tensor, last: Tensor, made: Sequence[Tensor], truths: Sequence[Tensor]
    ) -> list[float] | None:
        """Return the VMAF of each made frame, or None if a side of the frames is shorter than `MIN_SIDE`.

        VMAF forgives more errors where there is motion. libvmaf gets the given frames too, so that it sees the motion.

        Args:
            first, last: the given frames, (1, 3, H, W), in [0, 1].
            made, truths: the made and the true frames between them, with the same shape.

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
    """Load VMAF with the FFmpeg program of imageio-ffmpeg.

    Returns:
        The metric and an empty text; or None and a sentence that says why it is left out.
    """
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
