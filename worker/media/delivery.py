"""What comes out of a job: container, codec, pixels, quality, side data and streams. See `worker.media.choose`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

from service.jobs import formats
from service.jobs.notes import Note
from worker.media.facts import Stored, read_fraction

ANY_SIZE = {"vp9", "ffv1"}  # codecs that have odd sizes where chroma is subsampled


@dataclass(frozen=True)
class Sound(Stored):
    """A sound track of the result."""

    index: int  #: of the stream in the source
    codec: str  #: FFmpeg's name of the encoder, or "copy"
    bitrate: int  #: bits a second; 0 where nothing is lost
    sample_rate: int
    layouts: str = ""  #: FFmpeg's names of the channel layouts that it can have, between "|"; empty for any
    speed: str = ""  #: how fast it plays in slow motion, a ratio; empty where it plays as fast as it did
    language: str = ""
    title: str = ""


@dataclass(frozen=True)
class Text(Stored):
    """A subtitle track of the result."""

    index: int  #: of the stream in the source
    codec: str  #: FFmpeg's name of the encoder, or "copy"
    language: str = ""
    title: str = ""


@dataclass(frozen=True)
class Extra(Stored):
    """A stream of the source that comes along as it is: a cover picture, another film, data, an attachment."""

    index: int  #: of the stream in the source
    kind: str  #: as in `OtherInfo`
    codec: str = ""


@dataclass(frozen=True)
class Delivery(Stored):
    """How the result of a job is made. Colour tags are code points of ITU-T H.273, sizes are in pixels."""

    container: str  #: a key of `service.jobs.formats.CONTAINERS`
    codec: str  #: a key of `service.jobs.formats.CODECS`
    preset: str  #: how hard the encoder tries, in the words of x264
    quality: int  #: on the scale of H.264's CRF
    width: int
    height: int
    pixel_format: str  #: a name in ``dain_core.runtime.pixels``: of the planes that the encoder is given
    rate: Fraction  #: frames a second, about: each frame's exact time is in the schedule
    primaries: int
    transfer: int
    matrix: int
    full_range: bool
    sample_aspect_ratio: Fraction
    display_matrix: tuple[int, ...]  #: as in `VideoInfo`
    sounds: tuple[Sound, ...]
    texts: tuple[Text, ...]
    chapters: bool  #: whether the source's chapters come along
    notes: tuple[Note, ...] = ()  #: what of the source does not come through as it was
    coded_format: str = (
        ""  #: of the pixels in the file, by FFmpeg's name; empty for those that the encoder is given
    )
    max_bitrate: int = 0  #: bits a second; 0 is no cap
    extras: tuple[Extra, ...] = ()
    chroma_location: int = 0  #: as in `VideoInfo`, as are those below
    mastering: str = ""
    light: str = ""
    stereo: str = ""
    language: str = ""
    title: str = ""
    timecode: str = ""  #: of the first frame of the result
    enhance: tuple[
        str, ...
    ] = ()  #: keys of `worker.media.encode.ENHANCEMENTS`, in the order in which they are done
    captions: bool = (
        False  #: whether closed captions within the source's pictures are within those of the result
    )
    roles: tuple[str, ...] = ()  #: that the picture is marked with, beside "default", by FFmpeg's names
    caption_track: str = ""  #: FFmpeg's codec of the subtitles that they become where they are not
    described: tuple[
        str, ...
    ] = ()  #: the messages that describe the source's pictures and are within those of the result
    own_tags: bool = False  #: whether the file's tags keep names of their own, such as phones write
    color_matrix: str = "bt709"  #: by which pictures become RGB, as ``dain_core.runtime.color`` names it

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The delivery that `as_dict` gave, in this release or another; KeyError or the like where it is none."""
        return super().from_dict(
            {
                **stored,
                "rate": read_fraction(stored["rate"]),
                "sample_aspect_ratio": read_fraction(stored["sample_aspect_ratio"]),
                "sounds": tuple(map(Sound.from_dict, stored["sounds"])),
                "texts": tuple(map(Text.from_dict, stored["texts"])),
                "notes": Note.read_all(stored.get("notes", ())),
                "extras": tuple(map(Extra.from_dict, stored.get("extras", ()))),
            }
        )

    @property
    def kind(self) -> formats.Container:
        """What kind of file the result is, for those who get it."""
        return formats.CONTAINERS[self.container]

    @property
    def is_plain(self) -> bool:
        """Whether readers that know no other deliveries than H.264 in MP4 make the same of it."""
        new = (self.coded_format, self.max_bitrate, self.extras, self.mastering, self.light, self.stereo)
        kept = (self.own_tags, self.roles, self.captions, self.caption_track, self.described)
        stretched = any(sound.speed for sound in self.sounds)
        return (self.container, self.codec) == ("mp4", "h264") and not any((*new, *kept, stretched))

    @property
    def static_metadata(self) -> dict[str, str]:
        """FFmpeg's options that give an input the metadata of HDR10: of the mastering display, and of the light."""
        given = {"mastering_display": self.mastering, "content_light": self.light}
        return {name: value for name, value in given.items() if value}

    @property
    def coded_pixels(self) -> str:
        """The pixels in the file, by FFmpeg's name."""
        return self.coded_format or self.pixel_format

    @property
    def coded_size(self) -> tuple[int, int]:
        """Width and height in the file: where chroma is subsampled most codecs have no odd sizes."""
        coded = self.coded_pixels
        if not self.coded_format or self.codec in ANY_SIZE:
            return self.width, self.height
        halved_x, halved_y = "420" in coded or "422" in coded, "420" in coded
        return self.width + (halved_x and self.width % 2), self.height + (halved_y and self.height % 2)
