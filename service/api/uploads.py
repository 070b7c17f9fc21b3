"""Receives a video: streams the body to one file, and caps, counts and hashes its bytes meanwhile.

The framework's form parser is not used: it reads the whole body, without a limit, before it calls a route.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ByteSize
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service.api.options import RequestedHandling, RequestedOptions, parse_request
from service.jobs.options import Handling, Options
from service.jobs.problems import Problem

MIB = 2**20
MULTIPART_OVERHEAD = MIB  # bytes that a body may have beside the video
MAX_FIELD_BYTES = 2**15  # metadata of 4096 bytes may be written in escapes, six for one
MAX_JSON_BYTES = 2**16
MAX_PARTS = 32
MAX_MASK_BYTES = MIB // 2
IDLE_SECONDS = 60.0  # a client that sends nothing for so long has gone, or holds the connection on purpose
SLOWEST_CLIENT = (
    1000  # bytes a second, on average: a client that sends single bytes holds the connection as well
)
WRITE_BYTES = MIB  # bytes that are gathered before a thread writes and hashes them
DEFAULT_FILENAME = "video"
# Release 0.1.0 hashed these options whole, defaults too, for the fingerprint of an upload.
OPTIONS_OF_0_1_0 = {"factor", "target_fps", "speed", "model", "scene_threshold", "quality", "audio"}

FIELDS = RequestedOptions.model_fields.keys() | RequestedHandling.model_fields.keys()

#: Makes a job's options and handling of the fields of a request, and raises Problem to refuse them.
Parse = Callable[[Mapping[str, object]], tuple[Options, Handling]]

_EXTENDED_FILENAME = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)
_PLAIN_FILENAME = re.compile(r';\s*filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))', re.IGNORECASE)

CHOOSE_A_TYPE = (
    "Send multipart/form-data with the video in the field `file`, "
    "or the video itself as video/*, image/*, application/zip or application/octet-stream, "
    "or its `source_url` in application/json."
)
RAW = re.compile(
    rb"(video|image)/.+|application/(octet-stream|zip|x-zip-compressed|mxf|ogg)"
)  # what a body may be
MASK = "mask"  # the part of a form that is a picture of what stands still
PNG = b"\x89PNG\r\n\x1a\n"
SOURCE_URL = "source_url"  # the field that names a video, in place of one that is sent


@dataclass(frozen=True)
class Upload:
    """An upload that has arrived: the file at `path` that holds the video, and what came with it.

    Where `source_url` names the video instead, the file is empty until `service.api.sources` has fetched it.
    """

    path: Path
    size_bytes: int
    sha256: str
    filename: str
    options: Options
    handling: Handling = Handling()
    source_url: str | None = None
    mask: bytes = b""  #: the picture whose hash is in the options
    counted: bool = False  #: against its owner's quota, since it was announced before it came

    @property
    def uncounted_bytes(self) -> int:
        """What is still to be counted against the owner's quota."""
        return 0 if self.counted else self.size_bytes

    @property
    def fingerprint(self) -> str:
        """A hash of the video and what is asked for: two requests for the same work have the same one."""
        # Defaults are left out: a later version has more options, and the request is the same when it is sent again.
        return self._hash_with(self.options.model_dump_json(exclude_defaults=True))

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Whether `fingerprint` is of the same work, as this release hashes it or as release 0.1.0 did."""
        first = self.options.model_dump_json(include=OPTIONS_OF_0_1_0)
        return fingerprint in (self.fingerprint, self._hash_with(first))

    def _hash_with(self, options: str) -> str:
        handling = self.handling.model_dump_json(exclude_defaults=True)
        # A release before `Handling` hashed none.
        video = self.source_url or self.sha256
        work = f"{video} {options}" if handling == "{}" else f"{video} {options} {handling}"
        return hashlib.sha256(work.encode()).hexdigest()


class BrokenOff(Problem):
    """The client has gone, or sends too little."""


class Reader(Protocol):
    """Takes a body piece by piece and writes the video in it to a `VideoFile`.

    `fields` are the options that came with the video, `filename` is its name, `mask` the picture beside it. `finish`
    raises Problem 400 where the body is not complete.
    """

    fields: dict[str, str]
    filename: str | None
    mask: bytes

    def feed(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


class VideoFile:
    """The file at `path` that an upload is written to.

    `write` gathers bytes and raises Problem 413 above `max_bytes`. `flush` calls `check_space` and writes; it is slow
    and belongs in a thread.
    """

    def __init__(self, path: Path, max_bytes: int, check_space: Callable[[], None]) -> None:
        self.path = path
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._check_space = check_space
        self._pending = bytearray()
        self._digest = hashlib.sha256()
        self._file = path.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        self._pending += data

    @property
    def is_due(self) -> bool:
        return len(self._pending) >= WRITE_BYTES

    def flush(self) -> None:
        self._check_space()
        self._digest.update(self._pending)
        try:
            rest = memoryview(self._pending)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_space(0) from error
            raise
        self._pending = bytearray()

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()


class RawReader:
    """Reads a body that is the video itself; the options are in the query."""

    mask = b""

    def __init__(self, request: Request, video: VideoFile) -> None:
        self.fields = query_fields(request)
        if SOURCE_URL in self.fields:
            raise two_videos()
        self.filename = self.fields.pop("filename", None) or disposition_filename(request)
        self.feed = video.write

    def finish(self) -> None:
        pass


class MultipartReader:
    """Reads a form: its part `file` is the video, `mask` a picture, and every other part an option.

    Without a `video` to write to, the store has that already, and the form has no `file`.
    """

    def __init__(self, boundary: bytes, request: Request, video: VideoFile | None, parse: Parse) -> None:
        self.fields = query_fields(request)
        self._parse = parse
        self.filename: str | None = None
        self.mask = b""
        self._video = video
        self._video_seen = False
        self._whole = False
        self._parts = 0
        self._header, self._value = b"", b""
        self._name: str | None = None
        self._disposition: dict[bytes, bytes] = {}
        self._data = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise invalid_upload(f"The multipart body is malformed: {error}.") from None

    def finish(self) -> None:
        if not self._whole:
            raise invalid_upload("The multipart body ends before its last boundary; send it again.")
        if self._video and not self._video_seen and SOURCE_URL not in self.fields:
            raise invalid_upload(
                "The form has no part named `file`; put the video there, or its URL in `source_url`, or name an upload "
                "that is here already in the query: POST /jobs?upload=ID."
            )

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise invalid_upload(f"The form has more than {MAX_PARTS} parts.")
        self._name, self._disposition, self._data = None, {}, bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = parse_options_header(self._value)[1]
        self._header, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        if b"name" not in self._disposition:
            raise invalid_upload("A part of the form has no name.")
        self._name = decoded(self._disposition[b"name"])
        if self._name == MASK:
            return
        if self._name != "file":
            if b"filename" in self._disposition and self._name not in FIELDS:
                raise invalid_upload(
                    f"The form has a file in the field {self._name!r:.100}: put the video into the field `file`."
                )
            return
        if self._video is None:
            raise upload_and_video()
        if self._video_seen:
            raise invalid_upload("The form has two parts named `file`; send one video per job.")
        if SOURCE_URL in self.fields:
            raise two_videos()
        self._parse(self.fields)  # refuses what is wrong already before the video is sent, not after
        self._video_seen = True
        self.filename = decoded(self._disposition.get(b"filename", b""))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file" and self._video:
            self._video.write(data[start:end])
        elif self._name == MASK:
            self.mask += data[start:end]
            check_mask(self.mask)
        elif len(self._data) + end - start > MAX_FIELD_BYTES:
            raise Problem(
                "invalid-option", f"The field {self._name!r:.100} has more than {MAX_FIELD_BYTES} bytes."
            )
        else:
            self._data += data[start:end]

    def _on_part_end(self) -> None:
        if self._name is None or self._name in ("file", MASK):
            return
        add_field(self.fields, self._name, decoded(bytes(self._data)))

    def _on_end(self) -> None:
        self._whole = True


class JsonReader:
    """Reads a body of JSON: an object of the options and `source_url`."""

    filename: str | None = None
    mask = b""

    def __init__(self, request: Request) -> None:
        self.fields = query_fields(request)
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_JSON_BYTES:
            raise invalid_upload(f"The JSON body has more than {MAX_JSON_BYTES} bytes.")

    def finish(self) -> None:
        try:
            document = json.loads(self._body)
            given = {name: _as_field(value) for name, value in document.items() if value is not None}
        except (ValueError, AttributeError, RecursionError):
            raise invalid_upload("The body is no JSON object of options and `source_url`.") from None
        for name, value in given.items():
            add_field(self.fields, name, value)
        if SOURCE_URL not in self.fields:
            raise invalid_upload("The JSON body names no video; put its URL into `source_url`.")


def _as_field(value: object) -> str:
    """A member of a JSON body as a form would have it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


