"""The options that a request may ask for: their names, ranges and meanings. Unknown options are refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from service.egress import EgressRefused, parse_url
from service.jobs.formats import (
    COMMON_CODECS,
    CONTAINERS,
    AudioName,
    CodecName,
    ContainerName,
    PixelFormatName,
    PresetName,
    check_options,
    codec_of,
    listed,
    parse_bitrate,
)
from service.jobs.notes import UNPRINTABLE
from service.jobs.options import (
    COLORS,
    DEFAULT_FACTOR,
    ENHANCEMENTS,
    SHIPPED_MODELS,
    Handling,
    ModelName,
    Options,
    WebhookEvent,
    parse_color,
    parse_enhance,
    parse_rate,
    parse_seconds,
    parse_speed,
    settle_rate,
)
from service.jobs.problems import Problem

WEBHOOK_EVENTS: tuple[WebhookEvent, ...] = get_args(WebhookEvent)
MAX_REFERENCE = 128  # characters
MAX_METADATA_KEYS = 16
MAX_METADATA_BYTES = 4096  # of all keys and values, in UTF-8

PRINTABLE = f"[^{UNPRINTABLE}]"
Text = Annotated[str, StringConstraints(pattern=f"^{PRINTABLE}+$")]
Note = Annotated[str, StringConstraints(pattern=f"^{PRINTABLE}*$")]


def _check_size(metadata: dict[str, str]) -> dict[str, str]:
    size = sum(len(part.encode()) for pair in metadata.items() for part in pair)
    if len(metadata) > MAX_METADATA_KEYS or size > MAX_METADATA_BYTES:
        raise ValueError(f"{len(metadata)} keys and {size} bytes")
    return metadata


def _check_webhook(url: str | None) -> str | None:
    """The URL in its normal form."""
    try:
        return None if url is None else str(parse_url(url))
    except EgressRefused as error:
        raise webhook_refused(error) from None


def webhook_refused(error: EgressRefused) -> Problem:
    return Problem(
        "webhook-refused", f"The webhook_url is not accepted: {error} Without webhook_url, ask for the job."
    )


def _positive(value: object) -> str:
    seconds = parse_seconds(value)
    if not seconds:
        raise ValueError("no time at all")
    return str(seconds)


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


MASK_NEEDS_A_FORM = (
    "a mask is a picture, which comes as the part `mask` of a form (multipart/form-data), beside the video in the part "
    "`file`, its address in `source_url` or an upload by tus, which the query names (`POST /jobs?upload=ID`): a body "
    "that is the video and JSON have no place for it"
)


class RequestedOptions(BaseModel):
    """The options of one request, checked. `parse_options` makes a job's `Options` of them."""

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
        description="Frame rate of the result, instead of factor: 1 to 1000; "
        "a number (60, 59.94) or a ratio (60000/1001).",
    )
    speed: Annotated[str | None, BeforeValidator(lambda v: None if v is None else str(parse_speed(v)))] = (
        Field(
            default=None,
            description="Slow motion: how fast the result plays, from 1/16 to below 1; a number (0.25) or a "
            "ratio (1/3). At the source's frame rate or at target_fps; without sound, unless audio is stretch.",
        )
    )
    model: ModelName = Field(
        default="auto",
        examples=list(SHIPPED_MODELS),
        description="Network that interpolates: dain-refined, dain-lite (smaller, for CPUs), dain (of the paper), "
        "auto, which is the worker's own (dain-refined on a GPU, dain-lite on a CPU), or what GET /workers lists.",
    )
    scene_threshold: float = Field(
        default=0.3,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How different two frames must be to count as a scene cut, where nothing is blended: "
        "0 to 1; 1 finds none, nor flashes and fades.",
    )
    container: ContainerName = Field(
        default="mp4",
        description="Kind of file of the result: mp4, mkv, mov or webm; gif, apng or webp (animations); png, jpeg or "
        "exr (a zip of pictures).",
    )
    codec: CodecName = Field(
        default="auto",
        description="Codec of the result: auto (h264; vp9 in webm), h264, hevc, av1, vp9, prores, dnxhr, ffv1, or "
        "h264_nvenc, hevc_nvenc or av1_nvenc where the workers' GPUs encode.",
    )
    quality: int = Field(
        default=18,
        ge=0,
        le=51,
        description="Quality of the pictures on the scale of H.264's CRF, for every codec: "
        "0 (lossless) to 51 (worst).",
    )
    preset: PresetName = Field(
        default="auto",
        description="How hard the encoder tries, for smaller files: ultrafast to veryslow; auto keeps up with a GPU.",
    )
    pixel_format: PixelFormatName = Field(
        default="source",
        description="Bits and colour resolution of the result: source (the video's own), compatible (yuv420p, which "
        "all browsers play), yuv420p, yuv422p, yuv444p, yuv420p10le, yuv422p10le or yuv444p10le.",
    )
    max_bitrate: Annotated[int | None, BeforeValidator(lambda v: None if v is None else parse_bitrate(v))] = (
        Field(
            default=None,
            description="Most bits a second of the pictures: 8000000, 8000k or 8M; 50k to 1000M.",
        )
    )
    audio: AudioName = Field(
        default="copy",
        description="The sound: copy (what players of the container know stays as it is), best (all that the "
        "container can hold stays as it is, nothing is lost), aac (all becomes AAC), stretch (in slow motion, with "
        "its pitch kept) or none.",
    )
    enhance: Annotated[str, BeforeValidator(parse_enhance)] = Field(
        default="none",
        examples=list(ENHANCEMENTS),
        description="What is done with all frames, the source's own among them, before they are encoded: deband, "
        "denoise, sharpen, with commas between, or none.",
    )
    grain: Literal["off", "keep"] = Field(
        default="off",
        description="The grain of new frames: keep gives them as much as the frames around them have, off leaves what "
        "the network makes, which is less.",
    )
    background: Annotated[str, BeforeValidator(parse_color)] = Field(
        default="#000000",
        examples=list(COLORS),
        description="The colour behind a video that is transparent in places, where the result cannot be: #rrggbb, or "
        f"one of {', '.join(COLORS)}.",
    )
    start: Annotated[str | None, BeforeValidator(lambda v: None if v is None else str(parse_seconds(v)))] = (
        Field(
            default=None,
            description="Where the result begins in the source: seconds (90.5) or a clock's time (0:01:30.5) after "
            "its beginning. The sound is cut there, too.",
        )
    )
    duration: Annotated[str | None, BeforeValidator(lambda v: None if v is None else _positive(v))] = Field(
        default=None, description="How much of the source is taken: seconds or a clock's time, above 0."
    )
    loop: bool = Field(
        default=False,
        description="Whether the result is to be played in a loop: then new frames lead from its last frame to its "
        "first, too. true or false.",
    )
    video_stream: int | None = Field(
        default=None,
        ge=0,
        description="Which moving picture of the file is taken: its number among all streams of the file, from 0; "
        "the largest unless given.",
    )
    deinterlace: Literal["auto", "off", "bob", "weave"] = Field(
        default="auto",
        description="Interlaced video: auto finds it, makes a frame of each field, and takes telecined film back to "
        "its own frames; off leaves all as it is; bob makes a frame of each field of any video; weave puts fields "
        "together that belong to one picture.",
    )
    dedup: Literal["auto", "off", "retime"] = Field(
        default="auto",
        description="Frames that repeat the one before, as in animation: auto replaces them by new ones that lead from "
        "picture to picture; off takes them as they are; retime leaves them out and spaces the pictures evenly, and "
        "factor counts pictures.",
    )
    source_fps: Annotated[
        str | None, BeforeValidator(lambda v: None if v is None else str(parse_rate(v)))
    ] = Field(
        default=None,
        description="Frame rate of a file that holds no times, such as a raw H.264 stream: 1 to 1000; a number or a "
        "ratio. Its own, or 25, unless given.",
    )
    strict: bool = Field(
        default=False,
        description="Whether the job is refused where something of the video would be lost: true or false.",
    )

    @model_validator(mode="before")
    @classmethod
    def _settle_rate(cls, values: Any) -> Any:
        return settle_rate(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        check_options(self)
        return self


class RequestedHandling(BaseModel):
    """What one request asks for that changes nothing in the picture, checked. `parse_handling` makes a job's of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    priority: Literal["low", "normal", "high"] = Field(
        default="normal", description="How the job stands among your own: low, normal or high."
    )
    reference: Text | None = Field(
        default=None,
        max_length=MAX_REFERENCE,
        description=f"Your own name for the job: 1 to {MAX_REFERENCE} printable characters. "
        "The job shows it, and GET /jobs finds by it.",
    )
    metadata: Annotated[Json[dict[Text, Note]], AfterValidator(_check_size)] = Field(
        default_factory=dict,
        description='Your own notes on the job: a JSON object of texts, such as {"user": "42"}, with up to '
        f"{MAX_METADATA_KEYS} keys and {MAX_METADATA_BYTES} bytes of printable characters. "
        "The job shows them, and GET /jobs finds by them.",
    )
    webhook_url: Annotated[str | None, AfterValidator(_check_webhook)] = Field(
        default=None,
        description="Where the service posts the job's events, signed as Standard Webhooks has it: an https:// URL of "
        "a public host.",
    )
    webhook_events: Annotated[list[WebhookEvent], BeforeValidator(_listed)] = Field(
        default_factory=list,
        description=f"The events that the webhook gets, with commas between: all of {', '.join(WEBHOOK_EVENTS)} "
        "unless given.",
    )


def parse_request(
    fields: Mapping[str, object],
    models: Collection[str] = SHIPPED_MODELS,
    codecs: Collection[str] = COMMON_CODECS,
) -> tuple[Options, Handling]:
    """All that form fields or a query ask for: the options of the picture, and how the service handles the job.

    Raises Problem as `parse_options` and `parse_handling` do.
    """
    handling = {name: value for name, value in fields.items() if name in RequestedHandling.model_fields}
    options = {name: value for name, value in fields.items() if name not in handling}
    return parse_options(options, models, codecs), parse_handling(handling)


def parse_handling(fields: Mapping[str, object]) -> Handling:
    """How the service handles a job, e.g. `parse_handling({"metadata": '{"user": "42"}'})`.

    Raises:
        Problem: 422 `invalid-option` or `webhook-refused`; its detail names each field at fault.
    """
    try:
        requested = RequestedHandling.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error, RequestedHandling) from None
    return Handling(**requested.model_dump())


def parse_options(
    fields: Mapping[str, object],
    models: Collection[str] = SHIPPED_MODELS,
    codecs: Collection[str] = COMMON_CODECS,
) -> Options:
    """A job's options from form fields or a query, e.g. `parse_options({"target_fps": "59.94"})`.

    Args:
        models: the models that a job may name.
        codecs: the codecs that every worker can encode.

    Raises:
        Problem: 422 `invalid-option`, whose detail names each option at fault, or `codec-unavailable`.
    """
    try:
        requested = RequestedOptions.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error, RequestedOptions) from None
    if requested.model not in models:
        raise Problem(
            "invalid-option",
            f"model was {requested.model!r}, which no worker here serves now; choose one of {', '.join(models)}.",
        )
    codec = codec_of(requested.container, requested.codec)
    if codec not in codecs:
        able = [name for name in CONTAINERS[requested.container].codecs if name in codecs]
        raise Problem(
            "codec-unavailable",
            f"codec was {codec!r}, which not every worker here can encode now; "
            f"for {requested.container} choose {listed(able) or 'another container'}.",
        )
    return Options(**requested.model_dump())


def _refusal(error: ValidationError, requested: type[BaseModel]) -> Problem:
    """The problem that names each fault once; `requested` describes what would be accepted."""
    faults = dict.fromkeys(_fault(details, requested) for details in error.errors())
    return Problem("invalid-option", "; ".join(faults) + ".")


def _fault(error: ErrorDetails, requested: type[BaseModel]) -> str:
    if not error["loc"]:
        return str(error["ctx"]["error"])
    name, given = str(error["loc"][0])[:100], str(error["input"])[:100]
    if error["type"] == "extra_forbidden" and name == "mask":
        return MASK_NEEDS_A_FORM
    if error["type"] == "extra_forbidden":
        names = [*RequestedOptions.model_fields, *RequestedHandling.model_fields]
        alike = get_close_matches(name.lower().replace("-", "_"), names, n=1, cutoff=0.45)
        meant = f"did you mean {alike[0]!r}? The" if alike else "the"
        return f"there is no option {name!r}; {meant} options are {', '.join(names)}"
    description = (requested.model_fields[name].description or "").rstrip(".")
    return f"{name} was {given!r}, which is not accepted: {description}"
