"""What each kind of file of a result can hold, and how FFmpeg writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from service.jobs.formats import CODECS, has_alpha
from worker.media.delivery import Delivery
from worker.media.facts import UNSPECIFIED

Filter = tuple[str, Mapping[str, Any]]  # FFmpeg's name of a filter, and its options

COPY = "copy"
ALL = frozenset({"*"})  # whatever FFmpeg puts there

_PLAIN_TEXTS = ("ass", "ssa", "mov_text", "subrip", "srt", "text", "webvtt")
_PCM = frozenset(
    f"pcm_{kind}"
    for kind in (
        *("u8", "s16le", "s16be", "s24le", "s24be", "s32le", "s32be", "f32le", "f32be", "f64le", "f64be"),
        *("alaw", "mulaw"),
    )
)
_STILLS = frozenset({"mjpeg", "png", "bmp"})
_FILMS = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg", "prores"})


#: FFmpeg's names of the tags that were found again in files of its own making, as are the roles below.
_MOV_TAGS = "album artist comment copyright date genre location make model title"
_MP4_TAGS = """
    album album_artist artist comment compilation composer copyright date description disc episode_id gapless_playback
    genre grouping hd_video keywords location lyrics media_type network show synopsis title track
"""
_MP4_ROLES = "default dub comment forced hearing_impaired visual_impaired captions descriptions"
_MKV_ROLES = "default dub original comment forced hearing_impaired visual_impaired descriptions"
#: With which names stay as they are: players of QuickTime look for those of phones alone.
_OWN_TAGS = {"movflags": "+faststart+use_metadata_tags"}

#: Languages that QuickTime has codes for, of those that were tried, and others that it has another name for.
_MOV_CODES = """
    alb ara arm ben bul cat ces chi dan dut eng epo est fin fra geo ger gre heb hin hun ice ind iri ita jpn kor lat lav
    lit mac mlt nor per pol por ron rus slk slv spa sve swa tam tel tha tur ukr urd vie wel bel
"""
_MOV_NAMES = {
    **{
        "fre": "fra",
        "deu": "ger",
        "nld": "dut",
        "swe": "sve",
        "nob": "nor",
        "ell": "gre",
        "isl": "ice",
        "zho": "chi",
    },
    **{
        "rum": "ron",
        "cze": "ces",
        "slo": "slk",
        "mkd": "mac",
        "sqi": "alb",
        "gle": "iri",
        "cym": "wel",
        "kat": "geo",
    },
    **{"hye": "arm", "fas": "per"},
}


@dataclass(frozen=True)
class Rendering:
    """How joined pictures become an animation or a folder of pictures."""

    filters: Sequence[Filter]  #: that make the pixels
    options: Mapping[str, Any]  #: FFmpeg's options of the encoder and of the file
    suffix: str = ""  #: of each picture, where there is a file for each
    has_palette: bool = False  #: whether all pictures have one palette
    final_delay: Callable[[Fraction], object] | None = (
        None  #: FFmpeg's option, by the seconds of the last picture
    )


@dataclass(frozen=True)
class Container:
    """How a kind of file is written. Its name, suffixes and codecs are in `service.jobs.formats`."""

    muxer: str  #: FFmpeg's name
    finest_clock: int  #: the most ticks a second by which pictures can be timed
    coarsest_clock: int = 1  #: and the fewest that players expect
    #: FFmpeg's options for a picture whose times are in ticks of the first clock, in a file that counts by the second.
    clocks: Callable[[int, int], dict[str, Any]] = lambda picture, movie: {}
    finish: Mapping[str, Any] = field(default_factory=dict)  #: FFmpeg's options for the result alone
    #: In place of these, for a file that holds tags of any name, and no cover picture; empty where there is none.
    own_tags: Mapping[str, Any] = field(default_factory=dict)
    playable_sounds: frozenset[str] = (
        frozenset()
    )  #: what players can be relied on to play; other sound is encoded
    sound_encoder: str = ""  #: empty where it holds no sound
    lossless_encoder: str = ""  #: for sound that has lost nothing so far; empty where there is none
    texts: Mapping[str, str] = field(
        default_factory=dict
    )  #: kind of subtitle -> "copy", or the encoder of what it becomes
    has_tags: bool = False  #: whether four letters say what a stream's codec is
    covers: frozenset[str] = frozenset()  #: codecs of the cover pictures that it can hold
    films: frozenset[str] = frozenset()  #: codecs of further video streams that it can hold
    data: frozenset[str] = frozenset()  #: codecs of data streams that it can hold
    attachments: bool = False
    covers_attached: bool = False  #: whether a cover picture is an attachment
    languages: frozenset[str] = ALL  #: that it has codes for
    renamed_languages: Mapping[str, str] = field(default_factory=dict)  #: codes that it has others for
    chapters: bool = False
    roles: frozenset[str] = frozenset()  #: marks of sound and subtitle tracks, by FFmpeg's names
    tags: frozenset[str] = frozenset()  #: names of what a file can say of itself
    stereo_modes: Mapping[str, str] = field(
        default_factory=dict
    )  #: FFmpeg's name of a way to put views together -> its tag
    #: How an animation or a folder of pictures is made, at the end, of joined pictures that have lost nothing.
    rendering: Callable[[Delivery], Rendering] | None = None

    def language(self, code: str) -> str:
        """The code that it has for a language; empty where it has none."""
        code = self.renamed_languages.get(code, code)
        return code if code and self.holds(self.languages, code) else ""

    @property
    def picture_muxer(self) -> str:
        """FFmpeg's name of the file of joined pictures, from which the result is made."""
        return "nut" if self.rendering else self.muxer

    def attaches(self, kind: str) -> bool:
        """Whether a stream of this kind (see `OtherInfo`) becomes an attachment: it is no stream of the result."""
        return kind == "cover" and self.covers_attached

    def holds(self, what: frozenset[str], codec: str) -> bool:
        """Whether ``what``, a set of this container, has ``codec``."""
        return codec in what or what == ALL