async def receive(
    request: Request,
    path: Path,
    *,
    max_bytes: int,
    check_space: Callable[[], None],
    parse: Parse = parse_request,
) -> Upload:
    """Streams the video of `request` to `path`, and returns it with its options.

    `check_space` is called before each write, and raises to refuse it. `parse` reads the fields, and raises to
    refuse them. Raises Problem (400, 408, 413, 415, 422, 507)
    where the upload cannot be taken; the caller then removes what lies at `path`.
    """
    check_headers(request, max_bytes)
    video = VideoFile(path, max_bytes, check_space)
    try:
        reader = choose_reader(request, video, parse)
        if isinstance(reader, RawReader):
            parse(reader.fields)
        async for chunk in chunks(request, max_bytes + MULTIPART_OVERHEAD, too_large(max_bytes)):
            reader.feed(chunk)
            if video.is_due:
                await run_in_threadpool(video.flush)
        reader.finish()
        source_url = reader.fields.pop(SOURCE_URL, None)
        if source_url is not None and video.size_bytes:
            raise two_videos()
        if source_url is None and not video.size_bytes:
            raise invalid_upload("The video is empty. " + CHOOSE_A_TYPE)
        await run_in_threadpool(video.flush)
    finally:
        video.close()
    options, handling = parse(reader.fields)
    return Upload(
        path,
        video.size_bytes,
        video.sha256(),
        clean_filename(reader.filename),
        with_mask(options, reader.mask),
        handling,
        source_url=source_url,
        mask=reader.mask,
    )


