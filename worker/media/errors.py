"""Errors of reading and writing video. The tree of them all is in `service.errors`."""

from __future__ import annotations

from service.errors import DainError

DISK_FULL = (
    "The disk ran full while the video was worked on. Make room on it, and try again; DAIN_MIN_FREE_BYTES is what "
    "uploads leave free there."
)
TAKEN = (
    "Taken are MP4, MOV, 3GP, MKV, WebM, AVI, MPEG-TS, MPEG-PS, FLV, Ogg, ASF and WMV, MXF, GXF, DV, RM, WTV, "
    "SWF, NUT, IVF, Y4M, GIF, APNG, animated AVIF and WebP, pictures in a ZIP, and streams without a container "
    "(H.264, H.265, H.266, H.263, H.261, MPEG-1, MPEG-2, MPEG-4, AV1 as OBU, VC-1, Dirac, DNxHD, MJPEG)."
)
EXPORT_AGAIN = "Check that it plays, or export it again as MP4 (H.264)."


class MediaError(DainError):
    """A video cannot be read or written.

    ``slug`` is stable, for programs. ``detail`` tells a person what was wrong and what to do.
    """

    def __init__(self, slug: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail


class MachineError(MediaError):
    """Work on a video stopped for a reason that says nothing about the video, such as a disk that is too slow.

    Another attempt, or another machine, may get through. ``detail`` names what the operator can look at.
    """

    SLUG = "machine-failed"

    def __init__(self, detail: str) -> None:
        super().__init__(self.SLUG, detail)


def disk_full() -> MediaError:
    """There is no room for what is made of the video."""
    return MediaError("insufficient-storage", DISK_FULL)


def unreadable(reason: str) -> MediaError:
    """The file is no video, or not one that can be opened."""
    return MediaError("unreadable-video", f"The file cannot be read as a video: {reason}. {EXPORT_AGAIN}")


def damaged(what: str) -> MediaError:
    """The file is a video, but ``what`` is wrong with its contents."""
    return MediaError("damaged-video", f"The video is damaged: {what}. {EXPORT_AGAIN}")


def exceeded(fact: str, limit: str) -> MediaError:
    """The video has ``fact`` ("300 frames"), and only ``limit`` ("200 frames") is accepted."""
    detail = f"The video has {fact}; at most {limit} are accepted. Scale it down or cut it."
    return MediaError("limit-exceeded", detail)
