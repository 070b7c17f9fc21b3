"""Every setting of the service and its workers, read from the environment (prefix ``DAIN_``)."""

from __future__ import annotations

import base64
import difflib
import ipaddress
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.jobs.options import ModelName
from service.store import CACHE_BYTES, Store, check_url, open_store

GIB = 2**30
HOUR = 3600
DAY = 24 * HOUR
PREFIX = "DAIN_"
#: Variables with the prefix that are read by others: images, compose files, builds, the client and its commands.
OTHER_VARIABLES = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "BUILD_CUDA", "DOMAIN", "ENV_FILE", "GPU_LOCKS", "INSTANCE", "PUBLISH", "REDIS_ADDRESS",
        "PULL_POLICY", "REDIS_PASSWORD_FILE", "REGISTRY", "TOKEN", "URL", "VERSION", "WORKER_MEMORY",
    )
)  # fmt: skip
_AT_AFTER_AUTHORITY = re.compile(r"\w+://[^/?#]+[/?#].*@", re.DOTALL)
_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_ORIGIN = re.compile(rf"https?://({_HOST_NAME.pattern}|\[[0-9a-f:.]+\])(:[0-9]{{1,5}})?")


def _default_state_dir() -> Path:
    data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data_home) / "dain"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _host_names(value: object) -> object:
    """The host names in a list with commas between them; ValueError where one is no bare name."""
    if not isinstance(value, str):
        return value
    names = {name.strip().lower() for name in value.split(",") if name.strip()}
    if wrong := sorted(name for name in names if not _HOST_NAME.fullmatch(name)):
        raise ValueError(f"{wrong[0]!r} is no host name: give names alone, without scheme, port or path")
    return names


def _origins(value: object) -> object:
    """The origins of web pages in a list with commas between them; ValueError where one is none."""
    if not isinstance(value, str):
        return value
    origins = {origin.strip().lower() for origin in value.split(",") if origin.strip()}
    if wrong := sorted(origin for origin in origins if not _ORIGIN.fullmatch(origin)):
        raise ValueError(f"{wrong[0]!r} is no origin: give such as https://app.example.com, without a path")
    return origins


def _destinations(value: object) -> object:
    """The host names, addresses and networks in a list with commas between them; ValueError where one is none."""
    if not isinstance(value, str):
        return value
    entries = {entry.strip().lower() for entry in value.split(",") if entry.strip()}
    for entry in sorted(entries):
        try:
            ipaddress.ip_network(entry)
        except ValueError:
            if not _HOST_NAME.fullmatch(entry) or re.fullmatch(r"[0-9.]+", entry):
                raise ValueError(
                    f"{entry!r} is no host name, address or network: give such as hooks.internal or 10.1.0.0/16"
                ) from None
    return entries


def _port_of_its_own(port: int | None, info: ValidationInfo) -> int | None:
    """ValueError where `port` is the API's own: there, whoever has no key could ask for metrics."""
    if port is not None and port == info.data.get("port"):
        raise ValueError(
            "this is DAIN_PORT, where callers are; metrics need a second port, which has no keys"
        )
    return port


def _webhook_secrets(value: object) -> object:
    """The secrets in a text with spaces between them; ValueError, without the text, where one is none."""
    if not isinstance(value, str):
        return value
    secrets = value.split()
    for secret in secrets:
        try:
            size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
        except ValueError:
            size = 0
        if not secret.startswith("whsec_") or not 24 <= size <= 64:
            raise ValueError(
                'each must be whsec_ and the base64 of 24 to 64 random bytes: echo "whsec_$(openssl rand -base64 32)"'
            )
    return secrets


def _redis_url(url: str) -> str:
    if not re.match(r"(rediss?|unix)://.", url):
        raise ValueError("it must begin with redis://, rediss:// or unix://, e.g. redis://localhost:6379/0")
    if _AT_AFTER_AUTHORITY.match(url):  # what a reader takes for the host is a part of the password
        raise ValueError("an @ stands after the host. In a password, write @ as %40, / as %2F, : as %3A")
    return url


def _default_store_url(values: dict[str, Any]) -> str:
    return str((values["state_dir"] / "store").as_uri())


def _default_exports(values: dict[str, Any]) -> Path:
    return Path(values["state_dir"] / "exports")


def _default_keys_file(values: dict[str, Any]) -> Path | None:
    return values["state_dir"] / "keys.json" if values["redis_url"] is None else None


