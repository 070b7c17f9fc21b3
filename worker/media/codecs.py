"""How FFmpeg encodes the pictures of a delivery: one entry for each codec of `service.jobs.formats`.

The quality is H.264's CRF, 0 to 51, and the preset is one of x264's words. Each entry turns both into its encoder's own
measure (docs/media.md has the pictures' fidelity and the speeds that this was set by).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.jobs.formats import PRESETS, is_deep
from worker.media.delivery import Delivery

#: What a preset is for each encoder: as hard a try, from ultrafast to veryslow.
SVT_PRESETS = dict(zip(PRESETS, (13, 12, 11, 10, 9, 8, 6, 4, 3), strict=True))
VPX_SPEEDS = dict(zip(PRESETS, (9, 8, 7, 6, 5, 4, 3, 2, 1), strict=True))
MOST_GOOD_SPEED = 5  # of libvpx: faster ones are those of its other deadline
NVENC_PRESETS = dict(zip(PRESETS, ("p1", "p1", "p2", "p3", "p4", "p4", "p5", "p6", "p7"), strict=True))
NVENC_PIXELS = {"yuv420p10le": "p010le", "yuv444p10le": "yuv444p16le"}  # its own words for the same bits
# Qualities 0, 12, 18, 24, 30, 36 and 51 in the measure of other encoders: there VMAF is the same on a real film, which
# 99.4, 98.3, 95.5, 88 and 75 of 100 were for x264 from 12 to 36.
KNOWN = (0, 12, 18, 24, 30, 36, 51)
X265_CRF = (1, 8, 15, 22, 29, 36, 51)
SVT_CRF = (1, 6, 15, 30, 48, 58, 63)
VPX_CRF = (1, 7, 17, 32, 46, 57, 63)


@dataclass(frozen=True)
class Encoding:
    """How segments are encoded, and the name of the encoder."""

    encoder: str  #: FFmpeg's name
    muxer: str  #: FFmpeg's name, of the file that a segment is
    options: Callable[[Delivery], dict[str, Any]]  #: FFmpeg's options for the quality, the preset and the cap
    #: As fast as the frames come from a GPU, on a CPU of the size that comes with one.
    preset: str = ""
    tag: str = ""  #: four letters by which players of MP4 and MOV know the codec, where FFmpeg chooses others
    pixels: Mapping[str, str] = field(default_factory=dict)  #: the encoder's own names for pixel formats
    says_range: bool = (
        True  #: whether its stream has room for full range, or else takes none: the file says it then
    )

    def command(self, delivery: Delivery) -> dict[str, Any]:
        """FFmpeg's options for a segment of ``delivery``."""
        tag = {"tag:v": self.tag} if self.tag else {}
        return {"format": self.muxer, "vcodec": self.encoder, **tag, **self.options(delivery)}


def _h264(delivery: Delivery) -> dict[str, Any]:
    # The tags are written into the stream itself: asked for them by name, ffmpeg might convert the pixels.
    tags = {
        "video_full_range_flag": int(delivery.full_range),
        "colour_primaries": delivery.primaries,
        "transfer_characteristics": delivery.transfer,
        "matrix_coefficients": delivery.matrix,
    }
    return {
        "preset": delivery.preset,
        # CRF 0 is lossless in 8 bits alone, a quantiser of 0 in 10 bits too.
        **({"crf": delivery.quality} if delivery.quality else {"qp": 0}),
        **_capped(delivery),
        **_frame_packing(delivery),
        "bsf:v": "h264_metadata=" + ":".join(f"{name}={value}" for name, value in tags.items()),
    }


def _hevc(delivery: Delivery) -> dict[str, Any]:
    # Without its note on itself, which names the machine's cores: segments of several machines are joined.
    parameters = "info=0:log-level=error" + ("" if delivery.quality else ":lossless=1")
    return {
        "preset": delivery.preset,
        **({"crf": _measured(delivery.quality, X265_CRF)} if delivery.quality else {}),
        "x265-params": parameters,
        **_capped(delivery),
    }


def _av1(delivery: Delivery) -> dict[str, Any]:
    cap = f":mbr={delivery.max_bitrate // 1000}" if delivery.max_bitrate and delivery.quality else ""
    lossless = {"svtav1-params": "lossless=1"}
    return {
        "preset": SVT_PRESETS[delivery.preset],
        **({"crf": _measured(delivery.quality, SVT_CRF)} if delivery.quality else lossless),
        **({"svtav1-params": cap[1:]} if cap else {}),
    }


