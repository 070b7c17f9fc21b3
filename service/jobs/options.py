"""What a caller may ask of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from service.jobs.problems import Problem

#: A network's name, or "auto": what suits the device it runs on.
ModelName = Literal["auto", "dain", "dain-lite"]

DEFAULT_FACTOR = 2
MIN_FPS, MAX_FPS = 1, 1000
SLOWEST = Fraction(1, 16)

_WHOLE_OR_DECIMAL = re.compile(r"\d{1,4}(?:\.(\d{1,9}))?")
_RATIO = re.compile(r"\d{1,9}/\d{1,9}")


def parse_rate(value: object) -> Fraction:
    """A frame rate, exactly: "60", "60000/1001", or a decimal.

    The decimals by which NTSC rates go (23.976, 23.98, 29.97, 59.94, 119.88, ...) mean n * 1000/1001 for a
    multiple n of 24 or 30, rounded or cut off at any digit from the second on. Raises ValueError outside 1 to
    1000 frames per second.
    """
    text = str(value).strip()
    rate = _parse_number(text)
    if rate is None:
        raise ValueError(f"{text!r} is not a frame rate")
    decimal = _WHOLE_OR_DECIMAL.fullmatch(text)
    if decimal and decimal[1]:
        rate = _snap_to_ntsc(rate, digits=len(decimal[1]))
    if not MIN_FPS <= rate <= MAX_FPS:
        raise ValueError(f"{text!r} is not from {MIN_FPS} to {MAX_FPS} frames per second")
    return rate


def parse_speed(value: object) -> Fraction:
    """A speed of slow motion, exactly: "0.25" or "1/4". Raises ValueError below 1/16 and from 1 on."""
    text = str(value).strip()
    speed = _parse_number(text)
    if speed is None or not SLOWEST <= speed < 1:
        raise ValueError(f"{text!r} is not a speed from {SLOWEST} to below 1")
    return speed


def _parse_number(text: str) -> Fraction | None:
    """A decimal or a ratio; None where it is neither."""
    if not _WHOLE_OR_DECIMAL.fullmatch(text) and not _RATIO.fullmatch(text):
        return None
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return None


def _snap_to_ntsc(rate: Fraction, digits: int) -> Fraction:
    nominal = -(-rate // 1)  # 29.97 goes by the name of 30
    ntsc = Fraction(nominal * 1000, 1001)
    written = {round(ntsc, digits), Fraction(ntsc * 10**digits // 1, 10**digits)}
    is_ntsc = digits >= 2 and (nominal % 24 == 0 or nominal % 30 == 0) and rate in written and rate != nominal
    return ntsc if is_ntsc else rate


class Options(BaseModel):
    """The options of one job, checked and made explicit: either `factor` is set, or `target_fps`, `speed` or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: int | None = Field(
        default=None,
        ge=2,
        le=16,
        description=f"Frames per source frame: a whole number from 2 to 16; {DEFAULT_FACTOR} "
        "where neither this nor target_fps nor speed is given.",
    )
    target_fps: Annotated[
        str | None, BeforeValidator(lambda v: None if v is None else str(parse_rate(v)))
    ] = Field(
        default=None,
        description="Frame rate of the result, instead of factor: 1 to 1000, exactly; "
        "a number (60, 59.94) or a ratio (60000/1001).",
    )
    speed: Annotated[str | None, BeforeValidator(lambda v: None if v is None else str(parse_speed(v)))] = (
        Field(
            default=None,
            description="Slow motion: how fast the result plays, from 1/16 to below 1, exactly; a number (0.25) or a "
            "ratio (1/3). At the source's frame rate or at target_fps; without sound.",
        )
    )
    model: ModelName = Field(
        default="auto",
        description="Network that interpolates: dain, dain-lite (a twentieth of the work), or auto, which is the "
        "worker's own: dain on a GPU, dain-lite on a CPU.",
    )
    scene_threshold: float = Field(
        default=0.3,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How different two frames must be to count as a scene cut, where nothing is blended: "
        "0 to 1; 1 finds none.",
    )
    quality: int = Field(default=18, ge=0, le=51, description="H.264 CRF: 0 (lossless) to 51 (worst).")
    audio: Literal["copy", "none"] = Field(
        default="copy", description="The sound: copy keeps it, none drops it."
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_rate(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = [name for name in ("factor", "target_fps", "speed") if values.get(name) is not None]
        if "factor" in given and len(given) > 1:
            raise ValueError(f"give factor or {given[1]}, not both")
        if "speed" in given and values.get("audio") == "copy":
            raise ValueError("in slow motion there is no sound: leave out audio, or give none")
        if "speed" in given:
            values = {"audio": "none", **values}
        return values if given else {**values, "factor": DEFAULT_FACTOR}

    @property
    def rate(self) -> Fraction | None:
        """`target_fps` as a number; None where `factor` or `speed` decides."""
        return None if self.target_fps is None else Fraction(self.target_fps)

    @property
    def stretch(self) -> Fraction:
        """How many times as long as the source the result lasts: 1 but in slow motion."""
        return Fraction(1) if self.speed is None else 1 / Fraction(self.speed)

    @classmethod
    def parse(cls, fields: Mapping[str, object]) -> Options:
        """Options from form fields or a query; raises Problem 422 that names each option at fault."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            faults = [_fault(details) for details in error.errors()]
            raise Problem("invalid-option", "; ".join(faults) + ".") from None


def _fault(error: ErrorDetails) -> str:
    if not error["loc"]:
        return str(error["ctx"]["error"])
    name, given = str(error["loc"][0])[:100], str(error["input"])[:100]
    if error["type"] == "extra_forbidden":
        return f"there is no option {name!r}; the options are {', '.join(Options.model_fields)}"
    description = (Options.model_fields[name].description or "").rstrip(".")
    return f"{name} was {given!r}, which is not accepted: {description}"