class Settings(BaseSettings):
    """Every setting with its name, default, range and meaning, e.g. ``Settings(port=8080)``.

    A size is a number of bytes or a text such as ``4GiB``. An empty environment variable counts as unset.

    Raises:
        pydantic.ValidationError: a value cannot be used.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    state_dir: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=_default_state_dir,
        validate_default=True,
        description="Folder for everything kept on this machine; `$XDG_DATA_HOME/dain` unless set.",
    )
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        default=None,
        description="Redis shared by the API and its workers, e.g. `redis://host:6379/0`; "
        "unset: `dain up` starts one.",
    )
    store_url: Annotated[str, AfterValidator(check_url)] = Field(
        default_factory=_default_store_url,
        description="Where uploads, segments and results are kept: `file:///folder`, or "
        "`s3://bucket/prefix?endpoint=https://host&region=name`; unset: `store` in the state folder.",
    )
    store_redirect: bool = Field(
        default=False,
        description="Whether results are fetched from an S3 store itself, by links that are good for a quarter of an "
        "hour; its endpoint must then be one that clients reach.",
    )
    cache_bytes: ByteSize = Field(
        default=ByteSize(CACHE_BYTES),
        gt=0,
        description="Copies of an S3 store's files that a machine keeps in `cache` in the state folder.",
    )
    host: str = Field(
        default="127.0.0.1", description="Address the API listens on; this machine only unless set."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port the API listens on.")
    metrics_port: Annotated[int | None, AfterValidator(_port_of_its_own)] = Field(
        default=None,
        ge=1,
        le=65535,
        description="Second port of the API, where `GET /metrics` needs no key, for Prometheus; unset: none.",
    )
    allowed_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(_host_names)] = Field(
        default=frozenset(),
        description="Names under which clients reach the API, beside `localhost` and the address it listens on: "
        "`dain.example.com,dain-api`. Requests to any other are refused.",
    )
    egress_allow: Annotated[frozenset[str], NoDecode, BeforeValidator(_destinations)] = Field(
        default=frozenset(),
        description="Where webhooks may go and videos may be fetched from, beside public https: host names, addresses "
        "and networks, `hooks.internal,10.1.0.0/16`.",
    )
    webhook_secret: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_webhook_secrets)] = Field(
        default=(),
        description="Secret that signs webhooks: `whsec_` and the base64 of 24 to 64 random bytes. Several, with "
        "spaces between, sign together while a new one takes over. Unset: jobs with a webhook are refused.",
    )

    cors_origins: Annotated[frozenset[str], NoDecode, BeforeValidator(_origins)] = Field(
        default=frozenset(),
        description="Origins of the web pages that may call the API from a browser (CORS): `https://app.example.com`. "
        "Pages of other sites are refused.",
    )
    keys_file: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        default_factory=_default_keys_file,
        description="File of the API keys, which `dain keys` writes; unset: they are kept in Redis, or, where "
        "`dain up` starts its own, in `keys.json` of the state folder.",
    )
    open: bool = Field(
        default=False,
        description="Whether anybody may call the API, as long as there are no keys, though it listens on an address "
        "that other machines may reach.",
    )

    max_upload_bytes: ByteSize = Field(default=ByteSize(4 * GIB), gt=0, description="Largest upload taken.")
    max_pixels: int = Field(default=8192 * 4320, gt=0, description="Largest picture taken, width x height.")
    max_frames: int = Field(default=1_000_000, gt=0, description="Most frames a result may have.")
    max_duration_seconds: float = Field(default=6 * HOUR, gt=0, description="Longest video taken.")
    min_free_bytes: ByteSize = Field(
        default=ByteSize(GIB), ge=0, description="Disk space that uploads must leave free in the store."
    )
    max_queued_jobs: int = Field(
        default=1000, gt=0, description="Jobs waiting before new ones are refused with 429."
    )
    max_work: int | None = Field(
        default=None,
        gt=0,
        description="Work that an owner's jobs may have before them, in megapixels of new frames, unless a key says "
        "otherwise; more is refused with 429. A minute of 1080p from 30 to 60 frames/s is 3732.",
    )
    result_ttl_seconds: int = Field(default=7 * DAY, gt=0, description="How long a finished file is kept.")
    record_ttl_seconds: int = Field(
        default=30 * DAY,
        gt=0,
        description="How long a finished job is remembered; its result answers 410 once expired.",
    )

    model: ModelName = Field(
        default="auto",
        description="Model that a worker loads first, and runs for jobs that name none: `dain-refined`, "
        "`dain-lite`, `dain`, or `auto`: `dain-refined` on a GPU, `dain-lite` on a CPU.",
    )
    models: Path | None = Field(
        default=None,
        description="Folder of models of your own that a worker serves beside those that come with the project: "
        "`NAME.safetensors`, as `dain train` writes them; a job asks for one with `model=NAME`.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Device a worker runs on: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1` ...",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16", "fp8", "int8"] = Field(
        default="auto",
        description="Arithmetic of the networks; `auto` is fp16 on a GPU; on a CPU bf16 if it has AMX, else fp32. "
        "`fp8` wants an H100 or H200, `int8` a CPU with VNNI or AMX, and both a calibrated model (`dain compress "
        "quantise`).",
    )
    profile: Path | None = Field(
        default=None,
        description="File that `dain tune` wrote on a device of this class: the model that it is of runs each block in "
        "the precision that was chosen there, others as `DAIN_PRECISION` says.",
    )
    backend: str = Field(
        default="auto",
        pattern=r"^(auto|torch|onnxruntime(:\w+)?)$",
        description="What runs the networks: `torch`, which `auto` is, or `onnxruntime`: exported models, on a CPU or, "
        "by `onnxruntime:NAME`, where that execution provider works.",
    )
    exports: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=_default_exports,
        description="Folder of the models that `dain export` wrote for the backend `onnxruntime`, `NAME/` of each; "
        "unset: `exports` in the state folder.",
    )
    max_vram_bytes: ByteSize | None = Field(
        default=None,
        description="GPU memory a worker may use, for all its models together; unset: four fifths of what is free. "
        "With less it works in bands.",
    )
    max_ram_bytes: ByteSize | None = Field(
        default=None,
        description="Main memory a worker on a CPU may use; unset: four fifths of what it can have. A frame that would "
        "need more fails its job, in place of the worker.",
    )
    memory: ByteSize | None = Field(
        default=None,
        gt=0,
        description="Main memory that all processes of `dain edge` may take together, with what a GPU takes that has "
        "none of its own; unset: as without this.",
    )
    threads: int = Field(
        default=0, ge=0, description="CPU threads of a worker; 0 leaves the choice to PyTorch."
    )

    segment_frames: int = Field(
        default=96, ge=1, description="Frames of the result that one segment aims at."
    )
    segments_in_flight: int = Field(
        default=16,
        ge=1,
        description="Segments of one job that are queued at a time; two for each worker that may share a job.",
    )
    max_attempts: int = Field(default=3, ge=1, description="Attempts at a task before its job fails.")
    worker_ttl_seconds: int = Field(
        default=15,
        ge=3,
        description="Silence after which a worker counts as dead and its task is given to another.",
    )
    stall_seconds: int = Field(
        default=600,
        ge=1,
        description="Time without progress (no frame read, made or encoded) after which a worker ends itself.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="Form of a logged line: `console` for people, `json`, or `auto`: for people on a terminal.",
    )

    def open_store(self) -> Store:
        """The store of these settings; raises OSError where its folder on this machine cannot be made."""
        return open_store(self.store_url, self.state_dir / "cache", self.cache_bytes)

    def require_store(self) -> Store:
        """The store of these settings; ends the process in a sentence where it cannot be opened.

        Nothing is asked of a bucket yet: it may be back later.
        """
        try:
            return self.open_store()
        except OSError as error:
            why = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            sys.exit(f"The store of DAIN_STORE_URL cannot be opened: {why.rstrip('.')}. Nothing was started.")

    @property
    def open_without_keys(self) -> bool:
        """Whether anybody may call the API as long as there are no keys: this machine's users alone, or by `open`."""
        if self.open:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def require_redis_url(self) -> str:
        """`redis_url`; ends the process in a sentence where none is set."""
        if self.redis_url is None:
            sys.exit(
                "DAIN_REDIS_URL is not set. Set it to the Redis that the API and its workers share, "
                "e.g. redis://localhost:6379/0, or use `dain up`, which starts one. Nothing was started."
            )
        return self.redis_url


