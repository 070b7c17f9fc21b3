"""The options of a job as they are stored, how the service handles the job, and how exact numbers are read.

`service.api.options` and the command line check what a caller asks for. The types here only read what was stored
before, perhaps by another version of this program: they ignore and keep what they do not know, and give a default to
what is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

#: The models that come with the project; "auto" is the one that suits the device that it runs on.
SHIPPED_MODELS = ("auto", "dain", "dain-lite", "dain-refined")
#: A model's name: one of `SHIPPED_MODELS`, or that of a file in the folder DAIN_MODELS of the workers.
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]

#: The events of a job that its webhook may get.
WebhookEvent = Literal["job.started", "job.progressed", "job.succeeded", "job.failed", "job.cancelled"]

DEFAULT_FACTOR = 2
MIN_FPS, MAX_FPS = 1, 1000
SLOWEST = Fraction(1, 16)
#: A number whose exact denominator is larger becomes the nearest fraction within it. Six decimals stay exact.
MAX_DENOMINATOR = 10**6

#: In the order in which they are done: what is denoised has bands, and neither is to be sharpened.
ENHANCEMENTS = ("denoise", "deband", "sharpen")
COLORS = {"black": "000000", "white": "ffffff", "gray": "808080", "green": "00ff00", "blue": "0000ff"}

_COLOR = re.compile(r"[0-9a-f]{6}", re.ASCII)
_WHOLE_OR_DECIMAL = re.compile(r"\d{1,4}(?:\.(\d{1,30}))?", re.ASCII)
_SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,9})?", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,3}):)?([0-5]?\d):([0-5]?\d(?:\.\d{1,9})?)", re.ASCII)
_RATIO = re.compile(r"\d{1,9}/\d{1,9}", re.ASCII)


def parse_rate(value: object) -> Fraction:
    """Read a frame rate: "60", "60000/1001", or a decimal.

    A decimal that rounds or cuts off an NTSC rate (23.976, 23.98, 29.97, 59.94, 119.88, ...) at any digit from the
    second on means that rate: n * 1000/1001 for a multiple n of 24 or 30. A number with a denominator above
    `MAX_DENOMINATOR` becomes the nearest fraction that has none. `parse_rate(str(rate))` gives the same rate.

    Raises:
        ValueError: `value` is no number, or lies outside 1 to 1000 frames per second.
    """
    text = str(value).strip()
    rate = _parse_number(text)
    if rate is None:
        raise ValueError(f"{text!r} is not a frame rate")
    if not MIN_FPS <= rate <= MAX_FPS:
        raise ValueError(f"{text!r} is not from {MIN_FPS} to {MAX_FPS} frames per second")
    return rate


def parse_speed(value: object) -> Fraction:
    """Read a speed of slow motion: "0.25", "1/4", or "0.333333333", which means 1/3.

    A number with a denominator above `MAX_DENOMINATOR` becomes the nearest fraction that has none.

    Raises:
        ValueError: `value` is no number, or lies below 1/16 or not below 1.
    """
    text = str(value).strip()
    speed = _parse_number(text, ntsc=False)
    if speed is None or not SLOWEST <= speed < 1:
        raise ValueError(f"{text!r} is not a speed from {SLOWEST} to below 1")
    return speed


def parse_seconds(value: object) -> Fraction:
    """Read a time: seconds ("90", "90.5", "1001/30"), or a clock's "1:30" or "0:01:30.5".

    Raises:
        ValueError: `value` is neither.
    """
    text = str(value).strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = (Fraction(part or 0) for part in clock.groups())
        return hours * 3600 + minutes * 60 + seconds
    is_ratio = _RATIO.fullmatch(text) and int(text.split("/")[1])
    if not _SECONDS.fullmatch(text) and not is_ratio:
        raise ValueError(f"{text!r} is no time: give seconds, or hours, minutes and seconds as 1:02:03.5")
    return Fraction(text).limit_denominator(MAX_DENOMINATOR)


def parse_enhance(value: object) -> str:
    """Read a list of `ENHANCEMENTS`, with commas between, or "none". It is returned in order.

    Raises:
        ValueError: `value` names something else.
    """
    wanted = {part.strip().lower() for part in str(value).split(",")} - {"none"}
    if unknown := wanted.difference(ENHANCEMENTS):
        raise ValueError(f"{min(unknown)!r} is none of {', '.join(ENHANCEMENTS)}")
    return ",".join(name for name in ENHANCEMENTS if name in wanted) or "none"


def parse_color(value: object) -> str:
    """Read a colour: "#ff8000", "ff8000", or one of `COLORS`. It is returned as "#ff8000".

    Raises:
        ValueError: `value` is neither.
    """
    text = str(value).strip().lower()
    digits = COLORS.get(text, text).removeprefix("#")
    if not _COLOR.fullmatch(digits):
        raise ValueError(f"{text!r} is no colour: give #rrggbb, or one of {', '.join(COLORS)}")
    return f"#{digits}"


def settle_rate(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with what follows from them: the default factor, and no sound in slow motion unless it is stretched.

    Raises:
        ValueError: two of the options contradict each other.
    """
    given = [name for name in ("factor", "target_fps", "speed") if options.get(name) is not None]
    if "factor" in given and len(given) > 1:
        raise ValueError(f"give factor or {given[1]}, not both")
    audio = options.get("audio")
    if "speed" in given and audio in ("copy", "best", "aac"):
        raise ValueError(
            "in slow motion sound is left out, or stretched: leave out audio, or give none or stretch"
        )
    if "speed" not in given and audio == "stretch":
        raise ValueError("sound is stretched in slow motion alone: give speed, or another audio than stretch")
    implied: dict[str, Any] = {"audio": "none"} if "speed" in given else {}
    if not given:
        implied["factor"] = DEFAULT_FACTOR
    return implied | {name: value for name, value in options.items() if value is not None}


