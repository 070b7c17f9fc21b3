"""What comes out: container, codec, pixels, quality, side data and streams.

`choose` decides once, when a job is planned, from the facts about its video and its options. The plan keeps the
decision, and the encoder, the join and the result follow it. So what can come out is written in two tables, which are
the only place that knows H.264 and MP4: `CODECS` and `CONTAINERS`. One more delivery is one more entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

from service.jobs.notes import Note
from service.jobs.options import Options
from worker.media.facts import AudioInfo, Stored, VideoInfo, read_fraction

# Encoding must not hold up the network. At 1280x720 and CRF 18 a CPU core encodes some 15 frames a second on this
# preset, a third more than on x264's default, "medium", at 0.4 dB less; "veryfast" gives away another 1.2 dB.
PRESET = "faster"

COPY = "copy"
AUDIO_BITRATE = 96_000  # bits a second and channel, for sound that is encoded again
MOST_CHANNELS = 8  # that an encoder of sound takes
LOSSLESS = {"alac", "ape", "flac", "mlp", "shorten", "tak", "truehd", "tta", "wavpack", "wmalossless"}
DEEP = (
    "pcm_f",
    "pcm_s32",
    "pcm_s64",
    "pcm_u32",
    "tta",
    "wavpack",
)  # may have more bits than a lossless encoder takes
#: Encoder of sound -> the channel layouts that it takes, where it does not take all.
LAYOUTS = {"aac": "mono|stereo|3.0|4.0|quad|5.0|5.0(side)|5.1|5.1(side)|6.0|6.1|7.0|7.1|octagonal"}
PLAIN_LAYOUTS = {1: "mono", 2: "stereo"}  # by the number of channels: FFmpeg would mix "downmix" to "mono"
SLOWEST, FASTEST = Fraction(1), Fraction(1000)  # frames a second that an encoder is told


@dataclass(frozen=True)
class Sound(Stored):
    """A sound track of the result."""

    index: int  #: of the stream in the source
    codec: str  #: FFmpeg's name of the encoder, or "copy"
    bitrate: int  #: bits a second; 0 where nothing is lost
    sample_rate: int
    layouts: str = ""  #: FFmpeg's names of the channel layouts that it can have, between "|"; empty for any


@dataclass(frozen=True)
class Text(Stored):
    """A subtitle track of the result."""

    index: int  #: of the stream in the source
    codec: str  #: FFmpeg's name of the encoder


@dataclass(frozen=True)
class Delivery(Stored):
    """How the result of a job is made. Colour tags are code points of ITU-T H.273, sizes are in pixels."""

    container: str  #: a key of `CONTAINERS`
    codec: str  #: a key of `CODECS`
    preset: str  #: how hard the encoder tries, in its own words
    quality: int  #: in the codec's own measure
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
    notes: tuple[Note, ...] = ()  #: what of the source's sound does not come through as it was

    @classmethod
    def choose(cls, info: VideoInfo, options: Options, rate: Fraction) -> Self:
        """The delivery of a result of about `rate` frames a second.

        Slow motion does not play in time with the source: sound, subtitles and chapters stay out.
        """
        container, in_time = CONTAINERS["mp4"], options.speed is None
        sounds = info.audio if options.audio == "copy" else ()
        texts = [text for text in info.subtitles if in_time and text.codec in container.readable_texts]
        return cls(
            container="mp4",
            codec="h264",
            preset=PRESET,
            quality=options.quality,
            width=info.width,
            height=info.height,
            pixel_format=info.working_format,
            rate=min(max(rate, SLOWEST), FASTEST).limit_denominator(1001),
            primaries=info.primaries,
            transfer=info.transfer,
            matrix=info.matrix,
            full_range=info.full_range,
            sample_aspect_ratio=info.sample_aspect_ratio,
            display_matrix=info.display_matrix,
            sounds=tuple(delivered(sound, container) for sound in sounds if sound.channels <= MOST_CHANNELS),
            texts=tuple(Text(text.index, container.text_encoder) for text in texts),
            chapters=in_time,
            notes=tuple(note for sound in sounds if (note := _note(sound, container))),
        )

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The delivery that `as_dict` gave, in this release or another; KeyError or the like where it is none."""
        delivery = super().from_dict(
            {
                **stored,
                "rate": read_fraction(stored["rate"]),
                "sample_aspect_ratio": read_fraction(stored["sample_aspect_ratio"]),
                "display_matrix": tuple(stored["display_matrix"]),
                "sounds": tuple(map(Sound.from_dict, stored["sounds"])),
                "texts": tuple(map(Text.from_dict, stored["texts"])),
                "notes": Note.read_all(stored.get("notes", ())),
            }
        )
        return delivery

    @property
    def file(self) -> Container:
        """What kind of file the result is."""
        return CONTAINERS[self.container]

    def encoding(self) -> dict[str, Any]:
        """FFmpeg's options that make a segment of this picture. Segments of one delivery can be joined."""
        return CODECS[self.codec](self)


