"""The facts about a video: found once, when a job is accepted, and stored with the job and in its plan.

Facts are stored as JSON, and outlive the release that found them. So:

- A reader ignores fields that it does not know, and keeps them: they are written again as they came.
- A missing field has a default, which means what releases without that field did.
- ``VERSION`` rises only where an older reader would misunderstand the facts. A reader refuses a newer version.

Nothing here opens a file: see ``worker.media.sandbox``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, Self, TypeVar

from service.jobs.notes import Note
from worker.media.errors import MachineError

VERSION = 1  # facts without a version are of version 1, too

Time = TypeVar("Time", int, Fraction)

PLAIN: dict[str, type] = {"int": int, "str": str, "bool": bool}  # by their names in annotations
_FRACTION = re.compile(r"-?\d{1,40}(/\d{1,40})?", re.ASCII)  # "1e999999999" would be one for `Fraction`, too

UNSPECIFIED = 2  # in the code points of ITU-T H.273, which all colour tags here are
_MATRICES = {4: "bt601", 5: "bt601", 6: "bt601", 8: "ycgco", 9: "bt2020", 10: "bt2020", 14: "bt2020"}
MAX_PIXELS = 8192 * 4608  # a little more than 8K


@dataclass(frozen=True)
class Limits:
    """The largest video that is accepted; None is no limit. ``max_duration`` is in seconds."""

    max_pixels: int = MAX_PIXELS
    max_frames: int | None = None
    max_duration: float | None = None


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Choice:
    """What of a file is taken, where the caller says so."""

    stream: int | None = None  #: number of the video stream in the file; None is the largest
    rate: str | None = (
        None  #: frames a second, as a fraction, of a file that holds no times; None is its own or 25
    )

    @property
    def arguments(self) -> list[str]:
        """The choice as `worker.media.probe` takes it."""
        return [f"--{name}={value}" for name, value in vars(self).items() if value is not None]


DEFAULT_CHOICE = Choice()


@dataclass(frozen=True)
class Stored:
    """A record that is stored as JSON by the rules above."""

    more: Mapping[str, Any] = field(
        default_factory=dict, kw_only=True
    )  #: fields of a later release, as they came

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The record in plain JSON types; raises KeyError, TypeError or ValueError where it is not one."""
        for each in fields(cls):
            plain = PLAIN.get(str(each.type))
            if plain and type(stored.get(each.name, each.default)) is not plain:
                raise TypeError(
                    f"{each.name} is {stored.get(each.name)!r:.100}, which is no {plain.__name__}"
                )
        known = {each.name for each in fields(cls)} - {"more"}
        more = {name: value for name, value in stored.items() if name not in known}
        kept = {name: value for name, value in stored.items() if name in known}
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()}, more=more)

    def as_dict(self) -> dict[str, Any]:
        """The record in plain JSON types; fractions become strings such as "30000/1001"."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "more"}
        return {**{name: _plain(value) for name, value in values.items()}, **self.more}


@dataclass(frozen=True)
class AudioInfo(Stored):
    """One sound track."""

    index: int  #: of the stream in the file
    codec: str
    channels: int
    sample_rate: int
    language: str = ""
    title: str = ""
    roles: tuple[str, ...] = ()  #: that it is marked with ("default", "comment"), by FFmpeg's names


@dataclass(frozen=True)
class SubtitleInfo(Stored):
    """One subtitle track."""

    index: int  #: of the stream in the file
    codec: str
    language: str = ""
    title: str = ""
    roles: tuple[str, ...] = ()  #: as those of `AudioInfo`


@dataclass(frozen=True)
class OtherInfo(Stored):
    """A stream that is neither the picture, nor sound, nor subtitles."""

    index: int  #: of the stream in the file
    kind: str  #: "cover" (a still picture), "film" (another video), "data" or "attachment"
    codec: str  #: or the name of an attachment


@dataclass(frozen=True)
class VideoInfo(Stored):
    """The facts about a video. Times are seconds on the file's own clock. Colour tags are code points of H.273.

    >>> VideoInfo.from_dict(info.as_dict()) == info
    True
    """

    container: str
    codec: str
    stream: int  #: index of the video stream in the file
    width: int  #: in pixels, of a decoded frame before any rotation
    height: int
    pixel_format: str  #: of a decoded frame, by FFmpeg's name
    working_format: str  #: a name in ``dain_core.runtime.pixels``: the planes that frames are made in
    frames: int  #: number of packets to be shown; ``worker.media.times`` counts the frames themselves
    time_base: Fraction
    start: Fraction  #: when the first of picture and sound begins
    average_rate: Fraction  #: frames a second
    duration: Fraction  #: of the picture
    primaries: int
    transfer: int
    matrix: int
    full_range: bool
    sample_aspect_ratio: Fraction  #: 1 where the file does not say
    display_matrix: tuple[int, ...]  #: FFmpeg's nine numbers; empty where frames are shown as they are
    rotation: int  #: degrees counterclockwise, 0 to 359, that ``display_matrix`` turns the picture by
    audio: tuple[AudioInfo, ...]
    subtitles: tuple[SubtitleInfo, ...]
    alpha: bool = False  #: whether pixels may be transparent: decoded frames then have a plane of alpha
    transparent: bool = False  #: whether they are, as far as the first frame or the file's header tells
    field_order: str = ""  #: "tff" or "bff" where the stream says that it is interlaced
    notes: tuple[Note, ...] = ()  #: what of the video does not come through
    version: int = VERSION
    depth: int = 8  #: bits of a sample of a decoded frame
    others: tuple[OtherInfo, ...] = ()
    chapters: int = 0
    chroma_location: int = 0  #: FFmpeg's AVChromaLocation: 0 where it is not known
    mastering: str = ""  #: of HDR10: the mastering display and the light, as FFmpeg's options have them
    light: str = ""
    stereo: str = ""  #: how two views are put into a picture, by FFmpeg's name
    side_data: tuple[str, ...] = ()  #: what else frames carry, by FFmpeg's name
    side_data_times: tuple[str, ...] = ()  #: when the first frames are shown that carry each of it
    described: tuple[str, ...] = ()  #: what of it are messages that can be taken out of packets (HDR10+)
    dolby_vision: str = ""  #: its profile, and what its base layer is compatible with: "8.1"
    language: str = ""  #: of the video stream, as its title
    title: str = ""
    timecode: str = ""  #: of the first frame
    alpha_stream: int | None = None  #: index of the video stream that says how opaque the pictures are (AVIF)
    captions: bool = False  #: whether packets carry closed captions that can be taken out of them
    roles: tuple[str, ...] = ()  #: of the video stream, as those of `AudioInfo`
    tags: tuple[str, ...] = ()  #: names of what the file says of itself ("artist"), in small letters

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The facts that ``as_dict`` gave, in this release or another.

        Raises:
            MachineError: they are of a newer version.
            KeyError, TypeError, ValueError: they are no facts.
        """
        check_version("the video facts", stored.get("version", VERSION), VERSION)
        rationals = ("time_base", "start", "average_rate", "duration", "sample_aspect_ratio")
        return super().from_dict(
            {
                **stored,
                **{name: read_fraction(stored[name]) for name in rationals},
                "audio": tuple(map(AudioInfo.from_dict, stored["audio"])),
                "subtitles": tuple(map(SubtitleInfo.from_dict, stored["subtitles"])),
                "others": tuple(map(OtherInfo.from_dict, stored.get("others", ()))),
                "notes": Note.read_all(stored.get("notes", ())),
            }
        )

    def begin_of(self, name: str) -> Fraction | None:
        """Seconds from the beginning to the first frame with side data ``name``; None where that is not known."""
        times = dict(zip(self.side_data, self.side_data_times, strict=False))
        return read_fraction(times[name]) - self.start if name in times else None

    @property
    def is_rgb(self) -> bool:
        """Whether the source has no YUV planes. Its frames then get planes by BT.709 in limited range."""
        import av  # the rest of this module is wanted where no video is opened

        return is_rgb(av.VideoFormat(self.pixel_format))

    @property
    def decoded_format(self) -> str:
        """The planes in which frames are decoded: those of ``working_format``, and alpha where there is one."""
        return self.working_format.replace("yuv", "yuva") if self.alpha else self.working_format

    @property
    def color_matrix(self) -> str:
        """The matrix between YUV and RGB, as ``dain_core.runtime.color`` names it; guessed by size where untagged.

        BT.2020 with constant luminance and ICtCp are no matrices of RGB. Their planes are taken for those of BT.2020,
        and go back the same way: what the network sees are false colours, but each plane stays what it was.
        """
        return color_matrix(self.matrix, self.width, self.height)