def _parse_number(text: str, *, ntsc: bool = True) -> Fraction | None:
    """A decimal or a ratio; None where `text` is neither."""
    decimal = _WHOLE_OR_DECIMAL.fullmatch(text)
    if not decimal and not _RATIO.fullmatch(text):
        return None
    try:
        number = Fraction(text)
    except ZeroDivisionError:
        return None
    if ntsc and decimal and decimal[1]:
        number = _snap_to_ntsc(number, digits=len(decimal[1]))
    return number.limit_denominator(MAX_DENOMINATOR)


def _snap_to_ntsc(rate: Fraction, digits: int) -> Fraction:
    nominal = -(-rate // 1)  # 29.97 goes by the name of 30
    ntsc = Fraction(nominal * 1000, 1001)
    written = {round(ntsc, digits), Fraction(ntsc * 10**digits // 1, 10**digits)}
    is_ntsc = digits >= 2 and (nominal % 24 == 0 or nominal % 30 == 0) and rate in written and rate != nominal
    return ntsc if is_ntsc else rate


def _positive_fraction(text: str) -> str:
    try:
        if Fraction(text) <= 0:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a positive fraction") from None
    return text


FractionText = Annotated[str, AfterValidator(_positive_fraction)]


class Options(BaseModel):
    """The options that a job was accepted with. One of `factor`, `target_fps` and `speed` is set, or the latter two.

    Ranges are not checked: a later version may have accepted more. `Options(target_fps="60000/1001")` takes a rate as
    a fraction's text.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    factor: int | None = Field(default=None, ge=1, description="Frames of the result per source frame.")
    target_fps: FractionText | None = Field(
        default=None, description="Frame rate of the result: a whole number or a ratio."
    )
    speed: FractionText | None = Field(
        default=None, description="Speed of slow motion: a ratio of the source's speed."
    )
    model: str = Field(default="auto", description="Network that interpolates.")
    scene_threshold: float = Field(default=0.3, description="How different two frames are at a scene cut.")
    container: str = Field(default="mp4", description="Kind of file: see `service.jobs.formats`.")
    codec: str = Field(default="auto", description="Codec of the pictures; auto is the container's own.")
    quality: int = Field(default=18, description="H.264 CRF, or what looks alike with another codec.")
    preset: str = Field(default="auto", description="How hard the encoder tries, in the words of x264.")
    pixel_format: str = Field(default="source", description="Bits and colour resolution of the result.")
    max_bitrate: int | None = Field(default=None, description="Most bits a second of the pictures.")
    audio: str = Field(default="copy", description="The sound: copy, best, aac, stretch or none.")
    enhance: str = Field(
        default="none", description="What is done with all frames in the end, with commas between."
    )
    mask: str | None = Field(
        default=None, description="SHA-256 of the picture of what stands still, in hexadecimal digits."
    )
    grain: str = Field(default="off", description="The grain of new frames: off or keep.")
    background: str = Field(default="#000000", description="The colour behind what is transparent: #rrggbb.")
    start: str | None = Field(
        default=None, description="Seconds of the source that are left out at its beginning."
    )
    duration: FractionText | None = Field(default=None, description="Seconds of the source that are taken.")
    loop: bool = Field(default=False, description="Whether new frames lead from the last frame to the first.")
    video_stream: int | None = Field(default=None, description="Number of the video stream in the file.")
    deinterlace: str = Field(default="auto", description="What is done with fields: auto, off, bob or weave.")
    dedup: str = Field(default="auto", description="What is done with repeated frames: auto, off or retime.")
    source_fps: FractionText | None = Field(
        default=None, description="Frame rate of a file that holds no times: a whole number or a ratio."
    )
    strict: bool = Field(
        default=False, description="Whether the job is refused where something would be lost."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_factor(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not any(
            values.get(name) is not None for name in ("factor", "target_fps", "speed")
        ):
            return {**values, "factor": DEFAULT_FACTOR}
        return values

    @property
    def rate(self) -> Fraction | None:
        """`target_fps` in frames per second; None where `factor` or `speed` decides."""
        return None if self.target_fps is None else Fraction(self.target_fps)

    @property
    def enhancements(self) -> tuple[str, ...]:
        """`enhance` in the order in which it is done."""
        return tuple(name for name in ENHANCEMENTS if name in self.enhance.split(","))

    @property
    def is_excerpt(self) -> bool:
        """Whether only a part of the source is wanted."""
        return self.start is not None or self.duration is not None

    @property
    def beginning(self) -> Fraction:
        """`start` in seconds."""
        return Fraction(self.start or 0)

    @property
    def seconds(self) -> Fraction | None:
        """`duration` in seconds; None where the source is taken to its end."""
        return None if self.duration is None else Fraction(self.duration)

    @property
    def stretch(self) -> Fraction:
        """How many times as long as the source the result lasts: 1 without slow motion."""
        return Fraction(1) if self.speed is None else 1 / Fraction(self.speed)

    @property
    def suffix(self) -> str:
        """What the name of the result's file says about it: `2x`, `59.94fps`, `4x-slower`, `4x-slower-60fps`."""
        parts = [f"{self.factor}x"] if self.factor else []
        parts += [f"{float(self.stretch):.4g}x-slower"] if self.speed else []
        parts += [f"{float(self.rate):.5g}fps"] if self.rate else []
        return "-".join(parts)


class Handling(BaseModel):
    """What a job was accepted with that changes nothing in the picture. Each member is a field of the job's record."""

    model_config = ConfigDict(extra="allow", frozen=True)

    priority: str = Field(
        default="normal", description="How the job stands among its owner's: low, normal or high."
    )
    metadata: dict[str, str] = Field(default_factory=dict, description="The caller's own notes on the job.")
    reference: str | None = Field(default=None, description="The caller's own name for the job.")
    webhook_url: str | None = Field(default=None, description="Where the job's events are sent.")
    webhook_events: list[str] = Field(default_factory=list, description="The events that are sent there.")

    def as_fields(self) -> dict[str, str]:
        """The record's fields that hold it. A default has none."""
        given = self.model_dump(exclude_defaults=True)
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
