from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.store import Store, StoreDamaged, StoreMissing, open_store
from service.store.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "a store").as_uri())


def put(store: Store, key: str, data: bytes = b"data") -> None:
    with store.scratch() as folder:
        (folder / "file").write_bytes(data)
        store.put(folder / "file", key)


def files(store: Store) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: os.truncate(path, 3), "has 3 bytes instead of 5"),
        (lambda path: path.write_bytes(b"123456"), "has 6 bytes instead of 5"),
        (lambda path: path.write_bytes(b"12340"), "has other contents"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: shutil.rmtree(path.parent), "is missing"),
    ],
)
def test_damage_is_found_at_each_read_and_named_by_key(
    store: LocalStore, damage: Callable[[Path], None], reason: str
) -> None:
    """Also where the file was read before, and its hash is remembered."""
    with store.scratch() as folder:
        (folder / "file").write_bytes(b"12345")
        stored = store.put(folder / "file", "segments/job/0.mp4")
    for _ in range(2):
        with store.fetch(stored.key, size_bytes=stored.size_bytes, sha256=stored.sha256):
            pass
    damage(store.root / stored.key)
    for _ in range(2):
        with (
            pytest.raises(StoreDamaged, match=reason) as caught,
            store.fetch(stored.key, size_bytes=stored.size_bytes, sha256=stored.sha256),
        ):
            pass
        assert stored.key in str(caught.value) and str(store.root) not in str(caught.value)
        assert isinstance(caught.value, StoreMissing) == (reason == "is missing")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_overwritten_file_of_the_same_size_and_time_is_found(store: LocalStore) -> None:
    with store.scratch() as folder:
        (folder / "file").write_bytes(b"12345")
        stored = store.put(folder / "file", "segments/job/0.mp4")
    with store.fetch(stored.key, sha256=stored.sha256) as path:
        before = path.stat()
    path.write_bytes(b"12340")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StoreDamaged), store.fetch(stored.key, sha256=stored.sha256):
        pass


def test_strangers_are_no_keys_and_stay(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    put(store, "segments/one/0.a.mp4")
    for name in ("segments/.DS_Store", "segments/one/.nfs0001", "scratch/.nfs0002"):
        (store.root / name).write_bytes(b"")
    (store.root / "segments/lost+found").mkdir()
    (store.root / "scratch/lost+found").mkdir()
    make_old(store.root / "scratch/lost+found")
    for _ in range(2):
        assert list(store.keys("segments/")) == ["segments/one/0.a.mp4"]
        assert store.sweep_scratch(0) == 0
    store.delete("segments/one/")
    assert (store.root / "segments/one/.nfs0001").exists() and (store.root / "scratch/lost+found").exists()
    assert len(caplog.messages) == len(set(caplog.messages)) == 5


@pytest.mark.parametrize("prefix", ["segments/job/", "segments/job", "segments/job/deep/", "segments/job/0"])
def test_a_link_in_the_store_is_a_stranger(
    prefix: str, store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    kept = [precious / "0.mp4", precious / "deep" / "1.mp4"]
    for file in kept:
        file.write_bytes(b"1")
    put(store, "segments/own/0.a.mp4")
    (store.root / "segments/job").symlink_to(precious)
    (store.root / "segments/own/1.b.mp4").symlink_to(kept[0])
    for _ in range(2):
        store.delete(prefix)
        assert list(store.keys("segments/")) == ["segments/own/0.a.mp4"]
        assert list(store.keys(prefix)) == []
    store.delete("segments/own/")
    assert all(file.exists() for file in kept)
    assert (store.root / "segments/job").is_symlink() and (store.root / "segments/own/1.b.mp4").is_symlink()
    assert len(caplog.messages) == 2


def test_a_kind_of_files_may_lie_on_another_disk(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (store.root / "results").symlink_to(tmp_path / "disk")
    put(store, "results/job/a.mp4")
    assert list(store.keys("results/")) == ["results/job/a.mp4"]
    store.delete("results/job/")
    assert list((tmp_path / "disk").iterdir()) == [] and (store.root / "results").is_symlink()


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


def test_the_sweep_passes_over_what_it_cannot_remove(
    store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scratch = store.root / "scratch"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"1")
    link, odd, *left = (scratch / f"{number:032x}" for number in range(10))
    link.symlink_to(precious)
    (odd / "owner").mkdir(parents=True)  # which cannot be opened as a file
    for folder in left:
        folder.mkdir()
    for folder in (odd, *left, precious):
        make_old(folder)
    assert store.sweep_scratch(min_age_seconds=60) == len(left)
    assert store.sweep_scratch(min_age_seconds=60) == 0
    assert sorted(scratch.iterdir()) == [link, odd] and (precious / "file").exists()
    assert len(caplog.messages) == 2


def make_old(folder: Path) -> None:
    an_hour_ago = time.time() - 3600
    os.utime(folder, (an_hour_ago, an_hour_ago))
