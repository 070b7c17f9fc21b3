"""Keys: what is on record of them, where, and what ends with them."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from redis import Redis

from service.jobs.keys import (
    FileKeys,
    Key,
    Keys,
    KeysUnreadable,
    Quota,
    RedisKeys,
    check_exposure,
    id_in,
    open_keys,
)
from service.settings import Settings


@pytest.fixture(params=["file", "redis"])
def keys(
    request: pytest.FixtureRequest, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Keys:
    monkeypatch.setattr(RedisKeys, "SECONDS", 0)
    if request.param == "redis":
        return RedisKeys(redis)
    file = FileKeys(tmp_path / "keys.json")
    file.create()
    return file


def test_a_token_names_its_key_and_proves_it() -> None:
    key, token = Key.new("ann", ["read"])
    assert id_in(token) == key.id and key.has(token)
    other, _ = Key.new("ann", ["read"])
    assert not other.has(token)
    assert len(bytes.fromhex(token.rpartition("_")[2])) == 32


def test_of_a_token_nothing_but_its_hash_is_kept(keys: Keys, redis: Redis, tmp_path: Path) -> None:
    key, token = Key.new("ann", ["read"])
    keys.put(key)
    kept = json.dumps([each.model_dump(mode="json") for each in keys.all().values()])
    for folder in tmp_path.iterdir():
        kept += folder.read_text()
    kept += str(redis.hgetall(RedisKeys.NAME))
    secret = token.rpartition("_")[2]
    assert key.sha256 in kept and secret not in kept and token not in kept
    assert key.sha256 not in repr(key)


def test_keys_are_kept_as_they_are_with_what_a_later_version_added(keys: Keys) -> None:
    fields = {"quota": Quota(jobs=2, bytes=10, minutes=3), "rate": 5, "expires_at": 1e10, "motto": "later"}
    key, _ = Key.new("ann", ["read", "fly"], **fields)
    keys.put(key)
    again = keys.all()[key.id]
    assert (
        again == key and again.model_dump()["motto"] == "later" and again.quota.model_dump()["minutes"] == 3
    )
    keys.put(again.model_copy(update={"revoked_at": 1.0}))
    assert keys.all()[key.id].over == "revoked"


def test_keys_that_are_made_at_once_are_all_kept(keys: Keys) -> None:
    made = [Key.new("ann", ["read"])[0] for _ in range(20)]
    threads = [threading.Thread(target=keys.put, args=(key,)) for key in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys.all() == {key.id: key for key in made}


def test_a_start_that_makes_the_file_writes_over_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes a key meanwhile waits until the file is there, and adds to it."""
    keys, write = FileKeys(tmp_path / "keys.json"), FileKeys._write
    lockable: list[bool] = []

    def watched(self: FileKeys, records: Mapping[str, object]) -> None:
        lockable.append(can_lock(tmp_path))
        write(self, records)

    monkeypatch.setattr(FileKeys, "_write", watched)
    keys.create()
    keys.put(Key.new("ann", ["read"])[0])
    keys.create()
    assert lockable == [False, False] and len(keys.all()) == 1


def can_lock(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_the_file_is_its_users_alone_and_its_mode_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    FileKeys(path).put(Key.new("ann", ["read"])[0])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    FileKeys(path).put(Key.new("bob", ["read"])[0])
    assert path.stat().st_mode & 0o777 == 0o640 and len(FileKeys(path).all()) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["keys.json"]


def test_a_damaged_record_is_named_and_not_repeated(redis: Redis) -> None:
    redis.hset(
        RedisKeys.NAME, "0a", '{"id": "0a", "owner": "ann", "sha256": 5e3, "scopes": 7, "created_at": 1}'
    )
    with pytest.raises(KeysUnreadable, match="key 0a cannot be read: sha256, scopes") as error:
        RedisKeys(redis).all()
    assert "5e3" not in str(error.value) and "5000" not in str(error.value)


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "0", "-1", "null"])
def test_a_weight_is_a_positive_number(weight: str, tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "keys.json")
    good, bad = (Key.new("ann", ["read"])[0] for _ in range(2))
    for key in (good, bad):
        keys.put(key)
    record = json.loads((tmp_path / "keys.json").read_text())
    record["keys"][bad.id]["weight"] = json.loads(weight)
    (tmp_path / "keys.json").write_text(json.dumps(record))
    with pytest.raises(KeysUnreadable, match=f"cannot be read: weight.*dain keys revoke {bad.id}"):
        keys.all()
    assert keys.get(good.id) == good
    keys.put(Key.lost(bad.id))
    assert keys.all()[bad.id].over == "revoked" and keys.all()[good.id] == good


def test_where_keys_are_by_default(settings: Settings, tmp_path: Path) -> None:
    assert isinstance(open_keys(settings), RedisKeys)
    assert Settings(state_dir=tmp_path).keys_file == tmp_path / "keys.json"
    assert Settings(state_dir=tmp_path, redis_url="redis://host").keys_file is None
    assert Settings(keys_file=tmp_path / "k", redis_url="redis://host").keys_file == tmp_path / "k"


@pytest.mark.parametrize(("host", "exposed"), [("0.0.0.0", True), ("::", True), ("10.0.0.1", True), ("dain", True),
                                               ("127.0.0.1", False), ("::1", False), ("localhost", False)])  # fmt: skip
def test_an_address_that_others_reach_wants_keys(host: str, exposed: bool, settings: Settings) -> None:
    reachable = settings.model_copy(update={"host": host})
    assert reachable.open_without_keys is not exposed
    if exposed:
        with pytest.raises(
            SystemExit, match=f"listen on {host}.*dain keys add NAME.*DAIN_HOST.*DAIN_OPEN=true"
        ):
            check_exposure(reachable)
        check_exposure(reachable.model_copy(update={"open": True}))
        open_keys(settings).put(Key.new("ann", ["read"])[0])
    check_exposure(reachable)


def test_a_file_of_keys_that_is_not_there_ends_the_start(settings: Settings, tmp_path: Path) -> None:
    lacking = settings.model_copy(update={"keys_file": tmp_path / "none.json"})
    with pytest.raises(SystemExit, match=r"no file of keys .*none\.json\. Put it back.*dain keys add NAME"):
        check_exposure(lacking)


def test_what_ends_the_start_says_what_helps(settings: Settings, tmp_path: Path, redis: Redis) -> None:
    (tmp_path / "keys.json").write_text("{")
    damaged = settings.model_copy(update={"keys_file": tmp_path / "keys.json"})
    with pytest.raises(SystemExit, match=r"keys\.json cannot be read.*move it away and make keys anew"):
        check_exposure(damaged)
    redis.hset(RedisKeys.NAME, "0a", "{}")
    with pytest.raises(SystemExit, match=r"`dain keys revoke 0a`\. Nothing was started\.$"):
        check_exposure(settings)


def test_a_redis_that_is_not_up_yet_does_not_end_the_start(settings: Settings, tmp_path: Path) -> None:
    check_exposure(
        settings.model_copy(update={"host": "0.0.0.0", "redis_url": f"unix://{tmp_path}/none.sock"})
    )


@pytest.mark.parametrize("content", [b"\x00\x00\x00 ftyp", b"{", b"{}", b"[]", b'{"keys": 3}'])
def test_a_file_of_something_else_is_told_of_in_words(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(
        KeysUnreadable, match=r'keys\.json cannot be read: it is no JSON object such as {"keys": {}}\.'
    ):
        FileKeys(tmp_path / "keys.json").all()
