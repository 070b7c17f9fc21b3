"""Small pictures of frames, as JPEG, for people to look at. The prober has no NumPy, and needs none here."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import av
from av.filter import Graph

from worker.media.facts import is_rgb

QUALITY = 4  # of FFmpeg's JPEG, from 1 (best) to 31
#: Filters that turn a picture by so many degrees counterclockwise.
TURNS = {90: (("transpose", "cclock"),), 180: (("hflip", ""), ("vflip", "")), 270: (("transpose", "clock"),)}


def jpeg(
    frames: Sequence[av.VideoFrame],
    *,
    width: int,
    matrix: str,
    is_full: bool,
    aspect: Fraction = Fraction(1),
    rotation: int = 0,
) -> bytes:
    """The frames, all of one size, side by side, each at most ``width`` pixels wide and as high, upright.

    ``matrix`` is that of their colours, as ``dain_core.runtime.color`` names it, and ``is_full`` says whether black is
    0 and white the highest code; ``aspect`` is that of their pixels. ``rotation`` is by how many degrees
    counterclockwise they are shown.
    """
    columns, rows = frames[0].width * aspect, Fraction(frames[0].height)
    scale = min(Fraction(1), width / max(columns, rows))
    size = ":".join(str(max(2, 2 * round(length * scale / 2))) for length in (columns, rows))
    read = (
        ""
        if is_rgb(frames[0].format)
        else f":in_color_matrix={matrix}:in_range={'full' if is_full else 'limited'}"
    )
    steps = [
        ("scale", f"{size}:flags=area:out_color_matrix=bt601:out_range=full{read}"),
        ("format", "yuvj420p"),
        *TURNS.get(rotation % 360, ()),
    ]
    graph = Graph()
    sink = graph.add("buffersink")
    joined = graph.add("hstack", f"inputs={len(frames)}") if len(frames) > 1 else sink
    if joined is not sink:
        joined.link_to(sink)
    heads = []
    for place, frame in enumerate(frames):
        frame.pts, frame.time_base = 0, Fraction(1)
        last = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        heads.append(last)
        for name, arguments in steps:
            following = graph.add(name, arguments)
            last.link_to(following)
            last = following
        last.link_to(joined, 0, place)
    graph.configure()
    for head, frame in zip(heads, frames, strict=True):
        head.push(frame)
    picture = sink.pull()
    assert isinstance(picture, av.VideoFrame)
    return _encoded(picture)


def _encoded(picture: av.VideoFrame) -> bytes:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, picture.format.name
    encoder.time_base = Fraction(1)
    encoder.qmin = encoder.qmax = QUALITY
    return b"".join(bytes(packet) for packet in (*encoder.encode(picture), *encoder.encode(None)))
