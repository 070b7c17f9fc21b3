"""Segments into the finished file: packets at their exact times, and what else the source carried."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container

from worker.channel import checked, nothing
from worker.media import ffmpeg, tracks
from worker.media.codecs import encoding_of
from worker.media.containers import COPY, container_of
from worker.media.delivery import Delivery
from worker.media.errors import MediaError
from worker.media.messages import written
from worker.media.render import render

#: Tags of the source's file that would not be true of the result: the picture has the timecode, at the new rate.
UNTRUE = ("compatible_brands", "major_brand", "minor_version", "timecode")
#: Codec of a still picture -> suffix and media type of its file.
STILLS = {"mjpeg": (".jpg", "image/jpeg"), "png": (".png", "image/png"), "bmp": (".bmp", "image/bmp")}


@dataclass(frozen=True)
class Said:
    """What the pictures of the source say by messages, see `worker.media.messages`."""

    messages: Mapping[int, Sequence[bytes]]  #: of the result's frames, by their numbers
    captions: str = ""  #: that become a track, as a file of Scenarist Closed Captions
    captions_begin: Fraction = Fraction(0)  #: when its clock begins, in seconds after the result


NOTHING = Said({})


def join(
    segment_paths: Sequence[Path],
    shown: Sequence[Fraction],
    source_path: Path | None,
    begin: Fraction,
    delivery: Delivery,
    out_path: Path,
    *,
    length: Fraction | None = None,
    said: Said = NOTHING,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
) -> None:
    """Make the result of segments. Frame k is shown from ``shown[k]`` to ``shown[k + 1]``, in seconds.

    The result begins at 0, which is ``begin`` on the source's clock: there its sound is put. Sound, text, chapters and
    metadata come from the source, where there is one, as ``delivery`` says; of an excerpt, the ``length`` seconds from
    there on. ``said`` is what the source's pictures say by messages.

    The picture's clock is such that every time is exact. Where that would take more ticks a second than the container
    has, times are rounded to one of these. ``check`` is called several times a second, and may raise to stop.
    ``progressed`` is called when packets or bytes of the file are written.

    Raises:
        MediaError: the segments do not make up the video ("encode-failed"), or the disk is full.
    """
    needed = math.lcm(*{moment.denominator for moment in checked(shown, check)})
    file = container_of(delivery)
    clock = min(needed * math.ceil(file.coarsest_clock / needed), file.finest_clock)
    ticks = array("q", (round(moment * clock) for moment in checked(shown, check)))
    picture = out_path.with_name(f"{out_path.name}.picture")
    covers: list[Path] = []
    captions = out_path.with_name(f"{out_path.name}.captions") if said.captions else None
    try:
        carried = {ticks[frame]: each for frame, each in said.messages.items()}
        _join_pictures(segment_paths, ticks, clock, delivery, carried, picture, check, progressed)
        if file.rendering:
            render(picture, shown, delivery, out_path, check, progressed)
            return
        for extra in (each for each in delivery.extras if file.attaches(each.kind)):
            covers.append(out_path.with_name(f"{out_path.name}.cover-{len(covers)}{STILLS[extra.codec][0]}"))
            _run(_cover(source_path, extra.index, covers[-1]), check, progressed)
        heard = None
        if captions:
            captions.write_text(said.captions)
            offset = f"{float(said.captions_begin):.3f}"
            heard = ffmpeg.own_source(ffmpeg.url(captions), format="scc", itsoffset=offset)["s:0"]
        muxing = _muxing(picture, source_path, covers, heard, begin, length, clock, delivery, out_path)
        _run(muxing, check, progressed)
    finally:
        for path in filter(None, (picture, captions, *covers)):
            path.unlink(missing_ok=True)


def _run(command: Sequence[str], check: Callable[[], None], progressed: Callable[[], None]) -> None:
    with ffmpeg.Process(command) as process:
        if process.watch(check, progressed):
            raise process.blame(_incomplete(process.messages))


def _join_pictures(
    segments: Sequence[Path],
    ticks: Sequence[int],
    clock: int,
    delivery: Delivery,
    carried: Mapping[int, Sequence[bytes]],
    path: Path,
    check: Callable[[], None],
    progressed: Callable[[], None],
) -> None:
    """Copy the segments' packets into one file; ``ticks`` are the frames' times and the end of the last.

    ``carried`` are the messages of frames, by their times.
    """
    orders = []
    for segment in segments:
        check()
        orders.append(_display_order(segment))
        progressed()
    if sum(map(len, orders)) != len(ticks) - 1:
        raise _incomplete(f"{sum(map(len, orders))} frames of {len(ticks) - 1} were encoded")
    stamps = _stamps(orders, ticks)
    options = {name: str(value) for name, value in container_of(delivery).clocks(clock, clock).items()}
    with av.open(str(path), "w", format=container_of(delivery).picture_muxer, options=options) as joined:
        stream = None
        for segment in segments:
            check()
            with av.open(str(segment)) as part:
                [template] = part.streams.video
                if stream is None:
                    stream = joined.add_stream_from_template(
                        template, opaque=True
                    )  # its decoder may be no encoder
                    if "alpha_mode" in template.metadata:  # there is alpha beside VP9's picture
                        stream.metadata["alpha_mode"] = template.metadata["alpha_mode"]
                    if template.codec_context.name == "prores":  # whose profile is told by four letters alone
                        stream.codec_context.codec_tag = template.codec_context.codec_tag
                    parameters = template.codec_context.extradata
                    if delivery.display_matrix:
                        stream.set_display_matrix(delivery.display_matrix)
                if template.codec_context.extradata != parameters:
                    raise _incomplete("its segments were encoded by different versions of the encoder")
                for packet in _packets(part):
                    pts, dts, duration = next(stamps)
                    if messages := carried.get(pts):
                        is_key, data = packet.is_keyframe, written(bytes(packet), messages, delivery.codec)
                        packet = av.Packet(data)
                        packet.is_keyframe = is_key
                    packet.stream, packet.time_base = stream, Fraction(1, clock)
                    packet.pts, packet.dts, packet.duration = pts, dts, duration
                    joined.mux(packet)
                    progressed()


def _stamps(orders: Sequence[Sequence[int]], ticks: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """For each packet in the order of decoding: when it is shown, when it is decoded, and how long it is shown.

    ``orders`` hold the places of a segment's packets in the order of display, ``ticks`` the times of all frames in
    the order of display and the end of the last. MP4 stores no lengths: a reader takes the time from the decoding of
    a packet to the decoding of the next one for the length of the first. So packets are decoded as far apart as their
    frames are long. Decoding begins as early as it must for no frame to be decoded after it is shown.

        >>> list(_stamps([[0, 2, 1]], [0, 10, 20, 30]))
        [(0, -10, 10), (20, 0, 10), (10, 10, 10)]
    """

    def from_first() -> Iterator[tuple[int, int, int]]:
        begins = itertools.accumulate(map(len, orders), initial=0)
        decoded = ticks[0]
        for begin, order in zip(begins, orders, strict=False):
            for place in order:
                length = ticks[begin + place + 1] - ticks[begin + place]
                yield ticks[begin + place], decoded, length
                decoded += length

    ahead = max(decoded - shown for shown, decoded, _ in from_first())
    return ((shown, decoded - ahead, length) for shown, decoded, length in from_first())


def _packets(part: av.container.InputContainer) -> Iterator[av.Packet[Any]]:
    return (packet for packet in part.demux(video=0) if packet.size)


def _display_order(segment: Path) -> Sequence[int]:
    """The place in the order of display of each packet, in the order of decoding; 0 is the segment's first frame."""
    with av.open(str(segment)) as part:
        stamps = [packet.pts or 0 for packet in _packets(part)]
    place = {pts: shown for shown, pts in enumerate(sorted(stamps))}
    return array("l", (place[pts] for pts in stamps))