def _clocks(picture: int, movie: int) -> dict[str, Any]:
    return {"video_track_timescale": picture, "movie_timescale": movie}


# -- animations and pictures --------------------------------------------------------------------------


def _scaled(delivery: Delivery, pixels: str, **changes: str) -> list[Filter]:
    """The filters that make ``pixels`` of the planes, by the video's own matrix and range."""
    options = {
        "in_range": "full" if delivery.full_range else "limited",
        "in_color_matrix": delivery.color_matrix,
        "out_range": "full",
        "flags": "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
        **changes,
    }
    return [("scale", options), ("format", {"pix_fmts": pixels})]


def _pixels(delivery: Delivery) -> str:
    return CODECS[delivery.codec].pixels_for(delivery.pixel_format)


def _gif(delivery: Delivery) -> Rendering:
    pixels = _scaled(delivery, "rgba" if has_alpha(delivery.pixel_format) else "rgb24")
    return Rendering(pixels, {"loop": 0}, has_palette=True, final_delay=lambda last: round(100 * last))


def _apng(delivery: Delivery) -> Rendering:
    return Rendering(_scaled(delivery, _pixels(delivery)), {"vcodec": "apng", "plays": 0}, final_delay=str)


def _webp(delivery: Delivery) -> Rendering:
    pixels = "bgra" if not delivery.quality else _pixels(delivery)
    levels = {} if pixels == "bgra" else {"out_range": "limited", "out_color_matrix": "bt601"}
    quality = (
        {"lossless": 1}
        if not delivery.quality
        else {"quality": 100 - round(delivery.quality * 100 / 51 / 1.5)}
    )
    return Rendering(_scaled(delivery, pixels, **levels), {"vcodec": "libwebp_anim", "loop": 0, **quality})


def _png(delivery: Delivery) -> Rendering:
    return Rendering(_scaled(delivery, _pixels(delivery)), {"vcodec": "png"}, suffix=".png")


def _jpeg(delivery: Delivery) -> Rendering:
    # A step of the quantiser doubles with every six, as it does in H.264. JFIF has one matrix.
    quality = min(max(round(2 ** ((delivery.quality - 12) / 6)), 1), 31)
    pixels = _scaled(delivery, _pixels(delivery), out_color_matrix="bt601")
    return Rendering(pixels, {"vcodec": "mjpeg", "q:v": quality, "qmin": 1}, suffix=".jpg")


def _exr(delivery: Delivery) -> Rendering:
    """Linear light, as EXR has it."""
    transfer = delivery.transfer if delivery.transfer not in (UNSPECIFIED, 0, 3) else 1
    matrix = {"bt601": 6, "bt709": 1, "bt2020": 9}[delivery.color_matrix]
    options = {
        "tin": transfer,
        "t": "linear",
        "min": matrix,
        "m": "gbr",
        "rin": 1 if delivery.full_range else 0,
        "r": 1,
    }
    return Rendering(
        [("zscale", options), ("format", {"pix_fmts": _pixels(delivery)})],
        {"vcodec": "exr", "format:v": "half", "compression": "zip16"},
        suffix=".exr",
    )


