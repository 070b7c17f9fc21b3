"""What every store promises."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from service.store import Store, Stored, StoreDamaged, StoreMissing, check_url, open_store
from tests.s3 import Bucket


class Place(Protocol):
    """Where a store keeps its files, seen from outside the service."""

    def overwrite(self, key: str, data: bytes) -> None: ...
    def remove(self, key: str) -> None: ...


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = root.as_uri()

    def overwrite(self, key: str, data: bytes) -> None:
        (self.root / key).write_bytes(data)

    def remove(self, key: str) -> None:
        (self.root / key).unlink()


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Folder(tmp_path / "a store") if request.param == "local" else request.getfixturevalue("bucket")


@pytest.fixture
def store(place: Folder | Bucket, tmp_path: Path) -> Store:
    return open_store(place.url, tmp_path / "cache")


def put(store: Store, key: str, data: bytes = b"data") -> Stored:
    with store.scratch() as folder:
        (folder / "file").write_bytes(data)
        return store.put(folder / "file", key)


def test_bytes_under_a_prefix(store: Store) -> None:
    assert store.bytes_under("results/") == 0
    put(store, "results/job/a.mp4", b"12345")
    put(store, "results/other/a.mp4", b"678")
    put(store, "uploads/job", b"9")
    assert store.bytes_under("results/") == 8 and store.bytes_under("results/job/") == 5


def test_put_and_fetch(store: Store) -> None:
    put(store, "segments/job/3.abc.mp4", b"12345")
    assert store.exists("segments/job/3.abc.mp4")
    assert store.size("segments/job/3.abc.mp4") == 5
    for _ in range(2):
        with store.fetch("segments/job/3.abc.mp4") as path:
            assert path.read_bytes() == b"12345"


def test_what_is_put_is_read_back_with_its_size_and_hash(store: Store) -> None:
    stored = put(store, "segments/job/3.abc.mp4", b"12345")
    assert stored == Stored("segments/job/3.abc.mp4", 5, hashlib.sha256(b"12345").hexdigest())
    assert Stored.from_fields({name: str(value) for name, value in stored.as_fields().items()}) == stored
    with store.fetch(stored.key, size_bytes=stored.size_bytes, sha256=stored.sha256) as path:
        assert path.read_bytes() == b"12345"


def test_what_is_put_is_gone_from_scratch(store: Store) -> None:
    with store.scratch() as folder:
        (folder / "file").write_bytes(b"1")
        store.put(folder / "file", "uploads/job", sha256=hashlib.sha256(b"1").hexdigest())
        assert list(folder.iterdir()) == []


def test_a_large_file_comes_back(store: Store) -> None:
    """In S3 it has three parts."""
    data = os.urandom(2**20) * 40
    stored = put(store, "uploads/job", data)
    with store.fetch("uploads/job", sha256=stored.sha256) as path:
        assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda place, key: place.overwrite(key, b"123"), "has 3 bytes instead of 5"),
        (lambda place, key: place.overwrite(key, b"123456"), "has 6 bytes instead of 5"),
        (lambda place, key: place.overwrite(key, b"12340"), "has other contents"),
        (lambda place, key: place.remove(key), "is missing"),
    ],
)
def test_damage_is_found_at_each_read_and_named_by_key(
    place: Place, store: Store, tmp_path: Path, damage: Callable[[Place, str], None], reason: str
) -> None:
    stored = put(store, "segments/job/0.mp4", b"12345")
    damage(place, stored.key)
    for _ in range(2):
        with (
            pytest.raises(StoreDamaged, match=reason) as caught,
            store.fetch(stored.key, size_bytes=stored.size_bytes, sha256=stored.sha256),
        ):
            pass
        assert stored.key in str(caught.value) and str(tmp_path) not in str(caught.value)
        assert isinstance(caught.value, StoreMissing) == (reason == "is missing")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_long_hash_can_be_stopped(store: Store) -> None:
    data = bytes(3 * 2**20)
    put(store, "uploads/job", data)
    steps: list[int] = []

    def step() -> None:
        steps.append(1)
        if len(steps) == 2:
            raise InterruptedError

    sha256 = hashlib.sha256(data).hexdigest()
    with pytest.raises(InterruptedError), store.fetch("uploads/job", sha256=sha256, step=step):
        pass
    assert len(steps) == 2


def test_a_put_that_is_stopped_leaves_nothing(store: Store) -> None:
    def step() -> None:
        raise InterruptedError

    with store.scratch() as folder:
        (folder / "file").write_bytes(bytes(3 * 2**20))
        with pytest.raises(InterruptedError):
            store.put(folder / "file", "uploads/job", step=step)
    assert not store.exists("uploads/job") and store.sweep_parts(0) == 0


def test_absent_keys(store: Store) -> None:
    assert not store.exists("uploads/job")
    with pytest.raises(StoreMissing, match="uploads/job"):
        store.size("uploads/job")
    with pytest.raises(StoreMissing), store.fetch("uploads/job"):
        pass
    store.delete("uploads/job")


def test_keys_and_delete_by_prefix(store: Store) -> None:
    for key in ("segments/one/0.a.mp4", "segments/one/1.b.mp4", "segments/two/0.a.mp4", "results/one.t.mp4"):
        put(store, key)
    assert list(store.keys("segments/one/")) == ["segments/one/0.a.mp4", "segments/one/1.b.mp4"]
    assert list(store.keys("segments/")) == [
        "segments/one/0.a.mp4",
        "segments/one/1.b.mp4",
        "segments/two/0.a.mp4",
    ]
    store.delete("segments/one")
    store.delete("results/one")
    assert list(store.keys("segments/")) == ["segments/two/0.a.mp4"]
    assert list(store.keys("results/")) == []
    put(store, "segments/one/0.a.mp4")
    assert store.exists("segments/one/0.a.mp4")


@pytest.mark.parametrize(
    "key", ["", "uploads", "uploads/..", "uploads/../x", "/etc/passwd", "uploads/a/../../b", "secrets/a"]
)
def test_a_key_cannot_leave_the_store(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="no store key"):
        store.exists(key)


@pytest.mark.parametrize("prefix", ["", "/", "uploads", "uploads/../", "../"])
def test_a_prefix_cannot_name_everything(store: Store, prefix: str) -> None:
    with pytest.raises(ValueError, match="no store prefix"):
        store.delete(prefix)


def test_scratch_is_private_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError, match="attempt failed"), store.scratch() as folder:
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"x")
        raise RuntimeError("attempt failed")
    assert not folder.parent.exists()


def test_the_sweep_spares_the_living(store: Store) -> None:
    with store.scratch() as folder:
        an_hour_ago = time.time() - 3600
        os.utime(folder.parent, (an_hour_ago, an_hour_ago))
        assert store.sweep_scratch(min_age_seconds=60) == 0
        assert folder.exists()


def test_a_check_writes_and_leaves_nothing(store: Store) -> None:
    store.check()
    assert store.free_bytes() > 0
    with pytest.raises(StoreMissing), store.fetch("uploads/check"):
        pass


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/var/lib/dain", "file:///"),
        ("file://host/folder", "file:///"),
        ("file:", "file:///"),
        ("https://bucket.s3.amazonaws.com", "s3://bucket/prefix"),
        ("s3:///prefix", "names no bucket"),
        ("s3://Bucket_1", "names no bucket"),
        ("s3://key:secret@bucket", "no credentials"),
        ("s3://bucket:9000", r"\?endpoint="),
        ("s3://bucket?aws_secret_access_key=secret", "takes endpoint and region"),
        ("s3://bucket?endpoint=https://key:secret@host", "no address"),
        ("s3://bucket?endpoint=host", "no address"),
        ("s3://bucket?region=not a region", "no name"),
    ],
)
def test_other_urls_are_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)