def _incomplete(what: str) -> MediaError:
    return ffmpeg.not_written("put together", what)


def _cover(source_path: Path | None, stream: int, path: Path) -> list[str]:
    """Copy a cover picture into a file of its own."""
    assert source_path  # there is a stream of it
    cover = ffmpeg.source(source_path)[str(stream)]
    options = {"c": "copy", "frames:v": 1, "update": 1}
    return ffmpeg.command(ffmpeg.output(cover, url=ffmpeg.url(path), format="image2", **options))


def _attached(covers: Sequence[Path], delivery: Delivery) -> dict[str, Any]:
    """FFmpeg's options that attach cover pictures; the file's other attachments come before them."""
    options: dict[str, Any] = {"attach": [str(path) for path in covers]} if covers else {}
    others = sum(extra.kind == "attachment" for extra in delivery.extras)
    kinds = {suffix: kind for suffix, kind in STILLS.values()}
    for k, path in enumerate(covers, others):
        name = f"cover{k - others or ''}{path.suffix}"
        options[f"metadata:s:t:{k}"] = [f"filename={name}", f"mimetype={kinds[path.suffix]}"]
    return options


def _muxing(
    picture: Path,
    source_path: Path | None,
    covers: Sequence[Path],
    captions: Any,
    begin: Fraction,
    length: Fraction | None,
    clock: int,
    delivery: Delivery,
    path: Path,
) -> list[str]:
    """Mux the picture with what else the source has, on one clock that starts at 0; ``captions`` are a stream."""
    own = ffmpeg.own_source(ffmpeg.url(picture), copyts=None, **delivery.static_metadata)
    source = ffmpeg.source(source_path, itsoffset=f"{float(-begin):.3f}") if source_path else own
    streams = [own["v:0"]]
    streams.append(source["t:99?"])  # matches nothing, but makes the source an input for its metadata
    others, options = tracks.mapped(source, delivery)
    if length is not None:
        options |= _cut(float(length), delivery, options)
    if captions:
        others.append(captions)
        options[f"c:s:{len(delivery.texts)}"] = delivery.caption_track
    file = container_of(delivery)
    # The clock of the whole file places each track's start: it must have a tick for every one of them.
    whole = math.lcm(clock, *(sound.sample_rate for sound in delivery.sounds))
    output = ffmpeg.output(
        *streams,
        *others,
        url=ffmpeg.url(path),
        format=file.muxer,
        map_metadata=1 if source_path else -1,
        metadata=[f"{name}=" for name in UNTRUE],
        map_chapters=1 if source_path and delivery.chapters else -1,
        **file.clocks(clock, whole if whole <= file.finest_clock else clock),
        **(file.own_tags if delivery.own_tags else file.finish),
        **_description(delivery),
        **_attached(covers, delivery),
        **options,
    )
    return ffmpeg.command(output)