def color_matrix(code: int, width: int, height: int) -> str:
    """The name of a matrix between YUV and RGB, by its code point in H.273; see `VideoInfo.color_matrix`."""
    if code == UNSPECIFIED:
        return "bt709" if width >= 1280 or height > 576 else "bt601"
    return _MATRICES.get(code, "bt709")


def is_rgb(pixels: Any) -> bool:
    """Whether a pixel format (an ``av.VideoFormat``) has colours where YUV has planes."""
    return bool(pixels.is_rgb or pixels.has_palette or pixels.is_bayer)


def usual_gap(times: Sequence[Time], alone: Time) -> Time:
    """How long a last frame of unknown duration is shown: as long as the one before it, or else ``alone``."""
    return times[-1] - times[-2] if len(times) > 1 else alone


def check_version(what: str, version: int, known: int) -> None:
    """Raise MachineError where ``what`` ("the plan") is of a newer version than the one that is known here."""
    if version > known:
        raise MachineError(
            f"A newer release wrote {what} of this job, in version {version}; this worker reads up to version {known}. "
            "Update this worker."
        )


def read_fraction(text: str) -> Fraction:
    """A fraction as ``Stored.as_dict`` writes it; ValueError or TypeError where ``text`` is none."""
    if not _FRACTION.fullmatch(text):
        raise ValueError(f"{text!r:.100} is no fraction")
    return Fraction(text)


def _plain(value: Any) -> Any:
    if isinstance(value, Stored | Note):
        return value.as_dict()
    if isinstance(value, Fraction):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