async def receive_beside(request: Request, parse: Parse) -> tuple[dict[str, str], bytes]:
    """The fields of a `request` that names an upload, and the mask in its form; b"" where it has none.

    Raises Problem (400, 408, 422) for a body that is anything but a form, or has a video.
    """
    if not content_length(request):
        return query_fields(request), b""
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise upload_and_video()
    reader = form_reader(parameters, request, None, parse)
    too_much = invalid_upload(f"The form beside an `upload` has more than {MULTIPART_OVERHEAD} bytes.")
    async for chunk in chunks(request, MULTIPART_OVERHEAD, too_much):
        reader.feed(chunk)
    reader.finish()
    return reader.fields, reader.mask


def with_mask(options: Options, mask: bytes) -> Options:
    """The options of a job that has `mask`, if that is not empty."""
    return options.model_copy(update={"mask": hashlib.sha256(mask).hexdigest()}) if mask else options


def check_mask(mask: bytes) -> None:
    """Raises Problem 422 where `mask`, the beginning of one or the whole, cannot be taken."""
    if not mask.startswith(PNG[: len(mask)]) or len(mask) > MAX_MASK_BYTES:
        raise Problem(
            "invalid-option",
            f"The mask is no PNG of at most {MAX_MASK_BYTES} bytes; a smaller picture will do, since it is scaled to "
            "the video's size.",
        )


def check_headers(request: Request, max_bytes: int) -> None:
    """Raises Problem (400, 413, 415) where the headers alone show that the body cannot be taken."""
    length = content_length(request)
    if length == 0:
        raise invalid_upload("The body is empty. " + CHOOSE_A_TYPE)
    if length is not None and length > max_bytes + MULTIPART_OVERHEAD:
        raise too_large(max_bytes)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem("unsupported-media-type", "Send the body without a content encoding.")


def choose_reader(request: Request, video: VideoFile, parse: Parse) -> Reader:
    header = request.headers.get("content-type", "application/octet-stream")
    kind, parameters = parse_options_header(header)
    if kind == b"multipart/form-data":
        return form_reader(parameters, request, video, parse)
    if kind == b"application/json":
        return JsonReader(request)
    if RAW.fullmatch(kind):
        return RawReader(request, video)
    raise Problem("unsupported-media-type", f"The Content-Type is {header!r:.100}. {CHOOSE_A_TYPE}")


def form_reader(
    parameters: Mapping[bytes, bytes], request: Request, video: VideoFile | None, parse: Parse
) -> MultipartReader:
    if not parameters.get(b"boundary"):
        raise invalid_upload("The Content-Type multipart/form-data names no boundary.")
    try:
        return MultipartReader(parameters[b"boundary"], request, video, parse)
    except FormParserError as error:
        raise invalid_upload(f"The multipart boundary is not usable: {error}.") from None