def _cut(seconds: float, delivery: Delivery, options: Mapping[str, Any]) -> dict[str, Any]:
    """FFmpeg's options that leave out what is not within the first ``seconds`` of the result.

    ``options`` are those of the streams so far. Sound that is copied is cut between two packets.
    """
    cut: dict[str, Any] = {"t": f"{seconds:.6f}"}  # of chapters
    outside = f"lt(pts*tb\\,-0.0005)+gte(pts*tb\\,{seconds:.6f})"
    for k, sound in enumerate(delivery.sounds):
        if sound.codec == COPY:
            cut[f"bsf:a:{k}"] = f"noise=drop={outside}"
        else:
            heard = seconds * float(Fraction(sound.speed or 1))
            filters = [f"atrim=start=0:end={heard:.6f}", options.get(f"filter:a:{k}", "")]
            cut[f"filter:a:{k}"] = ",".join(filter(None, filters))
    has_captions = delivery.caption_track not in ("", COPY)
    for k in range(len(delivery.texts) + has_captions):
        begun = "max(PTS\\,0)"  # what is shown already when the excerpt begins
        ended = f"min(DURATION+PTS\\,{seconds:.6f}/TB)"  # and what is shown still when it ends
        cut[f"bsf:s:{k}"] = (
            f"noise=drop=lte((pts+d)*tb\\,0)+gte(pts*tb\\,{seconds:.6f}),"
            f"setts=duration={ended}-{begun}:pts={begun}:dts={begun}"
        )
    return cut


def _description(delivery: Delivery) -> dict[str, Any]:
    """FFmpeg's options for what the file says about its picture."""
    file, encoding = container_of(delivery), encoding_of(delivery)
    said = {
        "language": delivery.language,
        "title": delivery.title,
        "timecode": delivery.timecode,
        "stereo_mode": file.stereo_modes.get(delivery.stereo, ""),
    }
    words = [f"{name}={value}" for name, value in said.items() if value]
    tag = encoding.tag if file.has_tags else ""
    unsaid = delivery.full_range and not encoding.says_range
    return {
        "disposition:v:0": "+".join(("default", *delivery.roles)),
        **({"metadata:s:v:0": words} if words else {}),
        **({"tag:v:0": tag} if tag else {}),
        **({"color_range:v:0": "pc"} if unsaid else {}),
    }