#: Name -> how it is written.
CONTAINERS = {
    "mp4": Container(
        muxer="mp4",
        finest_clock=10_000_000,  # ticks between neighbouring frames have 32 bits: room for minutes
        coarsest_clock=10_000,
        clocks=_clocks,
        finish={"movflags": "+faststart"},  # so that it plays while it is fetched
        playable_sounds=frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}),
        sound_encoder="aac",
        lossless_encoder="flac",
        texts={
            **dict.fromkeys((*_PLAIN_TEXTS, "eia_608"), "mov_text"),
            **{"mov_text": COPY, "dvd_subtitle": COPY},
        },
        covers=_STILLS,
        films=_FILMS - {"prores"},
        data=frozenset({"gpmd"}),  # of action cameras
        has_tags=True,
        chapters=True,
        roles=frozenset(_MP4_ROLES.split()),
        tags=frozenset(_MP4_TAGS.split()),
        own_tags=_OWN_TAGS,
    ),
    "mov": Container(
        muxer="mov",
        finest_clock=10_000_000,
        coarsest_clock=10_000,
        clocks=_clocks,
        finish={"movflags": "+faststart"},
        playable_sounds=_PCM | {"aac", "ac3", "alac", "eac3", "mp3"},
        sound_encoder="aac",
        lossless_encoder="pcm_s24le",
        texts={**dict.fromkeys(_PLAIN_TEXTS, "mov_text"), "mov_text": COPY, "eia_608": COPY},
        films=_FILMS - {"av1", "vp9"},
        languages=frozenset(_MOV_CODES.split()),
        renamed_languages=_MOV_NAMES,
        data=frozenset({"gpmd"}),  # of action cameras
        has_tags=True,
        chapters=True,
        roles=frozenset({"default"}),
        tags=frozenset(_MOV_TAGS.split()),
        own_tags=_OWN_TAGS,
    ),
    "mkv": Container(
        muxer="matroska",
        finest_clock=1000,
        playable_sounds=ALL,
        sound_encoder="aac",
        lossless_encoder="flac",
        texts={
            **dict.fromkeys(("ass", "ssa", "subrip", "srt", "webvtt"), COPY),
            **dict.fromkeys(
                ("dvb_subtitle", "dvd_subtitle", "hdmv_pgs_subtitle", "hdmv_text_subtitle"), COPY
            ),
            **{"mov_text": "ass", "text": "subrip", "eia_608": "ass"},
        },
        covers=_STILLS,
        films=ALL,
        attachments=True,
        covers_attached=True,
        chapters=True,
        roles=frozenset(_MKV_ROLES.split()),
        tags=ALL,
        stereo_modes={
            **{"side by side": "left_right", "side by side, right view first": "right_left"},
            **{"top and bottom": "top_bottom", "top and bottom, right view first": "bottom_top"},
            **{"checkerboard": "checkerboard_lr", "checkerboard, right view first": "checkerboard_rl"},
            **{
                "interleaved lines": "row_interleaved_lr",
                "interleaved lines, right view first": "row_interleaved_rl",
            },
            **{"interleaved columns": "col_interleaved_lr"},
            **{"interleaved columns, right view first": "col_interleaved_rl"},
        },
    ),
    "webm": Container(
        muxer="webm",
        finest_clock=1000,
        playable_sounds=frozenset({"opus", "vorbis"}),
        sound_encoder="libopus",
        texts={**dict.fromkeys((*_PLAIN_TEXTS, "eia_608"), "webvtt"), "webvtt": COPY},
        films=frozenset({"vp8", "vp9", "av1"}),
        chapters=True,
        roles=frozenset({"default", "forced", "descriptions"}),
        tags=ALL,
        stereo_modes={"side by side": "left_right", "top and bottom": "top_bottom"},
    ),
    "gif": Container(muxer="gif", finest_clock=100, rendering=_gif),
    "apng": Container(muxer="apng", finest_clock=30_000, rendering=_apng),  # a delay has 16 bits
    "webp": Container(muxer="webp", finest_clock=1000, rendering=_webp),
    "png": Container(muxer="image2", finest_clock=10_000_000, rendering=_png),
    "jpeg": Container(muxer="image2", finest_clock=10_000_000, rendering=_jpeg),
    "exr": Container(muxer="image2", finest_clock=10_000_000, rendering=_exr),
}


def container_of(delivery: Delivery) -> Container:
    """How the file of ``delivery`` is written."""
    return CONTAINERS[delivery.container]
