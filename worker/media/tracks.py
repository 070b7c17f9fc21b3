"""Sound tracks on their way into the result, and those that cannot come: they are known before a frame is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.jobs.notes import Note
from worker.channel import nothing
from worker.media import ffmpeg
from worker.media.containers import COPY
from worker.media.delivery import Delivery, Sound, encoded
from worker.media.errors import MachineError
from worker.media.facts import VideoInfo

TRIED_FRAMES = 5  # of each sound track: more than it takes to open an encoder and to write a file's header


def mapped(source: Any, delivery: Delivery) -> tuple[list[Any], dict[str, Any]]:
    """The streams of ``source``, an input of FFmpeg, that come along, and FFmpeg's options for them."""
    streams = [source[str(sound.index)] for sound in delivery.sounds]
    options: dict[str, Any] = {"c": "copy", **encoding(delivery.sounds)}
    for k, text in enumerate(delivery.texts):
        streams.append(source[str(text.index)])
        options[f"c:s:{k}"] = text.codec
    streams += [source[str(extra.index)] for extra in delivery.extras]
    return streams, options


def encoding(sounds: Sequence[Sound]) -> dict[str, Any]:
    """FFmpeg's options that make the sound tracks of an output."""
    options: dict[str, Any] = {"max_error_rate": 1}  # however much of a track is damaged: the rest is heard
    for k, sound in enumerate(sounds):
        options[f"c:a:{k}"] = sound.codec
        if sound.bitrate:
            options[f"b:a:{k}"] = sound.bitrate
        if sound.layouts:
            options[f"filter:a:{k}"] = f"aformat=channel_layouts={sound.layouts}"
    return options


def that_can_be_made(
    source: Path,
    info: VideoInfo,
    delivery: Delivery,
    *,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
) -> Delivery:
    """``delivery`` without the sound that FFmpeg refuses, which notes name.

    The beginning of each track is tried. A track that cannot be copied into the container is encoded again where this
    is possible. ``check`` is called several times a second, and may raise to stop; ``progressed`` while FFmpeg works.

    Raises:
        MachineError: the machine gave FFmpeg too little.
    """

    def refusal(*sounds: Sound) -> str:
        with ffmpeg.Process(_trial(source, delivery, sounds)) as process:
            if not process.watch(check, progressed):
                return ""
            error = process.blame(ffmpeg.not_written("tried", process.messages))
            if isinstance(error, MachineError):
                raise error
            return process.reason

    if not delivery.sounds or not refusal(*delivery.sounds):
        return delivery
    tracks = {track.index: track for track in info.audio}
    kept, notes = [], list(delivery.notes)
    for sound in delivery.sounds:
        track = tracks[sound.index]
        name = f"Sound track {track.index} ({track.codec})"
        why = refusal(sound)
        again = encoded(track, delivery.file)
        if not why:
            kept.append(sound)
        elif sound.codec == COPY and not refusal(again):
            kept.append(again)
            what = (
                f"{name} is encoded again, as {again.codec.upper()}: the container does not take it as it is."
            )
            notes.append(Note.of("audio-encoded", what, stream=track.index))
        else:
            notes = [note for note in notes if note.stream != track.index]  # which told how it comes through
            what = f"{name} is left out: FFmpeg cannot put it into the result ({why})."
            notes.append(Note.of("audio-dropped", what, stream=track.index))
    return replace(delivery, sounds=tuple(kept), notes=tuple(notes))


def _trial(source: Path, delivery: Delivery, sounds: Sequence[Sound]) -> list[str]:
    """The command line that makes the beginning of sound tracks in the container of the result, and keeps nothing."""
    file = ffmpeg.source(source)
    output = ffmpeg.output(
        *(file[str(sound.index)] for sound in sounds),
        url=ffmpeg.url(Path(os.devnull)),
        format=delivery.file.muxer,
        abort_on="empty_output_stream",  # of a track that holds nothing the result would have no sound, unsaid
        **{"frames:a": TRIED_FRAMES},
        **encoding(sounds),
    )
    return ffmpeg.command(output)
