"""What the first frame says: its samples and colours, how it is turned, and what describes it."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

import av
import av.container
import av.logging
import av.video.stream
from av.sidedata.sidedata import Type as SideData

from worker.media.errors import damaged
from worker.media.facts import Limits, is_rgb
from worker.media.opened import check_size, codec_of
from worker.media.packets import Scan
from worker.media.stills import Stills

FIELD_ORDERS = {2: "tff", 5: "tff", 3: "bff", 4: "bff"}  # AVFieldOrder -> which field is shown first
RGB, BT709, SRGB = 0, 1, 13  # in the code points of ITU-T H.273
LINEAR = ("exr",)  # codecs of pictures whose samples are light as such
VIEW_ID = 29  # AVFrameSideDataType, unknown to PyAV
OPAQUE = 255  # of alpha in 8 bits
JPEG_RANGE = 2  # AVColorRange: black is 0 and white the highest code
MASTERING = struct.Struct("=22i")  # AVMasteringDisplayMetadata: ten fractions and two flags
STEREO = {
    1: "side by side",
    2: "top and bottom",
    3: "frame alternate",
    4: "checkerboard",
    5: "side by side (quincunx subsampling)",
    6: "interleaved lines",
    7: "interleaved columns",
}  # AVStereo3DType
INVERTED = ", right view first"
#: Side data that may not come through, and that the result says so of.
NOTABLE = {
    *(SideData.A53_CC, SideData.AFD, SideData.AMBIENT_VIEWING_ENVIRONMENT, SideData.DOVI_METADATA),
    *(
        SideData.DOVI_RPU_BUFFER,
        SideData.DYNAMIC_HDR_PLUS,
        SideData.DYNAMIC_HDR_VIVID,
        SideData.FILM_GRAIN_PARAMS,
    ),
    *(SideData.ICC_PROFILE, SideData.SPHERICAL),
}


def field_order_of(stream: av.video.stream.VideoStream, frame: av.VideoFrame) -> str:
    """Which field comes first, where the stream or its first frame say that there are fields."""
    return FIELD_ORDERS.get(stream.codec_context.field_order, "tff" if frame.interlaced_frame else "")


def planes_of(
    frame: av.VideoFrame, stream: av.video.stream.VideoStream, pictures: Stills | None, has_alpha_stream: bool
) -> dict[str, Any]:
    """The facts about the samples of a decoded frame."""
    pixels = frame.format.name
    # WebM has alpha in a stream of its own beside the picture, which FFmpeg's own decoders leave out.
    said = {name.lower(): value for name, value in stream.metadata.items()}
    hidden_alpha = has_alpha_stream or (codec_of(stream) in ("vp8", "vp9") and said.get("alpha_mode") == "1")
    width, height = (pictures and pictures.size) or (frame.width, frame.height)
    depth = depth_of(frame.format)
    if pictures:
        depth = max(depth, pictures.depth)
    return {
        "width": width,
        "height": height,
        "pixel_format": pixels,
        "working_format": working_format(pixels, width, height, depth),
        "alpha": _has_alpha(frame.format) or hidden_alpha or (pictures is not None and pictures.alpha),
        "transparent": hidden_alpha or _is_transparent(frame),
        "depth": depth,
    }


def colors_of(frame: av.VideoFrame, codec: str) -> dict[str, Any]:
    """The facts about colour. Pictures that hold light as such are shown as sRGB."""
    rgb, is_light = is_rgb(frame.format), codec in LINEAR
    is_full = frame.color_range == JPEG_RANGE or frame.format.name.startswith("yuvj")
    return {
        "primaries": BT709 if is_light else frame.color_primaries,
        "transfer": SRGB if is_light else frame.color_trc,
        "matrix": BT709 if rgb or frame.colorspace == RGB else frame.colorspace,  # PNG says RGB of gray, too
        "full_range": not rgb and is_full,
    }


def depth_of(pixels: av.VideoFormat) -> int:
    """The most bits of a sample."""
    return 8 if pixels.has_palette else max(part.bits for part in pixels.components)


def _has_alpha(pixels: av.VideoFormat) -> bool:
    return pixels.has_palette or any(part.is_alpha for part in pixels.components)


def _is_transparent(frame: av.VideoFrame) -> bool:
    """Whether any pixel is not opaque."""
    if not _has_alpha(frame.format):
        return False
    [plane] = frame.reformat(format="rgba").planes  # by plain Python: the service has no NumPy
    rows = range(0, plane.line_size * frame.height, plane.line_size)
    data = memoryview(plane)
    return any(min(data[row + 3 : row + 4 * frame.width : 4]) < OPAQUE for row in rows)


def side_data_of(frame: av.VideoFrame, scan: Scan) -> dict[str, Any]:
    """The facts that come as side data of the first frame, and what packets carry."""
    try:
        given: Any = frame.side_data
        found = {data.type: bytes(data) for data in given or ()}
    except ValueError:  # PyAV gives none at all where it does not know one type
        found = {}
    begins = scan.marks | {kind.name: scan.pts[0] for kind in found if kind in NOTABLE}
    facts: dict[str, Any] = {
        "side_data": tuple(sorted(begins)),
        "side_data_times": tuple(str(begins[name] * scan.time_base) for name in sorted(begins)),
    }
    if (data := found.get(SideData.MASTERING_DISPLAY_METADATA)) and len(data) == MASTERING.size:
        *parts, has_primaries, has_luminance = MASTERING.unpack(data)
        if has_primaries and has_luminance and all(parts[1::2]):
            # Primaries come as red, green, blue and white, each x and y; then the least and the most light.
            values = list(map(Fraction, parts[::2], parts[1::2]))
            rx, ry, gx, gy, bx, by, wx, wy = (round(value * 50000) for value in values[:8])
            least, most = (round(value * 10000) for value in values[8:])
            facts["mastering"] = f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({most},{least})"
    if (data := found.get(SideData.CONTENT_LIGHT_LEVEL)) and len(data) >= 8:
        facts["light"] = "{},{}".format(*struct.unpack_from("=II", data))
    if (data := found.get(SideData.STEREO3D)) and len(data) >= 8:
        kind, flags = struct.unpack_from("=ii", data)
        if kind in STEREO:
            facts["stereo"] = STEREO[kind] + (INVERTED if flags & 1 else "")
    return facts


def first_frame_of(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, limits: Limits
) -> av.VideoFrame:
    """The first frame that can be decoded; MediaError where none can."""
    reason = "it has none"
    stream.codec_context.thread_count = 1  # this thread: whose messages are heard
    with av.logging.Capture() as messages:
        try:
            for packet in container.demux(stream):
                try:
                    for frame in packet.decode():
                        return frame
                except av.error.InvalidDataError as error:  # a later packet may be whole
                    reason = error.strerror or reason
        except av.FFmpegError as error:
            reason = error.strerror or reason
    check_size(messages, limits)
    raise damaged(f"no frame of it could be decoded ({reason})")


def display_matrix_of(frame: av.VideoFrame) -> tuple[int, ...]:
    # PyAV gives no side data at all where it does not know one type, such as that of a spatial video's view.
    try:
        side_data: Any = frame.side_data  # its annotations say that it iterates over names; it does over data
    except ValueError:
        return turned(frame.rotation % 360)
    found = [bytes(data) for data in side_data if data.type is SideData.DISPLAYMATRIX]
    return struct.unpack("=9i", found[0]) if found else ()


def turned(degrees: int) -> tuple[int, ...]:
    """FFmpeg's nine numbers of a picture that is turned counterclockwise by ``degrees``; none where it is upright."""
    if not degrees:
        return ()
    cosine, sine = (round(part(math.radians(degrees)) * 65536) for part in (math.cos, math.sin))
    return (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30)


def has_views(frame: av.VideoFrame) -> bool:
    """Whether the frame is one view of several (MV-HEVC), as in spatial videos."""
    try:
        return frame.side_data is None
    except ValueError as error:
        return str(error).startswith(f"{VIEW_ID} ")


def working_format(name: str, width: int, height: int, depth: int) -> str:
    """The planar YUV format nearest to ``name`` of ``depth`` bits, in which frames of this size can be encoded.

    More than 8 bits become 10. RGB keeps its full colour resolution; alpha is dropped. H.264 has no odd sizes
    where chroma is subsampled, so these become 4:4:4, which keeps the size and every luma sample.
    """
    pixels = av.VideoFormat(name, 16, 16)
    parts = pixels.components
    gray = len([part for part in parts if not part.is_alpha]) < 3
    halved_x = not is_rgb(pixels) and (gray or pixels.chroma_width(16) < 16)
    halved_y = not is_rgb(pixels) and (gray or pixels.chroma_height(16) < 16)
    if (halved_x and width % 2) or (halved_y and height % 2) or not halved_x:
        layout = "yuv444p"
    else:
        layout = "yuv420p" if halved_y else "yuv422p"
    return layout + ("10le" if depth > 8 else "")
