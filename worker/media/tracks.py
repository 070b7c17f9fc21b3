"""Sound tracks on their way into the result, and those that cannot come: they are known before a frame is made."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from service.jobs.notes import Note
from worker.channel import nothing
from worker.media import ffmpeg
from worker.media.choose import encoded, name_of
from worker.media.containers import COPY, container_of
from worker.media.delivery import Delivery, Extra, Sound, Text
from worker.media.errors import MachineError
from worker.media.facts import AudioInfo, VideoInfo

TRIED_FRAMES = 5  # of each sound track: more than it takes to open an encoder and to write a file's header


def mapped(source: Any, delivery: Delivery) -> tuple[list[Any], dict[str, Any]]:
    """The streams of ``source``, an input of FFmpeg, that come along, and FFmpeg's options for them."""
    streams: list[Any] = []
    options: dict[str, Any] = {"c": "copy", **encoding(delivery.sounds)}
    tracks: list[tuple[str, Sequence[Sound | Text]]] = [("a", delivery.sounds), ("s", delivery.texts)]
    for kind, several in tracks:
        for k, track in enumerate(several):
            streams.append(source[str(track.index)])
            options[f"c:{kind}:{k}"] = track.codec
            said = {"language": track.language, "title": track.title}
            if words := [f"{name}={value}" for name, value in said.items() if value]:
                options[f"metadata:s:{kind}:{k}"] = words
    attaches = container_of(delivery).attaches
    streams += [source[str(extra.index)] for extra in delivery.extras if not attaches(extra.kind)]
    return streams, options


def encoding(sounds: Sequence[Sound]) -> dict[str, Any]:
    """FFmpeg's options that make the sound tracks of an output."""
    options: dict[str, Any] = {"max_error_rate": 1}  # however much of a track is damaged: the rest is heard
    for k, sound in enumerate(sounds):
        options[f"c:a:{k}"] = sound.codec
        if sound.bitrate:
            options[f"b:a:{k}"] = sound.bitrate
        filters = [
            *_stretched(sound),
            *([f"aformat=channel_layouts={sound.layouts}"] if sound.layouts else []),
        ]
        if filters:
            options[f"filter:a:{k}"] = ",".join(filters)
    return options


def _stretched(sound: Sound) -> list[str]:
    """FFmpeg's filters that make sound slower and keep its pitch. It begins with the picture, with silence if need be.

    Rubber Band's short window keeps attacks in their places to a few milliseconds.
    """
    if not sound.speed:
        return []
    whole = ["atrim=start=0", "aresample=async=1:first_pts=0"]
    speed = Fraction(sound.speed)
    if ffmpeg.has_filter("rubberband"):
        return [*whole, f"rubberband=tempo={float(speed)}:window=short"]
    steps = math.ceil(-math.log2(speed))  # atempo halves at most
    return [*whole, *[f"atempo={float(speed) ** (1 / steps)}"] * steps]


def that_can_be_made(
    source: Path,
    info: VideoInfo,
    delivery: Delivery,
    *,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
) -> Delivery:
    """``delivery`` without the tracks that FFmpeg refuses, which notes name.

    The beginning of each track is tried. Sound that cannot be copied into the container is encoded again where this is
    possible. ``check`` is called several times a second, and may raise to stop; ``progressed`` while FFmpeg works.

    Raises:
        MachineError: the machine gave FFmpeg too little.
    """

    def refusal(**tracks: tuple[Any, ...]) -> str:
        nothing_else: dict[str, Any] = {"sounds": (), "texts": (), "extras": ()}
        with ffmpeg.Process(_trial(source, replace(delivery, **nothing_else | tracks))) as process:
            if not process.watch(check, progressed):
                return ""
            error = process.blame(ffmpeg.not_written("tried", process.messages))
            if isinstance(error, MachineError):
                raise error
            return process.reason

    def accepted(kind: str, several: tuple[Text | Extra, ...]) -> Iterator[Any]:
        if not several or not refusal(**{kind: several}):
            yield from several
            return
        for track in several:
            if why := refusal(**{kind: (track,)}):
                code = "subtitles-dropped" if isinstance(track, Text) else "stream-dropped"
                what = f"Stream {track.index} is left out: FFmpeg cannot put it into the result ({why})."
                notes[:] = [note for note in notes if note.stream != track.index]
                notes.append(Note.of(code, what, stream=track.index))
            else:
                yield track

    notes = list(delivery.notes)
    sounds = delivery.sounds
    if sounds and refusal(sounds=sounds):
        tracks = {track.index: track for track in info.audio}
        sounds = tuple(_heard(delivery, tracks, lambda sound: refusal(sounds=(sound,)), notes))
    texts = tuple(accepted("texts", delivery.texts))
    attaches = container_of(delivery).attaches
    extras = tuple(accepted("extras", tuple(each for each in delivery.extras if not attaches(each.kind))))
    extras += tuple(each for each in delivery.extras if attaches(each.kind))
    return replace(delivery, sounds=sounds, texts=texts, extras=extras, notes=tuple(notes))


def _heard(
    delivery: Delivery, tracks: Mapping[int, AudioInfo], refusal: Callable[[Sound], str], notes: list[Note]
) -> Iterator[Sound]:
    """The sound tracks that FFmpeg takes, as they are or encoded again. ``notes`` become those on the result."""
    for sound in delivery.sounds:
        track = tracks[sound.index]
        name = f"Sound track {track.index} ({track.codec})"
        why = refusal(sound)
        again = encoded(track, container_of(delivery))
        if not why:
            yield sound
        elif sound.codec == COPY and not refusal(again):
            yield again
            what = f"{name} is encoded again, as {name_of(again)}: the container does not take it as it is."
            notes.append(
                Note.of("audio-encoded" if again.bitrate else "audio-converted", what, stream=track.index)
            )
        else:
            notes[:] = [
                note for note in notes if note.stream != track.index
            ]  # which told how it comes through
            what = f"{name} is left out: FFmpeg cannot put it into the result ({why})."
            notes.append(Note.of("audio-dropped", what, stream=track.index))


def _trial(source: Path, delivery: Delivery) -> list[str]:
    """The command line that makes the beginning of the tracks in the container of the result, and keeps nothing."""
    streams, options = mapped(ffmpeg.source(source), delivery)
    if delivery.sounds:
        options["frames:a"] = TRIED_FRAMES
        options["abort_on"] = (
            "empty_output_stream"  # of a track that holds nothing the result would lack it, unsaid
        )
    else:
        options["t"] = 0.1  # the file's header is what a container refuses
    return ffmpeg.command(
        ffmpeg.output(
            *streams, url=ffmpeg.url(Path(os.devnull)), format=container_of(delivery).muxer, **options
        )
    )