def unknown_settings(environment: Iterable[str]) -> list[str]:
    """A sentence for each variable that looks like a setting and is none, with the setting that may be meant.

    A value is not repeated: it may be a secret.
    """
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    unknown = {name for name in environment if name.upper().startswith(PREFIX)} - {*known, *OTHER_VARIABLES}
    return [_unknown(name, known) for name in sorted(unknown)]


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.75)
    meant = f"Did you mean {near[0]}?" if near else "The README lists those there are."
    return f"{name} is no setting, so it changes nothing. {meant}"


def read_settings(**given: Any) -> Settings:
    """The settings of a process that is starting. `given` values take precedence over the environment.

    Ends the process with a message that names each variable at fault where one cannot be used.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        # The default of one setting may follow from another: then the other alone is to blame.
        faults = [fault for fault in error.errors() if fault["type"] != "default_factory_not_called"]
        wrong = [_describe(str(each["loc"][0]), str(each["input"]), each["msg"]) for each in faults]
        advice = "Nothing was started. Correct each variable, or leave it out for its default."
        sys.exit("\n".join([*wrong, advice]))


def _describe(name: str, value: str, fault: str) -> str:
    url_with_password = name.endswith("_url") and ("@" in value or "?" in value)
    may_hold_password = url_with_password or name.endswith("_secret")
    shown = "***" if may_hold_password else value
    return f"{PREFIX}{name.upper()}={shown}: {fault.removeprefix('Value error, ')}"
