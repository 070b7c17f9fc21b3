"""What a result can be: the kinds of file, the codecs that each can hold, and what each codec can encode.

The service refuses by these tables what cannot be made, and a worker chooses by them: see `worker.media.choose`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

# The names that the options may have: the keys of the tables below, for descriptions of the API.
ContainerName = Literal["mp4", "mkv", "mov", "webm", "gif", "apng", "webp", "png", "jpeg", "exr"]
CodecName = Literal[
    "auto", "h264", "hevc", "av1", "vp9", "prores", "dnxhr", "ffv1", "h264_nvenc", "hevc_nvenc", "av1_nvenc",
    "gif", "apng", "webp", "png", "jpeg", "exr",
]  # fmt: skip
PixelFormatName = Literal[
    "source", "compatible", "yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le",
]  # fmt: skip
PresetName = Literal[
    "auto", "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
]  # fmt: skip
AudioName = Literal["copy", "best", "aac", "stretch", "none"]

PLANES = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")  # FFmpeg's names
BROWSERS = "yuv420p"  # what every player and browser shows
#: x264's words, which stand for as much effort with every codec.
PRESETS = get_args(PresetName)[1:]
LEAST_BITRATE, MOST_BITRATE = 50_000, 1_000_000_000  # bits a second

_BITRATE = re.compile(r"(\d{1,10}(?:\.\d{1,6})?)([kM]?)", re.ASCII)
_POWERS = {"": 1, "k": 1000, "M": 1_000_000}


@dataclass(frozen=True)
class Codec:
    """What an encoder of pictures takes."""

    pixels: tuple[
        str, ...
    ]  #: pixel formats, by FFmpeg's names; of these with alpha, the opaque forms come first
    has_presets: bool = True
    has_bitrate: bool = True  #: whether its bitrate can be capped
    lossless: bool = False  #: whether it always is, whatever the quality

    def pixels_for(self, wanted: str) -> str:
        """The pixel format that it encodes planes of `wanted` in: the same, or the nearest that keeps most of it."""
        if wanted in self.pixels:
            return wanted
        alpha, deep = "yuva" in wanted, "10" in wanted
        chroma = re.sub(r"\D", "", wanted)[:3]

        def losses(pixels: str) -> tuple[bool, bool, int, bool]:
            """Alpha, then depth, then colour; of those that keep all, the smallest."""
            is_rgb = pixels.startswith(("rgb", "gbr", "bgr", "pal"))
            kept = int("444" if is_rgb else re.sub(r"\D", "", pixels)[:3])
            return (
                alpha and not has_alpha(pixels),
                deep and not is_deep(pixels),
                max(int(chroma) - kept, 0) * 1000 + kept,
                has_alpha(pixels) and not alpha or is_deep(pixels) and not deep,
            )

        return min(self.pixels, key=losses)


def has_alpha(pixels: str) -> bool:
    """Whether a pixel format, by FFmpeg's name, has room for transparency."""
    return pixels.startswith(("yuva", "rgba", "bgra", "gbrap", "pal8"))


def is_deep(pixels: str) -> bool:
    """Whether a pixel format, by FFmpeg's name, has more than 8 bits a sample."""
    return bool(re.search(r"(9|1[0-6]|48|64|f32)(le|be)$", pixels))


_ALPHA = tuple(pixels.replace("yuv", "yuva") for pixels in PLANES)

#: Name -> what the encoder takes. The names with "nvenc" are those of NVIDIA's encoders, on GPUs that have them.
CODECS = {
    "h264": Codec(PLANES),
    "hevc": Codec(PLANES),
    "av1": Codec(("yuv420p", "yuv420p10le")),
    "vp9": Codec((*PLANES, "yuva420p")),
    "prores": Codec(("yuv422p10le", "yuv444p10le", "yuva444p10le"), has_presets=False, has_bitrate=False),
    "dnxhr": Codec(("yuv422p", "yuv422p10le", "yuv444p10le"), has_presets=False, has_bitrate=False),
    "ffv1": Codec((*PLANES, *_ALPHA), has_presets=False, has_bitrate=False, lossless=True),
    "h264_nvenc": Codec(("yuv420p", "yuv444p")),
    "hevc_nvenc": Codec(("yuv420p", "yuv420p10le", "yuv444p", "yuv444p10le")),
    "av1_nvenc": Codec(("yuv420p", "yuv420p10le")),
    "gif": Codec(("pal8",), has_presets=False, has_bitrate=False),
    "apng": Codec(
        ("rgb24", "rgba", "rgb48be", "rgba64be"), has_presets=False, has_bitrate=False, lossless=True
    ),
    "webp": Codec(("yuv420p", "yuva420p", "bgra"), has_presets=False, has_bitrate=False),
    "png": Codec(
        ("rgb24", "rgba", "rgb48be", "rgba64be"), has_presets=False, has_bitrate=False, lossless=True
    ),
    "jpeg": Codec(("yuvj420p", "yuvj422p", "yuvj444p"), has_presets=False, has_bitrate=False),
    "exr": Codec(("gbrpf32le", "gbrapf32le"), has_presets=False, has_bitrate=False, lossless=True),
}


def is_gpu(codec: str) -> bool:
    """Whether a codec is that of a GPU's encoder, which not every machine has."""
    return codec.endswith("_nvenc")


#: What every worker encodes that does not say more.
COMMON_CODECS = tuple(name for name in CODECS if not is_gpu(name))