def _vp9(delivery: Delivery) -> dict[str, Any]:
    return {
        "deadline": "good" if VPX_SPEEDS[delivery.preset] <= MOST_GOOD_SPEED else "realtime",
        "cpu-used": VPX_SPEEDS[delivery.preset],
        "row-mt": 1,
        "auto-alt-ref": int("yuva" not in delivery.coded_pixels),
        **({"crf": _measured(delivery.quality, VPX_CRF)} if delivery.quality else {"lossless": 1}),
        "b:v": delivery.max_bitrate,
    }


def _prores(delivery: Delivery) -> dict[str, Any]:
    if "444" in delivery.coded_pixels:
        profile = 5 if delivery.quality <= 8 else 4
    else:
        profile = 3 - sum(delivery.quality > worst for worst in (20, 28, 36))
    return {"profile:v": profile, "vendor": "apl0", "alpha_bits": 16}


def _dnxhr(delivery: Delivery) -> dict[str, Any]:
    if "444" in delivery.coded_pixels:
        profile = "dnxhr_444"
    elif is_deep(delivery.coded_pixels):
        profile = "dnxhr_hqx"
    else:
        profile = ("dnxhr_hq", "dnxhr_sq", "dnxhr_lb")[sum(delivery.quality > worst for worst in (20, 30))]
    return {"profile:v": profile}


def _ffv1(delivery: Delivery) -> dict[str, Any]:
    return {"level": 3, "g": 1, "slices": 4, "slicecrc": 1}


def _nvenc(delivery: Delivery) -> dict[str, Any]:
    quality = {"rc": "vbr", "cq": delivery.quality, "b:v": 0} if delivery.quality else {"tune": "lossless"}
    return {"preset": NVENC_PRESETS[delivery.preset], **quality, **_capped(delivery)}


def _capped(delivery: Delivery) -> dict[str, Any]:
    """Each segment may begin with half a second's bits at once."""
    if not delivery.max_bitrate:
        return {}
    return {"maxrate": delivery.max_bitrate, "bufsize": delivery.max_bitrate // 2}


def _frame_packing(delivery: Delivery) -> dict[str, Any]:
    packing = FRAME_PACKING.get(delivery.stereo)
    return {} if packing is None else {"x264-params": f"frame-packing={packing}"}


def _measured(quality: int, measure: Sequence[int]) -> int:
    """The quality in another encoder's measure, which is known at the qualities `KNOWN`."""
    after = bisect.bisect_left(KNOWN, quality)
    if not after:
        return measure[0]
    (a, b), (low, high) = KNOWN[after - 1 : after + 1], measure[after - 1 : after + 1]
    return round(low + (high - low) * (quality - a) / (b - a))


#: What FFmpeg calls a way to put two views into a picture -> x264's number for it (H.264, D.2.26).
FRAME_PACKING = {
    "checkerboard": 0,
    "interleaved columns": 1,
    "interleaved lines": 2,
    "side by side": 3,
    "top and bottom": 4,
}

LOSSLESS = Encoding("ffv1", "matroska", _ffv1, says_range=False)

#: Codec -> how its segments are encoded. What is not here is made of lossless segments: see `worker.media.containers`.
ENCODINGS = {
    "h264": Encoding("libx264", "mp4", _h264, "faster"),
    "hevc": Encoding("libx265", "mp4", _hevc, "ultrafast", tag="hvc1"),
    "av1": Encoding("libsvtav1", "mp4", _av1, "faster"),
    "vp9": Encoding("libvpx-vp9", "matroska", _vp9, "veryfast"),
    "prores": Encoding("prores_ks", "mov", _prores),
    "dnxhr": Encoding("dnxhd", "mov", _dnxhr),
    "ffv1": LOSSLESS,
    "h264_nvenc": Encoding("h264_nvenc", "mp4", _nvenc, "medium", pixels=NVENC_PIXELS),
    "hevc_nvenc": Encoding("hevc_nvenc", "mp4", _nvenc, "medium", tag="hvc1", pixels=NVENC_PIXELS),
    "av1_nvenc": Encoding("av1_nvenc", "mp4", _nvenc, "medium", pixels=NVENC_PIXELS),
}


def encoding_of(delivery: Delivery) -> Encoding:
    """How the segments of ``delivery`` are encoded. Segments of one delivery can be joined."""
    return ENCODINGS.get(delivery.codec, LOSSLESS)
