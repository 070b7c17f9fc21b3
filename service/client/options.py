"""The options of a job, for type checkers and editors. What they mean: the API's description, GET /docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

Number = str | int | float  #: 60, 59.94, "60000/1001"


class Options(TypedDict, total=False):
    """The options of a job; one that is None counts as not given."""

    factor: int | None
    target_fps: Number | None
    speed: Number | None
    model: str | None
    scene_threshold: float | None
    container: str | None
    codec: str | None
    quality: int | None
    preset: str | None
    pixel_format: str | None
    max_bitrate: int | str | None
    audio: str | None
    enhance: str | None
    grain: str | None
    background: str | None
    start: Number | None
    duration: Number | None
    loop: bool | None
    video_stream: int | None
    deinterlace: str | None
    dedup: str | None
    source_fps: Number | None
    strict: bool | None
    priority: str | None
    reference: str | None
    metadata: Mapping[str, str] | None
    webhook_url: str | None
    webhook_events: Sequence[str] | None