async def chunks(request: Request, max_bytes: int, excess: Problem) -> AsyncIterator[bytes]:
    """The body of `request` as it comes; raises `excess` after `max_bytes`, and BrokenOff where no more comes."""
    received, begun = 0, anyio.current_time()
    stream = aiter(request.stream())
    while True:
        spent = anyio.current_time() - begun
        try:
            with anyio.fail_after(min(IDLE_SECONDS, IDLE_SECONDS + received / SLOWEST_CLIENT - spent)):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except ClientDisconnect:  # nobody is left to read the answer
            raise BrokenOff(
                "invalid-upload", "The connection broke before the upload was complete; send it again."
            ) from None
        except TimeoutError:
            raise BrokenOff(
                "upload-too-slow",
                f"The client sent nothing for {IDLE_SECONDS:.0f} s, or fewer than {SLOWEST_CLIENT} bytes a second; "
                "send the upload again.",
            ) from None
        received += len(chunk)
        if received > max_bytes:
            raise excess
        yield chunk


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancels what is done in it when the client of `request`, whose body was read, goes; raises BrokenOff then."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with anyio.CancelScope() as scope:
        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
    if scope.cancelled_caught:
        raise BrokenOff(
            "invalid-upload", "The connection broke before the video was here; send the request again."
        )


def content_length(request: Request) -> int | None:
    """The size in bytes that the client announces; None where it announces none. The server checked the number."""
    value = request.headers.get("content-length")
    return None if value is None else int(value)


def query_fields(request: Request) -> dict[str, str]:
    """The options in the query; Problem 400 where one has two values."""
    fields: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        add_field(fields, name, value)
    return fields


def add_field(fields: dict[str, str], name: str, value: str) -> None:
    """Adds an option to `fields`; Problem 400 where it has another value there.

    Clients that are generated from the OpenAPI description send an option in the query and in the form.
    """
    if fields.setdefault(name, value) != value:
        raise invalid_upload(
            f"The option {name!r:.100} is given twice, as {fields[name]!r:.100} and as {value!r:.100}; give it once."
        )


def disposition_filename(request: Request) -> str | None:
    """The name in the Content-Disposition header: RFC 8187's `filename*` in UTF-8, else `filename` in plain UTF-8.

    Returns None where the header has no name that can be read.
    """
    header = decoded(request.headers.get("content-disposition", "").encode("latin-1"))
    if extended := _EXTENDED_FILENAME.search(header):
        return unquote(extended[1], errors="replace")
    if plain := _PLAIN_FILENAME.search(header):
        return plain[2] or re.sub(r"\\(.)", r"\1", plain[1] or "")
    return None


def decoded(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def clean_filename(name: str | None) -> str:
    """The last part of the path `name`, made printable, visible and at most 128 characters long.

    The name is shown to people; no file on this machine's disk is called by it.
    """
    last = re.split(r"[/\\]", name or "")[-1]
    printable = "".join(character for character in last if character.isprintable()).strip(" .")
    path = PurePosixPath(printable or DEFAULT_FILENAME)
    suffix = path.suffix[:16]
    return path.name.removesuffix(path.suffix)[: 128 - len(suffix)] + suffix


def two_videos() -> Problem:
    return invalid_upload("The request sends a video and names one in `source_url`; do one of them.")


def upload_and_video() -> Problem:
    return invalid_upload(
        "The request names an `upload` and has a body; send one of the two. Beside an upload, a form may hold options "
        "and a `mask`."
    )


def invalid_upload(detail: str) -> Problem:
    return Problem("invalid-upload", detail)


def too_large(max_bytes: int) -> Problem:
    return Problem(
        "upload-too-large",
        f"An upload may have {max_bytes} bytes (DAIN_MAX_UPLOAD_BYTES), and this one has more; send a shorter video.",
        max_bytes=max_bytes,
    )


def no_space(free: int, least: int = 0, length: int = 0) -> Problem:
    """The store has `free` bytes left, of which an upload of `length` must leave `least`."""
    size = f" of {ByteSize(length).human_readable()}" if length else ""
    leave = (
        f", and must leave {ByteSize(least).human_readable()} free there (DAIN_MIN_FREE_BYTES)"
        if least
        else ""
    )
    return Problem(
        "insufficient-storage",
        f"The service's store has {ByteSize(free).human_readable()} left; an upload{size} does not fit{leave}. "
        "Make room on its disk, delete jobs that are over, or try again once some have expired.",
        headers={"Retry-After": "300"},
    )
