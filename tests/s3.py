"""An S3 server for tests, and what tests do to a bucket behind the service's back."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

ACCESS_KEY, STRANGER, SECRET_KEY = "test:tester", "test2:stranger", "testing"
REGION = "eu-test-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def serve(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """An S3 server on `address` that keeps everything in `folder`, until the context ends; yields its URL."""
    log = (folder / "log").open("wb")
    command = [sys.executable, "-m", "tests.s3_server", str(folder), address]
    root = Path(__file__).parents[1]
    with log, subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert port, (folder / "log").read_text()
        try:
            yield f"http://{address}:{port}"
        finally:
            server.terminate()


@dataclass(frozen=True)
class Bucket:
    """A bucket of the test server, seen with the rights of its owner."""

    name: str
    endpoint: str
    client: Any

    @classmethod
    def make(cls, endpoint: str) -> Bucket:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        return cls(name, endpoint, client)

    @property
    def url(self) -> str:
        """A DAIN_STORE_URL whose keys begin with `dain/`."""
        return self.url_at(self.endpoint)

    def url_at(self, endpoint: str) -> str:
        return f"s3://{self.name}/dain?endpoint={endpoint}&region={REGION}"

    def keys(self) -> list[str]:
        """Of every object, without the prefix of `url`."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return [item["Key"].removeprefix("dain/") for item in found]

    def overwrite(self, key: str, data: bytes) -> None:
        """Change the object under `key`, and leave what it says of itself."""
        metadata = self.client.head_object(Bucket=self.name, Key=f"dain/{key}")["Metadata"]
        self.client.put_object(Bucket=self.name, Key=f"dain/{key}", Body=data, Metadata=metadata)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"dain/{key}")