def delivered(sound: AudioInfo, container: Container) -> Sound:
    """How a sound track comes into the result: as it is where players of the container know it, or else encoded."""
    if sound.codec in container.playable_sounds:
        return Sound(sound.index, COPY, 0, sound.sample_rate)
    return encoded(sound, container)


def encoded(sound: AudioInfo, container: Container) -> Sound:
    """A sound track that is encoded again."""
    codec, bitrate = container.sound_encoder, AUDIO_BITRATE * max(sound.channels, 2)
    if _is_lossless(sound):
        codec, bitrate = container.lossless_encoder, 0
    layouts = LAYOUTS.get(codec, "")
    return Sound(
        sound.index, codec, bitrate, sound.sample_rate, layouts and PLAIN_LAYOUTS.get(sound.channels, layouts)
    )


def _is_lossless(sound: AudioInfo) -> bool:
    return sound.codec.startswith("pcm_") or sound.codec in LOSSLESS


def _note(sound: AudioInfo, container: Container) -> Note | None:
    """The note on a sound track that is not what it was, or None."""

    def noted(code: str, what: str) -> Note:
        return Note.of(code, f"Sound track {sound.index} ({sound.codec}) {what}", stream=sound.index)

    if sound.channels > MOST_CHANNELS:
        return noted(
            "audio-dropped",
            f"has {sound.channels} channels. The result can have {MOST_CHANNELS}, so it is left out.",
        )
    if sound.codec in container.playable_sounds:
        return None
    if not _is_lossless(sound):
        return noted(
            "audio-encoded",
            f"is encoded again, as {container.sound_encoder.upper()}: few players know it in this container.",
        )
    if sound.codec.startswith(DEEP):
        return noted(
            "audio-depth",
            f"has at most 24 bits a sample in the result, as {container.lossless_encoder.upper()}.",
        )
    return None


# -- codecs -------------------------------------------------------------------------------------------


def _h264(delivery: Delivery) -> dict[str, Any]:
    # The tags are written into the stream itself: asked for them by name, ffmpeg might convert the pixels.
    tags = {
        "video_full_range_flag": int(delivery.full_range),
        "colour_primaries": delivery.primaries,
        "transfer_characteristics": delivery.transfer,
        "matrix_coefficients": delivery.matrix,
    }
    return {
        "format": "mp4",
        "vcodec": "libx264",
        "preset": delivery.preset,
        # CRF 0 is lossless in 8 bits alone, a quantiser of 0 in 10 bits too.
        **({"crf": delivery.quality} if delivery.quality else {"qp": 0}),
        "bsf:v": "h264_metadata=" + ":".join(f"{name}={value}" for name, value in tags.items()),
    }


#: Name -> FFmpeg's options for a segment.
CODECS: dict[str, Callable[[Delivery], dict[str, Any]]] = {"h264": _h264}


# -- containers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Container:
    """A kind of file."""

    muxer: str  #: FFmpeg's name
    suffixes: tuple[str, ...]  #: of file names; the first is ours
    media_type: str
    finest_clock: int  #: the most ticks a second by which pictures can be timed
    coarsest_clock: int  #: and the fewest that players expect
    #: FFmpeg's options for a picture whose times are in ticks of the first clock, in a file that counts by the second.
    clocks: Callable[[int, int], dict[str, Any]]
    finish: Mapping[str, Any]  #: FFmpeg's options for the result alone
    playable_sounds: frozenset[str]  #: what players can be relied on to play; other sound is encoded
    sound_encoder: str
    lossless_encoder: str  #: for sound that has lost nothing so far
    readable_texts: frozenset[str]  #: what the text encoder can turn into its own kind
    text_encoder: str

    @property
    def suffix(self) -> str:
        return self.suffixes[0]


def _mp4_clocks(picture: int, movie: int) -> dict[str, Any]:
    return {"video_track_timescale": picture, "movie_timescale": movie}


#: Name -> kind of file.
CONTAINERS = {
    "mp4": Container(
        muxer="mp4",
        suffixes=(".mp4", ".m4v"),
        media_type="video/mp4",
        finest_clock=10_000_000,  # ticks between neighbouring frames have 32 bits: room for minutes
        coarsest_clock=10_000,
        clocks=_mp4_clocks,
        finish={"movflags": "+faststart"},  # so that it plays while it is fetched
        playable_sounds=frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}),
        sound_encoder="aac",
        lossless_encoder="flac",
        readable_texts=frozenset({"ass", "mov_text", "ssa", "subrip", "text", "webvtt"}),
        text_encoder="mov_text",
    )
}
