"""What comes out of a job is chosen once, when it is planned, from the facts about its video and its options.

The plan keeps the choice, a `Delivery`, and the encoder, the join and the result follow it. What can come out is
written in tables, which are the only places that know codecs and containers: `service.jobs.formats` says what goes
together, `worker.media.codecs` how pictures are encoded, `worker.media.containers` what a file can hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from service.jobs import formats
from service.jobs.notes import Note
from service.jobs.options import Options
from worker.media.codecs import ENCODINGS, FRAME_PACKING, LOSSLESS
from worker.media.containers import ALL, CONTAINERS, COPY, Container
from worker.media.delivery import ANY_SIZE, Delivery, Extra, Sound, Text
from worker.media.facts import AudioInfo, SubtitleInfo, VideoInfo
from worker.media.messages import RESULTS

AUDIO_BITRATE = 96_000  # bits a second and channel, for sound that is encoded again
MOST_CHANNELS = 8  # that an encoder of sound takes
LOSSLESS_SOUNDS = {"alac", "ape", "flac", "mlp", "shorten", "tak", "truehd", "tta", "wavpack", "wmalossless"}
DEEP = (
    "pcm_f",
    "pcm_s32",
    "pcm_s64",
    "pcm_u32",
    "tta",
    "wavpack",
)  # may have more bits than a lossless encoder takes
#: Encoder of sound -> the channel layouts that it takes, where it does not take all.
LAYOUTS = {
    "aac": "mono|stereo|3.0|4.0|quad|5.0|5.0(side)|5.1|5.1(side)|6.0|6.1|7.0|7.1|octagonal",
    "libopus": "mono|stereo|3.0|quad|5.0|5.1|6.1|7.1",
}
PLAIN_LAYOUTS = {1: "mono", 2: "stereo"}  # by the number of channels: FFmpeg would mix "downmix" to "mono"
NAMES = {"libopus": "OPUS", "pcm_s24le": "PCM"}  # of codecs, for sentences, where the encoder has another
SLOWEST, FASTEST = Fraction(1), Fraction(1000)  # frames a second that an encoder is told
HDR = (16, 18)  # PQ and HLG, in the code points of H.273
COARSE = 1000  # ticks a second, of a file that rounds the times of common frame rates
MOST_DESCRIBED = 500_000  # frames that carry messages which describe them, in a job
LIMITED = {"prores", "dnxhr", "webp"}  # codecs without full range
GIF_RATE = 50  # frames a second, the most that browsers show


def choose(info: VideoInfo, options: Options, rate: Fraction) -> Delivery:
    """The delivery of a result of about `rate` frames a second.

    Slow motion does not play in time with the source: subtitles and chapters stay out, and sound unless it is
    stretched.
    """
    codec = formats.codec_of(options.container, options.codec)
    file, in_time = CONTAINERS[options.container], options.speed is None
    encoding = ENCODINGS.get(codec, LOSSLESS)
    planes, coded = _pixels(info, codec, options)
    choice = _Choice(info, options, file)
    return Delivery(
        container=options.container,
        codec=codec,
        preset=encoding.preset if options.preset == "auto" else options.preset,
        quality=options.quality,
        width=info.width,
        height=info.height,
        pixel_format=planes,
        rate=min(max(rate, SLOWEST), FASTEST).limit_denominator(1001),
        primaries=info.primaries,
        transfer=info.transfer,
        matrix=info.matrix,
        full_range=info.full_range,
        sample_aspect_ratio=info.sample_aspect_ratio,
        display_matrix=info.display_matrix,
        sounds=choice.sounds,
        texts=choice.texts,
        chapters=in_time and file.chapters,
        coded_format="" if coded == planes else coded,
        max_bitrate=options.max_bitrate or 0,
        extras=choice.extras,
        notes=(
            *choice.notes,
            *_notes_on_pixels(info, codec, coded),
            *choice.notes_on_captions(codec),
            *_notes_on_side_data(info, codec, file),
            *_notes_on_times(rate, options.container, file),
        ),
        chroma_location=info.chroma_location if "420" in coded else 0,
        mastering=info.mastering,
        light=info.light,
        stereo=info.stereo,
        language=file.language(info.language),
        title=info.title,
        timecode=_timecode(info, rate),
        enhance=options.enhancements,
        captions=in_time and info.captions and codec in RESULTS,
        roles=tuple(role for role in info.roles if role != "default" and role in file.roles),
        caption_track=choice.caption_track(codec),
        described=_described(info, codec),
        own_tags=choice.own_tags,
        color_matrix=info.color_matrix,
    )


@dataclass(frozen=True)
class _Choice:
    """Which streams of a video come along."""

    info: VideoInfo
    options: Options
    file: Container

    @property
    def sounds(self) -> tuple[Sound, ...]:
        """The sound tracks of the result."""
        if self.options.audio == "none" or not self.file.sound_encoder:
            return ()
        return tuple(
            delivered(sound, self.file, self.options)
            for sound in self.info.audio
            if sound.channels <= MOST_CHANNELS or self._comes_as_it_is(sound)
        )

    @property
    def texts(self) -> tuple[Text, ...]:
        """The subtitle tracks of the result."""
        if self.options.speed is not None:
            return ()
        return tuple(
            Text(text.index, self.file.texts[text.codec], self.file.language(text.language), text.title)
            for text in self.info.subtitles
            if text.codec in self.file.texts
        )

    @property
    def extras(self) -> tuple[Extra, ...]:
        """The other streams of the result."""
        return tuple(
            Extra(other.index, other.kind, other.codec)
            for other in self.info.others
            if self._holds(other.kind, other.codec)
            and (self.options.speed is None or other.kind in ("cover", "attachment"))
        )

    @property
    def notes(self) -> Iterator[Note]:
        """What does not come along, or not as it was."""
        yield from (note for sound in self.info.audio if (note := self._note_on(sound)))
        kept = {extra.index for extra in self.extras}
        for text in self.info.subtitles:
            name, becomes = f"Subtitle track {text.index} ({text.codec})", self.file.texts.get(text.codec)
            if self._why_not or not becomes:
                yield self._left_out("subtitles-dropped", name, text.index)
            elif text.codec in ("ass", "ssa") and becomes not in (COPY, "ass"):
                what = f"{name} loses its style and its place: {self.options.container} holds plain text."
                yield Note.of("subtitles-converted", what, stream=text.index)
        for other in self.info.others:
            name = f"{KINDS.get(other.kind, 'Stream')} {other.index} ({other.codec})"
            if other.index not in kept:
                yield self._left_out(
                    "stream-dropped", name, other.index, in_time=other.kind in ("film", "data")
                )
            elif other.kind == "film":
                yield Note.of(
                    "stream-copied", f"{name} comes along as it is, without new frames.", stream=other.index
                )
        yield from self._notes_on_tags
        tracks: list[VideoInfo | AudioInfo | SubtitleInfo]
        tracks = [self.info, *self.info.audio, *self.info.subtitles]
        for track in tracks:
            if track.language and not self.file.language(track.language) and self.file.sound_encoder:
                index = track.stream if isinstance(track, VideoInfo) else track.index
                what = f"The language of stream {index} ({track.language}) is left out: "
                yield Note.of(
                    "tags-dropped", f"{what}{self.options.container} has no code for it.", stream=index
                )
        if self.info.chapters and (self._why_not or not self.file.chapters):
            yield self._left_out("chapters-dropped", "The chapters")

    def notes_on_captions(self, codec: str) -> Iterator[Note]:
        """What becomes of closed captions within the pictures in those of ``codec``."""
        if "A53_CC" not in self.info.side_data:
            return
        what, begin = (
            "The closed captions (CEA-608/708) within the pictures",
            self.info.begin_of("A53_CC") or None,
        )
        if self.caption_track(codec):
            text = "What CEA-608 says in its first field, if anything, becomes a subtitle track"
            why = f"{codec} has no room for them. {text}"
            yield Note.of("captions-converted", f"{what} are left out: {why}.", time=begin)
        elif self._why_not or not self.info.captions or codec not in RESULTS:
            unread = "" if self.info.captions else "their form is not understood"
            why = self._why_not or unread or f"{self.options.container} cannot hold them"
            yield Note.of("captions-dropped", f"{what} are left out: {why}.", time=begin)

    def caption_track(self, codec: str) -> str:
        """The codec of the subtitles that closed captions become beside pictures of ``codec``; empty: they do not."""
        if not self.info.captions or self._why_not or codec in RESULTS:
            return ""
        return self.file.texts.get("eia_608", "")

    @property
    def own_tags(self) -> bool:
        """Whether the file is one that keeps the names of tags: those of phones are names of domains."""
        has_cover = any(extra.kind == "cover" for extra in self.extras)
        return bool(self.file.own_tags) and not has_cover and any("." in tag for tag in self.info.tags)

    @property
    def _notes_on_tags(self) -> Iterator[Note]:
        """What the file says of itself and of its tracks that the result does not."""
        held = ALL if self.own_tags else self.file.tags
        lost = [tag for tag in self.info.tags if not self.file.holds(held, tag)]
        if lost:
            what = f"tags {', '.join(lost)} are" if len(lost) > 1 else f"tag {lost[0]} is"
            yield self._left_out("tags-dropped", f"The file's {what}", in_time=False)
        kept = {
            self.info.stream,
            *(sound.index for sound in self.sounds),
            *(text.index for text in self.texts),
        }
        tracks: list[VideoInfo | AudioInfo | SubtitleInfo] = [
            self.info,
            *self.info.audio,
            *self.info.subtitles,
        ]
        for track in tracks:
            index = track.stream if isinstance(track, VideoInfo) else track.index
            held = self.file.roles | ({"default"} if track is self.info else set())  # which every picture is
            unmarked = [role for role in track.roles if role not in held]
            if unmarked and index in kept:
                what = f"Stream {index} is no longer marked as {' and '.join(unmarked)}".replace("_", " ")
                why = f"{self.options.container} has no such mark."
                yield Note.of("tags-dropped", f"{what}: {why}", stream=index)

    def _note_on(self, sound: AudioInfo) -> Note | None:
        """The note on a sound track that is not what it was, or None."""
        track, mode = f"Sound track {sound.index} ({sound.codec})", self.options.audio

        def noted(code: str, what: str) -> Note:
            return Note.of(code, f"{track} {what}", stream=sound.index)

        if not self.file.sound_encoder:
            return self._left_out("audio-dropped", track, sound.index, in_time=False)
        if mode == "none":
            asked = not self._why_not
            return (
                None
                if asked
                else noted("audio-dropped", f"is left out: {self._why_not}. audio=stretch keeps it.")
            )
        if self._comes_as_it_is(sound):
            return None
        if sound.channels > MOST_CHANNELS:
            what = f"has {sound.channels} channels. The result can have {MOST_CHANNELS}, so it is left out."
            return noted("audio-dropped", what)
        made = delivered(sound, self.file, self.options)
        name = name_of(made)
        if made.speed:
            return noted(
                "audio-stretched", f"is stretched to the speed of the picture, and encoded as {name}."
            )
        if made.bitrate:
            unheard = f"{self.options.container} cannot hold it"
            if self.file.lossless_encoder:
                unheard = "few players know it in this container"
            why = "it was asked for" if mode == "aac" else unheard
            return noted("audio-encoded", f"is encoded again, as {name}: {why}.")
        if sound.codec.startswith(DEEP):
            return noted("audio-depth", f"has at most 24 bits a sample in the result, as {name}.")
        return None

    @property
    def _why_not(self) -> str:
        """Why nothing comes along that has times of its own; empty where it does."""
        return "" if self.options.speed is None else "slow motion does not play in time with it"

    def _left_out(self, code: str, what: str, stream: int | None = None, in_time: bool = True) -> Note:
        why = (in_time and self._why_not) or f"{self.options.container} cannot hold it"
        are = "" if what.endswith((" is", " are")) else " are" if what.endswith("chapters") else " is"
        return Note.of(code, f"{what}{are} left out: {why}.", stream=stream)

    def _comes_as_it_is(self, sound: AudioInfo) -> bool:
        return delivered(sound, self.file, self.options).codec == COPY

    def _holds(self, kind: str, codec: str) -> bool:
        if kind == "attachment":
            return self.file.attachments
        held = {"cover": self.file.covers, "film": self.file.films, "data": self.file.data}.get(
            kind, frozenset()
        )
        return self.file.holds(held, codec)


KINDS = {"cover": "Cover picture", "film": "Video stream", "data": "Data stream", "attachment": "Attachment"}


def delivered(sound: AudioInfo, container: Container, options: Options) -> Sound:
    """How a sound track comes into the result: as it is where this is wanted and players know it, or else encoded."""
    if options.audio == "stretch":
        return replace(encoded(sound, container), speed=options.speed or "")
    if options.audio == "aac" and sound.codec != "aac":
        return _encoded(sound, container, "aac", AUDIO_BITRATE * max(sound.channels, 2))
    if options.audio == "best" or container.holds(container.playable_sounds, sound.codec):
        return replace(encoded(sound, container), codec=COPY, bitrate=0, layouts="")
    return encoded(sound, container)


def encoded(sound: AudioInfo, container: Container) -> Sound:
    """A sound track that is encoded again, without loss where it has had none."""
    if is_lossless(sound) and container.lossless_encoder:
        return _encoded(sound, container, container.lossless_encoder, 0)
    return _encoded(sound, container, container.sound_encoder, AUDIO_BITRATE * max(sound.channels, 2))


def _encoded(sound: AudioInfo, container: Container, codec: str, bitrate: int) -> Sound:
    layouts = LAYOUTS.get(codec, "")
    return Sound(
        sound.index,
        codec,
        bitrate,
        sound.sample_rate,
        layouts and PLAIN_LAYOUTS.get(sound.channels, layouts),
        language=container.language(sound.language),
        title=sound.title,
    )


def name_of(sound: Sound) -> str:
    """The name of the codec that a sound track is encoded in, for sentences."""
    return NAMES.get(sound.codec, sound.codec.upper())


def is_lossless(sound: AudioInfo) -> bool:
    """Whether the sound has lost nothing so far."""
    return sound.codec.startswith("pcm_") or sound.codec in LOSSLESS_SOUNDS


def _pixels(info: VideoInfo, codec: str, options: Options) -> tuple[str, str]:
    """The planes in which frames are made, and their pixel format in the file: with alpha where both can have it."""
    if info.alpha and formats.holds_alpha(options.container, codec):
        coded = _coded_format(info.decoded_format, codec, options.pixel_format)
        if formats.has_alpha(coded):
            return info.decoded_format, coded
    return info.working_format, _coded_format(info.working_format, codec, options.pixel_format)


def _coded_format(planes: str, codec: str, wanted: str) -> str:
    """The pixel format in the file, of pictures with ``planes``."""
    if codec not in ENCODINGS:
        return planes  # pictures and animations are made of lossless segments
    encoder = formats.CODECS[codec]
    return encoder.pixels_for({"source": planes, "compatible": formats.BROWSERS}.get(wanted, wanted))


def _notes_on_pixels(info: VideoInfo, codec: str, coded: str) -> Iterator[Note]:
    """What of the pixels is not what it was, or is not shown by every player."""
    made = formats.CODECS[codec].pixels_for(coded)
    depth = 16 if "48" in made or "64" in made or "32" in made else 10 if formats.is_deep(made) else 8
    if info.depth > depth or info.depth > 10:  # which new frames have at most
        what = f"The pictures have {min(depth, 10)} bits a sample in the result, of {info.depth}."
        yield Note.of("pixels-depth", what)
    if not made.startswith(("rgb", "gbr", "pal", "bgr")) and _chroma(made) < _chroma(info.working_format):
        what = f"The pictures have less resolution of colour in the result: {made} in place of {info.working_format}."
        yield Note.of("pixels-chroma", what)
    if info.is_rgb:
        what = "The pictures are RGB, and become YUV of limited range (BT.709): colours are rounded by it."
        yield Note.of("pixels-range", what)
    elif info.full_range and codec in LIMITED:
        what = f"The pictures have limited range in the result, with fewer levels: {codec} has no full range."
        yield Note.of("pixels-range", what)
    if codec == "gif":
        yield Note.of("pixels-palette", "The pictures have 256 colours in the result: GIF has no more.")
    odd = info.width % 2 or info.height % 2
    if odd and "420" in made and codec in ENCODINGS and codec not in ANY_SIZE:
        what = (
            "The pictures have an odd size, which the codec has not: the last column or row is there twice."
        )
        yield Note.of("pixels-padded", what)
    if made not in PLAYABLE.get(codec.removesuffix("_nvenc"), {made}):
        what = (
            f"The result is {codec} with pixels of {made}, which browsers and most televisions do not play."
        )
        yield Note.of("pixels-unplayable", f"{what} pixel_format=compatible makes a result that they do.")


#: Side data that a result may lack, and what it is in a sentence.
SIDE_DATA = {
    "AFD": "The active format description is",
    "AMBIENT_VIEWING_ENVIRONMENT": "The description of the ambient light is",
    "DYNAMIC_HDR_PLUS": "The metadata of HDR10+ is",
    "DYNAMIC_HDR_VIVID": "The metadata of HDR Vivid is",
    "FILM_GRAIN_PARAMS": "The description of film grain is",
    "ICC_PROFILE": "The ICC profile is",
    "SPHERICAL": "The mark of a spherical (360 degrees) video is",
}
IN_H264 = {"AFD"}  # messages that are read in H.264: others are of HDR
DOLBY_VISION = {"DOVI_METADATA", "DOVI_RPU_BUFFER"}
#: What the base layer of Dolby Vision is by itself, by the number behind its profile.
BASE_LAYERS = {"1": "HDR10", "2": "SDR", "4": "HLG", "6": "HDR10"}


def _described(info: VideoInfo, codec: str) -> tuple[str, ...]:
    """The messages that describe pictures of the source, and that those of ``codec`` carry."""
    if codec not in RESULTS or info.frames > MOST_DESCRIBED:
        return ()
    return tuple(name for name in info.described if name in IN_H264 or not codec.startswith("h264"))


def _notes_on_side_data(info: VideoInfo, codec: str, file: Container) -> Iterator[Note]:
    """What the pictures carry that does not come along."""
    for name, what in SIDE_DATA.items():
        if name not in info.side_data or name in _described(info, codec):
            continue
        why = (
            f"{codec} is not given it here"
            if name in info.described
            else "it would not fit, or cannot be written"
        )
        yield Note.of("side-data-dropped", f"{what} left out: {why}.", time=info.begin_of(name) or None)
    if info.dolby_vision or not DOLBY_VISION.isdisjoint(info.side_data):
        begins = [time for name in DOLBY_VISION if (time := info.begin_of(name)) is not None]
        what = _on_dolby_vision(info.dolby_vision)
        yield Note.of("side-data-dropped", what, time=min(begins, default=None) or None)
    in_stream = codec == "h264" and info.stereo in FRAME_PACKING
    if info.stereo and not in_stream and info.stereo not in file.stereo_modes:
        what = f"The mark of a stereoscopic video ({info.stereo}) is left out: {codec} cannot hold it here."
        yield Note.of("side-data-dropped", what)
    if (info.mastering or info.light) and codec not in ENCODINGS:
        yield Note.of("side-data-dropped", f"The metadata of HDR10 is left out: {codec} cannot hold it.")
    if info.transfer in HDR and codec not in (*ENCODINGS, "exr"):  # which holds light as such
        what = f"The mark of HDR is left out: {codec} cannot hold it, and the picture looks flat and gray."
        yield Note.of("side-data-dropped", what)
    if info.timecode and codec not in ENCODINGS:
        yield Note.of("side-data-dropped", f"The timecode is left out: {codec} cannot hold it.")


def _on_dolby_vision(profile: str) -> str:
    """The note on Dolby Vision of a profile such as "8.1", which is empty where the file does not say."""
    name = f"Dolby Vision (profile {profile})" if profile else "Dolby Vision"
    base = BASE_LAYERS.get(profile.partition(".")[2])
    if base:
        remains = f"what remains is its base layer, which is {base}"
    elif profile:
        remains = "what remains is its base layer, whose colours are wrong by themselves"
    else:
        remains = "what remains is its base layer"
    return f"The metadata of {name} is left out, and with it its colours by scene: {remains}."


def _notes_on_times(rate: Fraction, container: str, file: Container) -> Iterator[Note]:
    """What becomes of times in a file that counts fractions of a second coarsely."""
    if file.finest_clock <= COARSE and (file.finest_clock / rate).denominator != 1:
        what = f"The times of frames are rounded to 1/{file.finest_clock} s: {container} counts no finer."
        yield Note.of("times-rounded", what)
    if container == "gif" and rate > GIF_RATE:
        what = f"Browsers show a GIF of more than {GIF_RATE} frames a second more slowly than it is."
        yield Note.of("times-unplayable", f"{what} target_fps={GIF_RATE} makes one that they show as it is.")


def _timecode(info: VideoInfo, rate: Fraction) -> str:
    """The timecode of the first frame, counted at ``rate`` frames a second."""
    if not info.timecode:
        return ""
    frames = int(info.timecode[9:]) * round(rate) // max(round(info.average_rate), 1)
    drops = info.timecode[8] if round(rate) % 30 == 0 and rate.denominator == 1001 else ":"
    return f"{info.timecode[:8]}{drops}{frames:02}"


#: Pixel formats of a codec that browsers and televisions play, where they play the codec.
PLAYABLE = {"h264": {"yuv420p"}, "hevc": {"yuv420p", "yuv420p10le"}}


def _chroma(pixels: str) -> int:
    return int("".join(filter(str.isdigit, pixels))[:3])
