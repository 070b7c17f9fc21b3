"""A store in a bucket of Amazon S3, or of another server that speaks its protocol.

Every object carries its SHA-256 as metadata. The server checks each request's body by the hash in its signature; what
is read is checked here. boto3 has the credentials by its usual ways, and makes a failed request again a few times.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from service.store import (
    Bucket,
    Stored,
    StoreDamaged,
    StoreMissing,
    StoreUnavailable,
    check_key,
    check_prefix,
    is_key,
    nothing,
)
from service.store.cache import Cache
from service.store.hashes import hash_file
from service.store.scratch import Scratch

ATTEMPTS = 4  # at one request
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
PART_BYTES = 16 * 2**20
MOST_PARTS = 9_000  # S3 takes 10,000
THREADS = 4  # of one transfer
REMOVED_AT_ONCE = 1000
SCRATCH_SECONDS = 60.0  # a new folder has no lock yet
CHECK_SECONDS = 30.0  # for which a check that succeeded stands

_CONFIG = Config(
    signature_version="s3v4",
    # Newer checksums in trailers break other servers than Amazon's; the signature covers the body's SHA-256 instead.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    connect_timeout=CONNECT_SECONDS,
    read_timeout=READ_SECONDS,
    max_pool_connections=64,
    s3={"payload_signing_enabled": True},
)
# Few other servers have a host name for each bucket.
_PATH_STYLE = Config(s3={"payload_signing_enabled": True, "addressing_style": "path"})


@dataclass(frozen=True)
class Found:
    """An object as the server describes it. Where a client sent it, its hash is not known."""

    stored: Stored
    etag: str


class S3Store:
    """The files of `service.store.Store` as objects of `bucket`.

    `folder` is on this machine: for scratch files, and copies of what was read last, of `cache_bytes` at most.
    """

    whole_bytes = 64 * 2**20  # which come in a second

    def __init__(self, bucket: Bucket, folder: Path, cache_bytes: int) -> None:
        self._bucket = bucket
        self._folder = folder
        self._scratch = Scratch(folder / "scratch")
        self._cache = Cache(folder, self._scratch, cache_bytes)
        self._checked_at = -CHECK_SECONDS
        try:
            session = boto3.Session()
            self._region = bucket.region or session.region_name or "us-east-1"
            self._s3 = session.client(
                "s3",
                region_name=self._region,
                endpoint_url=bucket.endpoint,
                config=_CONFIG.merge(_PATH_STYLE) if bucket.endpoint else _CONFIG,
            )
        except BotoCoreError as error:
            raise StoreUnavailable(
                f"The bucket {bucket.name} cannot be used: {_reason(error)}. Correct the AWS_… variables, or the "
                "files in ~/.aws."
            ) from error

    def scratch(self) -> AbstractContextManager[Path]:
        self.sweep_scratch(SCRATCH_SECONDS)  # the janitor may be on another machine
        return self._scratch.folder()

    def sweep_scratch(self, min_age_seconds: float) -> int:
        self._cache.evict()
        return self._scratch.sweep(min_age_seconds)

    def sweep_parts(self, min_age_seconds: float) -> int:
        begun_before = datetime.now(UTC) - timedelta(seconds=min_age_seconds)
        swept = 0
        for upload in self._listed("list_multipart_uploads", "Uploads", self._bucket.prefix):
            if upload["Initiated"] < begun_before and is_key(upload["Key"].removeprefix(self._bucket.prefix)):
                with self._named():
                    self._s3.abort_multipart_upload(
                        Bucket=self._bucket.name, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                swept += 1
        return swept

    def put(
        self, path: Path, key: str, *, sha256: str | None = None, step: Callable[[], None] = nothing
    ) -> Stored:
        name = self._name(key)
        stored = Stored(key, path.stat().st_size, sha256 or hash_file(path, step))
        with self._named(), path.open("rb") as file:
            self._s3.upload_fileobj(
                file,
                self._bucket.name,
                name,
                ExtraArgs={"Metadata": {"sha256": stored.sha256}},
                Callback=lambda _: step(),
                Config=_transfer(stored.size_bytes or 0),
            )
        path.unlink()
        return stored

    @contextmanager
    def fetch(
        self,
        key: str,
        *,
        size_bytes: int | None = None,
        sha256: str | None = None,
        step: Callable[[], None] = nothing,
    ) -> Iterator[Path]:
        """A copy of the file on this machine. It is hashed when it comes, and again where `sha256` is given."""

        def is_good(copy: Path) -> bool:
            fits = size_bytes in (None, copy.stat().st_size)
            return fits and (sha256 is None or hash_file(copy, step) == sha256)

        def download(path: Path) -> None:
            received = self._download(found.stored, path, step)
            check_same(found.stored, received)
            check_same(wanted, received)

        wanted, found = Stored(key, size_bytes, sha256), self._look(key)
        check_same(wanted, found.stored)
        # A client may send its upload again, under the same key: it is another object then.
        with self._cache.hold(f"{key} {found.etag}", download, is_good=is_good, step=step) as path:
            yield path

    def _download(self, stored: Stored, path: Path, step: Callable[[], None]) -> Stored:
        """Writes the object to `path`, several parts at a time; returns what has arrived."""
        size = stored.size_bytes or 0
        with path.open("wb", buffering=0) as file, ThreadPoolExecutor(THREADS) as pool:

            def fetch(start: int) -> None:
                os.pwrite(file.fileno(), self._read(stored.key, start, min(start + PART_BYTES, size)), start)

            for _ in pool.map(fetch, range(0, size, PART_BYTES)):
                step()
        return Stored(stored.key, path.stat().st_size, hash_file(path, step))

    @contextmanager
    def reader(self, key: str) -> Iterator[Callable[[int, int], bytes]]:
        yield partial(self._read, key)

    def _read(self, key: str, first: int, stop: int) -> bytes:
        part = f"bytes={first}-{stop - 1}"
        for _ in range(ATTEMPTS):  # boto3 repeats requests, and not what they bring
            with self._named(key):
                answer = self._s3.get_object(Bucket=self._bucket.name, Key=self._name(key), Range=part)
            with suppress(HTTPClientError, IncompleteReadError):
                data: bytes = answer["Body"].read()
                if len(data) == stop - first:  # an answer that is cut off in its head has no length
                    return data
        raise self._fault("", f"its answers for {key} are cut off")

    def link(self, stored: Stored, *, seconds: int, media_type: str, disposition: str) -> str:
        check_same(stored, self._look(stored.key).stored)
        wanted = {
            "Bucket": self._bucket.name,
            "Key": self._name(stored.key),
            "ResponseContentType": media_type,
            "ResponseContentDisposition": disposition,
        }
        with self._named():
            url: str = self._s3.generate_presigned_url("get_object", Params=wanted, ExpiresIn=seconds)
        return url

    def upload_link(self, key: str, size_bytes: int, *, seconds: int) -> str:
        wanted = {"Bucket": self._bucket.name, "Key": self._name(key), "ContentLength": size_bytes}
        with self._named():
            url: str = self._s3.generate_presigned_url("put_object", Params=wanted, ExpiresIn=seconds)
        return url

    def size(self, key: str) -> int:
        size = self._look(key).stored.size_bytes
        assert size is not None
        return size

    def exists(self, key: str) -> bool:
        try:
            self._look(key)
        except StoreMissing:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self._sizes(prefix))

    def bytes_under(self, prefix: str) -> int:
        return sum(size for _, size in self._sizes(prefix))

    def _sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The keys that begin with `prefix`, and how many bytes each file has."""
        for found in self._listed("list_objects_v2", "Contents", self._bucket.prefix + check_prefix(prefix)):
            key = found["Key"].removeprefix(self._bucket.prefix)
            if is_key(key):
                yield key, found["Size"]

    def delete(self, prefix: str) -> None:
        found = [{"Key": self._name(key)} for key in self.keys(prefix)]
        for start in range(0, len(found), REMOVED_AT_ONCE):
            objects = {"Objects": found[start : start + REMOVED_AT_ONCE], "Quiet": True}
            with self._named():
                answer = self._s3.delete_objects(Bucket=self._bucket.name, Delete=objects)
            for error in answer.get("Errors", ()):
                raise self._fault(error["Code"], error.get("Message", ""))

    def check(self) -> None:
        """As in the protocol. A check that succeeded stands for half a minute: each costs two requests."""
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return
        key = f"{self._bucket.prefix}check"
        with self._named():
            self._s3.put_object(Bucket=self._bucket.name, Key=key, Body=b"yes")
            self._s3.delete_object(Bucket=self._bucket.name, Key=key)
        self._checked_at = time.monotonic()

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    # -- the protocol of S3 -------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        return self._bucket.prefix + check_key(key)

    def _look(self, key: str) -> Found:
        """What the server says of the object under `key`; raises StoreMissing where there is none."""
        with self._named(key):
            found = self._s3.head_object(Bucket=self._bucket.name, Key=self._name(key))
            # Some servers capitalize names.
            metadata = {name.lower(): value for name, value in found["Metadata"].items()}
            return Found(Stored(key, found["ContentLength"], metadata.get("sha256")), found["ETag"])

    def _listed(self, operation: str, part: str, prefix: str) -> Iterator[dict[str, Any]]:
        with self._named():
            for page in self._s3.get_paginator(operation).paginate(Bucket=self._bucket.name, Prefix=prefix):
                yield from page.get(part, ())

    @contextmanager
    def _named(self, key: str = "") -> Iterator[None]:
        """Turns errors of boto3 into StoreMissing, for `key`, or StoreUnavailable."""
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if key and code in ("NoSuchKey", "404"):
                self._check_bucket()  # the answer to HEAD is the same for an object and its bucket
                raise StoreMissing(key) from None
            if key and code == "InvalidRange":
                raise StoreDamaged(key, "is shorter than it was") from None
            raise self._fault(code, _reason(error)) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise self._fault("NoCredentials", "") from error
        except KeyError as error:  # boto3 takes an answer that is cut off in its head for a whole one
            raise self._fault("", f"its answer lacks {error}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise self._fault("", _reason(error)) from error

    def _check_bucket(self) -> None:
        with self._named():
            self._s3.head_bucket(Bucket=self._bucket.name)

    def _fault(self, code: str, message: str) -> StoreUnavailable:
        """What to tell of S3's error `code`, or of one without advice whose text is `message`."""
        where = self._bucket.endpoint or "Amazon S3"
        advice = ADVICE.get(code)
        why = advice.format(region=self._region) if advice else f"{message}. This may pass."
        return StoreUnavailable(f"The bucket {self._bucket.name} at {where} cannot be used: {why}")


_NO_RIGHT = (
    "the credentials lack a right. They need s3:GetObject, PutObject, DeleteObject, ListBucket, "
    "AbortMultipartUpload and ListBucketMultipartUploads there."
)
_NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role."
_WRONG_CREDENTIALS = "it does not take the credentials. Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
_WRONG_REGION = (
    "it is in another region than {region}. Name its own in DAIN_STORE_URL, as in ?region=eu-west-1."
)
_NO_BUCKET = "there is no such bucket. Make it, or correct DAIN_STORE_URL."

#: What S3's errors mean to whoever runs the service.
ADVICE = {
    "NoCredentials": f"there are no credentials: {_NO_CREDENTIALS}",
    "NoSuchBucket": _NO_BUCKET,
    "404": _NO_BUCKET,
    "AccessDenied": _NO_RIGHT,
    "403": f"the server refuses. Either its clock and this machine's differ, or {_NO_RIGHT}",
    "AllAccessDisabled": _NO_RIGHT,
    "InvalidAccessKeyId": _WRONG_CREDENTIALS,
    "SignatureDoesNotMatch": _WRONG_CREDENTIALS,
    "InvalidToken": _WRONG_CREDENTIALS,
    "ExpiredToken": "the credentials have expired. Give new ones, or the machine a role that renews them.",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than a quarter of an hour. Set it.",
    "PermanentRedirect": _WRONG_REGION,
    "301": _WRONG_REGION,
    "AuthorizationHeaderMalformed": _WRONG_REGION,
    "IllegalLocationConstraintException": _WRONG_REGION,
}


def check_same(wanted: Stored, found: Stored) -> None:
    """Raises StoreDamaged where the size or the hash of `found` is not that of `wanted`, as far as both are known."""
    if None not in (wanted.size_bytes, found.size_bytes) and wanted.size_bytes != found.size_bytes:
        raise StoreDamaged(wanted.key, f"has {found.size_bytes} bytes instead of {wanted.size_bytes}")
    if None not in (wanted.sha256, found.sha256) and wanted.sha256 != found.sha256:
        raise StoreDamaged(wanted.key, "has other contents than were put there")


def _transfer(size_bytes: int) -> TransferConfig:
    part = max(PART_BYTES, size_bytes // MOST_PARTS)
    return TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=THREADS)


def _reason(error: Exception) -> str:
    """The text of an error of boto3, which may name what a response holds, but no credentials."""
    return str(error).rstrip(".")
