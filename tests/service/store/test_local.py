from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.store import Store, StoreMissing, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "a store").as_uri())


def put(store: Store, key: str, data: bytes = b"data") -> None:
    with store.scratch() as folder:
        (folder / "file").write_bytes(data)
        store.put(folder / "file", key)


def files(store: Store) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_put_and_fetch(store: Store) -> None:
    put(store, "segments/job/3.abc.mp4", b"12345")
    assert store.exists("segments/job/3.abc.mp4")
    assert store.size("segments/job/3.abc.mp4") == 5
    with store.fetch("segments/job/3.abc.mp4") as path:
        assert path.read_bytes() == b"12345"


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
    assert not (store.root / "segments" / "one").exists()
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


@pytest.mark.parametrize("url", ["s3://bucket", "/var/lib/dain", "file://host/folder", "file:"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="file:///"):
        open_store(url)


def test_scratch_is_private_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError, match="attempt failed"), store.scratch() as folder:
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"x")
        raise RuntimeError("attempt failed")
    assert files(store) == []
    assert not folder.exists()


def test_the_sweep_spares_the_living_and_the_young(store: Store) -> None:
    with store.scratch() as folder:
        make_old(folder.parent)
        assert store.sweep_scratch(min_age_seconds=60) == 0
        assert folder.exists()
    (store.root / "scratch" / "young").mkdir()
    assert store.sweep_scratch(min_age_seconds=60) == 0


def test_the_sweep_takes_what_a_killed_process_left(store: Store) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path; from service.store.local import LocalStore\n"
        "with LocalStore(Path(sys.argv[1])).scratch() as folder:\n"
        "    (folder / 'half').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", killed, str(store.root)])
    (left,) = (store.root / "scratch").iterdir()
    make_old(left)
    assert store.sweep_scratch(min_age_seconds=60) == 1
    assert files(store) == []


def make_old(folder: Path) -> None:
    an_hour_ago = time.time() - 3600
    os.utime(folder, (an_hour_ago, an_hour_ago))