@dataclass(frozen=True)
class Container:
    """A kind of file."""

    suffixes: tuple[str, ...]  #: of file names; the first is ours
    media_type: str
    codecs: tuple[str, ...]  #: that it can hold; the first is the one unless another is asked for
    sounds: bool = True  #: whether it can hold sound
    aac: bool = True  #: whether that may be AAC


#: Name -> kind of file; the first with a suffix is the one that the suffix means.
CONTAINERS = {
    "mp4": Container(
        (".mp4", ".m4v"),
        "video/mp4",
        ("h264", "hevc", "av1", "vp9", "h264_nvenc", "hevc_nvenc", "av1_nvenc"),
    ),
    "mkv": Container(
        (".mkv",),
        "video/x-matroska",
        (
            *("h264", "hevc", "av1", "vp9", "prores", "dnxhr", "ffv1"),
            *("h264_nvenc", "hevc_nvenc", "av1_nvenc"),
        ),
    ),
    "mov": Container(
        (".mov", ".qt"),
        "video/quicktime",
        ("h264", "hevc", "prores", "dnxhr", "h264_nvenc", "hevc_nvenc"),
    ),
    "webm": Container((".webm",), "video/webm", ("vp9", "av1", "av1_nvenc"), aac=False),
    "gif": Container((".gif",), "image/gif", ("gif",), sounds=False),
    "apng": Container((".apng",), "image/apng", ("apng",), sounds=False),
    "webp": Container((".webp",), "image/webp", ("webp",), sounds=False),
    "png": Container((".zip",), "application/zip", ("png",), sounds=False),
    "jpeg": Container((".zip",), "application/zip", ("jpeg",), sounds=False),
    "exr": Container((".zip",), "application/zip", ("exr",), sounds=False),
}


def container_of(suffix: str) -> str | None:
    """The container that a file name's suffix, such as ".mkv", means; None where it means none."""
    return next((name for name, kind in CONTAINERS.items() if suffix.lower() in kind.suffixes), None)


def endings() -> str:
    """The endings of names that mean a container, as a sentence has them."""
    return listed(list(dict.fromkeys(suffix for kind in CONTAINERS.values() for suffix in kind.suffixes)))


def codec_of(container: str, codec: str) -> str:
    """The codec that `codec`, which may be "auto", means in a container."""
    return CONTAINERS[container].codecs[0] if codec == "auto" else codec


def holds_alpha(container: str, codec: str = "auto") -> bool:
    """Whether a result of this container and codec can keep transparency."""
    codec = codec_of(container, codec)
    in_place = codec != "vp9" or container in ("webm", "mkv")  # of VP9's alpha MP4 knows nothing
    return in_place and any(map(has_alpha, CODECS[codec].pixels))


def parse_bitrate(value: object) -> int:
    """Read a bitrate in bits a second: 8000000, "8000k" or "8M".

    Raises:
        ValueError: `value` is none, or lies outside 50k to 1000M.
    """
    text = str(value).strip()
    found = _BITRATE.fullmatch(text)
    bitrate = round(float(found[1]) * _POWERS[found[2]]) if found else 0
    if not LEAST_BITRATE <= bitrate <= MOST_BITRATE:
        raise ValueError(f"{text!r} is not a bitrate from 50k to 1000M")
    return bitrate


class Wanted(Protocol):
    """The options that say what a result is to be."""

    @property
    def container(self) -> str: ...
    @property
    def codec(self) -> str: ...
    @property
    def pixel_format(self) -> str: ...
    @property
    def preset(self) -> str: ...
    @property
    def audio(self) -> str: ...
    @property
    def max_bitrate(self) -> int | None: ...


def check_options(options: Wanted) -> None:
    """Raise ValueError, with a sentence that says what can be, where these options cannot be together."""
    container, codec, pixel_format = options.container, options.codec, options.pixel_format
    kind = CONTAINERS[container]
    if codec != "auto" and codec not in kind.codecs:
        others = listed([name for name, other in CONTAINERS.items() if codec in other.codecs])
        raise ValueError(
            f"{container} holds no {codec}: choose the codec {listed(kind.codecs)}, "
            f"or for {codec} the container {others}"
        )
    codec = codec_of(container, codec)
    encoder = CODECS[codec]
    if pixel_format == "compatible" and BROWSERS not in encoder.pixels:
        able = listed([name for name, other in CODECS.items() if BROWSERS in other.pixels])
        raise ValueError(f"no browser plays {codec}: for pixel_format=compatible choose the codec {able}")
    if pixel_format not in ("source", "compatible", *encoder.pixels):
        able = listed([pixels for pixels in encoder.pixels if pixels in PLANES]) or "source alone"
        raise ValueError(f"{codec} has no pixel_format {pixel_format}: it can have {able}")
    if options.preset != "auto" and not encoder.has_presets:
        able = listed([name for name, other in CODECS.items() if other.has_presets])
        raise ValueError(f"{codec} has no presets: leave out preset, or choose the codec {able}")
    if options.max_bitrate and not encoder.has_bitrate:
        able = listed([name for name, other in CODECS.items() if other.has_bitrate])
        raise ValueError(
            f"the bitrate of {codec} cannot be capped: leave out max_bitrate, or choose the codec {able}"
        )
    if options.audio == "aac" and not kind.aac:
        raise ValueError(
            f"{container} holds no AAC: leave out audio, or choose the container mp4, mkv or mov"
        )
    if options.audio not in ("copy", "none") and not kind.sounds:
        able = listed([name for name, other in CONTAINERS.items() if other.sounds])
        raise ValueError(f"{container} holds no sound: leave out audio, or choose the container {able}")


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: "a, b or c"."""
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
