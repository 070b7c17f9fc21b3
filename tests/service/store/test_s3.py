"""What a store in a bucket promises beside what every store does: sentences for its faults, a bounded cache."""

from __future__ import annotations

import datetime
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.auth
import pytest
from botocore.config import Config

from service.store import Stored, StoreDamaged, StoreMissing, StoreUnavailable, cache, open_store, s3
from service.store.s3 import S3Store
from tests.api import cutting_proxy
from tests.s3 import STRANGER, Bucket


@pytest.fixture
def open_at(bucket: Bucket, tmp_path: Path) -> Callable[..., S3Store]:
    """Opens a store on `url`, the test's bucket unless given, as another machine would."""

    def open_one(url: str = bucket.url, *, cache_bytes: int = 2**30, machine: str = "here") -> S3Store:
        store = open_store(url, tmp_path / machine, cache_bytes)
        assert isinstance(store, S3Store)
        return store

    return open_one


@pytest.fixture
def store(open_at: Callable[..., S3Store]) -> S3Store:
    return open_at()


def put(store: S3Store, key: str, data: bytes = b"data") -> Stored:
    with store.scratch() as folder:
        (folder / "file").write_bytes(data)
        return store.put(folder / "file", key)


def read(store: S3Store, stored: Stored) -> bytes:
    with store.fetch(stored.key, size_bytes=stored.size_bytes, sha256=stored.sha256) as path:
        return path.read_bytes()


# -- faults, each in a sentence that says what to do ------------------------------------------------


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "Correct AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "Correct AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": STRANGER}, "They need s3:GetObject, PutObject"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials"),
    ],
)
def test_credentials_that_are_no_good(
    change: dict[str, str], advice: str, open_at: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(StoreUnavailable, match=advice) as caught:
        open_at().check()
    assert "wrong" not in str(caught.value) and "testing" not in str(caught.value)


def test_a_bucket_that_is_not_there(bucket: Bucket, open_at: Callable[..., S3Store]) -> None:
    store = open_at(bucket.url.replace(bucket.name, "no-such-bucket"))
    with pytest.raises(StoreUnavailable, match="no-such-bucket .* there is no such bucket. Make it"):
        store.check()
    with pytest.raises(StoreUnavailable, match="there is no such bucket"):
        store.exists("uploads/job")  # and not that the file is missing


def test_the_wrong_region_is_corrected(bucket: Bucket, open_at: Callable[..., S3Store]) -> None:
    """boto3 asks again in the region that the server names."""
    store = open_at(bucket.url.replace("eu-test-1", "us-west-2"))
    assert read(store, put(store, "uploads/job", b"1")) == b"1"


@pytest.mark.parametrize("code", ["PermanentRedirect", "AuthorizationHeaderMalformed"])
def test_a_region_that_stays_wrong(
    code: str, answering: Callable[..., str], store_at: Callable[..., S3Store]
) -> None:
    with pytest.raises(StoreUnavailable, match=r"another region than eu-test-1. .*\?region="):
        store_at(answering(301, code)).check()


def test_a_clock_that_is_wrong(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    right = botocore.auth.get_current_datetime
    ahead = datetime.timedelta(hours=1)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args: right(*args) + ahead)
    with pytest.raises(StoreUnavailable, match="this machine's clock is wrong"):
        store.check()
    with pytest.raises(StoreUnavailable, match="clock and this machine's differ"):
        store.exists("uploads/job")


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown")])
def test_a_server_that_fails_is_asked_again_and_named(
    status: int, code: str, answering: Callable[..., str], store_at: Callable[..., S3Store]
) -> None:
    with pytest.raises(StoreUnavailable, match=f"cannot be used: .*{code}.*This may pass"):
        store_at(answering(status, code)).check()
    assert Answering.asked == 4


def test_what_a_server_says_is_passed_on_as_it_is(
    answering: Callable[..., str], store_at: Callable[..., S3Store]
) -> None:
    with pytest.raises(StoreUnavailable, match=re.escape("Quota{0} of {tenant}")):
        store_at(answering(400, "Quota{0} of {tenant}")).check()


def test_a_server_that_is_not_there(store_at: Callable[..., S3Store]) -> None:
    with pytest.raises(StoreUnavailable, match="127.0.0.1:1.* cannot be used: .*connect"):
        store_at("http://127.0.0.1:1").check()


def test_no_package_for_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .\.\[s3\]"):
        open_store("s3://bucket")


class Answering(BaseHTTPRequestHandler):
    """A server that answers everything with one error."""

    protocol_version = "HTTP/1.1"
    status, code, asked = 500, "", 0

    def answer(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"<Error><Code>{self.code}</Code><Message>{self.code}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Starts a server that answers everything with a status and an error code; returns its URL."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()

        def answer(status: int, code: str) -> str:
            Answering.status, Answering.code, Answering.asked = status, code, 0
            return f"http://127.0.0.1:{server.server_port}"

        yield answer
        server.shutdown()


@pytest.fixture
def store_at(
    bucket: Bucket, open_at: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., S3Store]:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    return lambda endpoint, **machine: open_at(bucket.url_at(endpoint), **machine)


# -- connections that break, which are made again ---------------------------------------------------


@pytest.fixture
def through(bucket: Bucket, store_at: Callable[[str], S3Store]) -> Iterator[Callable[..., S3Store]]:
    """Opens the store behind a proxy that cuts connections after so many bytes, as `cutting_proxy` takes them."""
    with ExitStack() as proxies:

        def open_one(**limits: list[int | None]) -> S3Store:
            proxy = cutting_proxy(bucket.endpoint, **{"up": [], "down": []} | limits)
            return store_at(proxies.enter_context(proxy))

        yield open_one


CONTENT = os.urandom(300_000)


def test_a_part_that_is_cut_off_is_sent_again(
    through: Callable[..., S3Store], store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)  # the least that S3 takes
    content = CONTENT * 40  # three parts
    cuts: list[int | None] = [2_000_000, 1_000_000, 4_000_000]
    stored = put(through(up=cuts), "uploads/job", content)
    assert cuts == [] and read(store, stored) == content
    assert store.sweep_parts(-60) == 0


def test_what_arrives_cut_off_is_fetched_again(through: Callable[..., S3Store], store: S3Store) -> None:
    stored = put(store, "uploads/job", CONTENT)
    cuts: list[int | None] = [50_000, 200_000]
    assert read(through(down=cuts), stored) == CONTENT
    assert cuts == []


def test_an_answer_that_is_cut_off_anywhere_is_no_damage(
    bucket: Bucket, store_at: Callable[..., S3Store], store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the head of an answer, too, where its length may be missing."""
    stored = put(store, "uploads/job", CONTENT[:1000])
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    with (
        cutting_proxy(bucket.endpoint, up=[], down=[200] * 100) as proxy,
        pytest.raises(StoreUnavailable, match="lacks 'UploadId'"),
    ):
        put(store_at(proxy), "uploads/large", CONTENT * 20)
    for cut in range(150, 2400, 450):
        with cutting_proxy(bucket.endpoint, up=[], down=[cut]) as proxy:
            away = store_at(proxy, machine=f"there-{cut}")
            with suppress(StoreUnavailable):
                assert read(away, stored) == CONTENT[:1000]
        with cutting_proxy(bucket.endpoint, up=[], down=[cut, cut]) as proxy, suppress(StoreUnavailable):
            again = put(store_at(proxy), f"uploads/{cut}", CONTENT[:1000])
            assert read(store, again) == CONTENT[:1000]


def test_a_block_that_arrives_cut_off_is_fetched_again(
    through: Callable[..., S3Store], store: S3Store
) -> None:
    put(store, "results/job/a.mp4", CONTENT)
    cuts: list[int | None] = [50_000, 100]
    with through(down=cuts).reader("results/job/a.mp4") as read_at:
        assert read_at(1000, 201_000) == CONTENT[1000:201_000]
    assert cuts == []


def test_a_connection_that_always_breaks_is_given_up(
    through: Callable[..., S3Store], store: S3Store, tmp_path: Path
) -> None:
    stored = put(store, "uploads/job", CONTENT)
    away = through(down=[5000] * 100)
    with pytest.raises(StoreUnavailable), away.fetch(stored.key):
        pass
    with pytest.raises(StoreUnavailable), away.reader(stored.key) as read_at:
        read_at(0, 200_000)
    with pytest.raises(StoreUnavailable):
        put(through(up=[5000] * 100), "uploads/other", CONTENT)
    assert not store.exists("uploads/other")
    assert list((tmp_path / "here" / "copies").iterdir()) == []


def test_a_server_that_says_nothing_is_given_up(
    store_at: Callable[[str], S3Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_CONFIG", s3._CONFIG.merge(Config(read_timeout=0.1)))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = store_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StoreUnavailable, match="(?i)time"):
            store.exists("uploads/job")


# -- parts ------------------------------------------------------------------------------------------


def test_parts_that_nobody_goes_on_sending_are_removed(store: S3Store, bucket: Bucket) -> None:
    strangers = ["dain/strange/left", "others/uploads/left"]
    for key in ("dain/uploads/left", *strangers):
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    assert store.sweep_parts(3600) == 0
    assert store.sweep_parts(-60) == 1
    left = bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert [upload["Key"] for upload in left] == strangers


def test_strangers_in_the_bucket_are_no_keys_and_stay(store: S3Store, bucket: Bucket) -> None:
    put(store, "uploads/job")
    for key in ("dain/uploads/.strange", "dain/other/file", "uploads/job"):
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"1")
    assert list(store.keys("uploads/")) == ["uploads/job"]
    store.delete("uploads/")
    assert bucket.keys() == ["other/file", "uploads/.strange", "uploads/job"]


# -- the cache --------------------------------------------------------------------------------------


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that are asked of the server, as they are."""
    keys: list[str] = []
    download = S3Store._download

    def counted(self: S3Store, wanted: Stored, *arguments: object) -> Stored:
        keys.append(wanted.key)
        return download(self, wanted, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(S3Store, "_download", counted)
    return keys


def test_a_file_is_fetched_once_a_machine(
    store: S3Store, open_at: Callable[..., S3Store], fetched: list[str]
) -> None:
    stored = put(store, "uploads/job", b"12345")
    readers = [threading.Thread(target=read, args=(open_at(), stored)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert read(store, stored) == b"12345" and fetched == ["uploads/job"]
    read(open_at(machine="there"), stored)
    assert len(fetched) == 2


def test_copies_are_bounded_and_the_longest_unread_goes_first(
    open_at: Callable[..., S3Store], fetched: list[str], tmp_path: Path
) -> None:
    store = open_at(cache_bytes=250)
    files = [put(store, f"uploads/{name}", os.urandom(100)) for name in "abc"]
    for stored in (files[0], files[1], files[0], files[2], files[0]):
        read(store, stored)
    assert fetched == ["uploads/a", "uploads/b", "uploads/c"]
    assert sum(copy.stat().st_size for copy in (tmp_path / "here" / "copies").iterdir()) == 200
    read(store, files[1])
    assert fetched[3:] == ["uploads/b"]


def test_a_file_that_is_larger_than_the_cache_is_read_and_not_kept(
    open_at: Callable[..., S3Store], tmp_path: Path
) -> None:
    store = open_at(cache_bytes=10)
    stored = put(store, "uploads/job", bytes(100))
    with store.fetch(stored.key) as path:
        assert path.read_bytes() == bytes(100)
        assert list((tmp_path / "here" / "copies").iterdir()) == []
    assert not path.exists()


def test_what_a_killed_process_left_goes_without_a_janitor(store: S3Store, tmp_path: Path) -> None:
    left = tmp_path / "here" / "scratch" / ("0" * 32)
    (left / "work").mkdir(parents=True)
    os.utime(left, (0, 0))
    with store.scratch():
        assert not left.exists()


def test_a_copy_that_nobody_reads_goes(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(store, put(store, "uploads/job"))
    monkeypatch.setattr(cache, "IDLE_SECONDS", -60.0)
    store.sweep_scratch(60)
    assert list((tmp_path / "here" / "copies").iterdir()) == []


def test_a_damaged_copy_is_fetched_again(store: S3Store, tmp_path: Path, fetched: list[str]) -> None:
    stored = put(store, "uploads/job", b"12345")
    read(store, stored)
    (copy,) = (tmp_path / "here" / "copies").iterdir()
    copy.write_bytes(b"12340")
    assert read(store, stored) == b"12345" and len(fetched) == 2


def test_a_file_that_is_damaged_in_the_bucket_is_not_kept(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    """Its hash is known without the caller."""
    put(store, "uploads/job", b"12345")
    bucket.overwrite("uploads/job", b"12340")
    with pytest.raises(StoreDamaged), store.fetch("uploads/job"):
        pass
    assert list((tmp_path / "here" / "copies").iterdir()) == []
    bucket.remove("uploads/job")
    with pytest.raises(StoreMissing), store.fetch("uploads/job"):
        pass
