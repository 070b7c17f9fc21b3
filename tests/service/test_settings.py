from __future__ import annotations

import re
import threading
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.api import app
from service.jobs import janitor
from service.settings import Settings, read_settings, unknown_settings
from worker import main as worker_main


def test_defaults_are_safe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.state_dir == tmp_path / "dain"
    assert settings.store_url == f"file://{tmp_path}/dain/store"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_MAX_UPLOAD_BYTES", "5GiB")
    monkeypatch.setenv("DAIN_STATE_DIR", "~/films and more")
    monkeypatch.setenv("DAIN_PORT", "")  # empty is unset
    settings = Settings()
    assert settings.max_upload_bytes == 5 * 2**30
    assert settings.state_dir == Path.home() / "films and more"
    assert settings.store_url.endswith("/films%20and%20more/store")
    assert settings.port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "99999"),
        ("MAX_ATTEMPTS", "0"),
        ("DEVICE", "gpu"),
        ("PRECISION", "int4"),
        ("LOG_LEVEL", "loud"),
        ("ALLOWED_HOSTS", "https://dain.example.com"),
        ("ALLOWED_HOSTS", "dain.example.com:8000"),
        ("ALLOWED_HOSTS", "*"),
        ("EGRESS_ALLOW", "https://hooks.internal"),
        ("EGRESS_ALLOW", "10.1.0.1/16"),
        ("EGRESS_ALLOW", "127.1"),
        ("STORE_URL", "s3://no_bucket"),
        ("CORS_ORIGINS", "app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com/"),
        ("CORS_ORIGINS", "*"),
        ("STORE_URL", "/var/lib/dain"),
        ("REDIS_URL", "localhost:6379"),
        ("METRICS_PORT", "8000"),
    ],
)
def test_nonsense_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DAIN_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_a_process_ends_with_the_names_of_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_LOG_LEVEL", "loud")
    monkeypatch.setenv("DAIN_MAX_UPLOAD_BYTES", "lots")
    with pytest.raises(SystemExit, match="(?s)DAIN_MAX_UPLOAD_BYTES=lots: .*DAIN_LOG_LEVEL=loud: ") as ended:
        read_settings()
    assert "Nothing was started" in str(ended.value)


def test_the_port_for_metrics_is_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_METRICS_PORT", "8140")
    assert read_settings().metrics_port == 8140
    with pytest.raises(SystemExit, match="DAIN_METRICS_PORT=8140: this is DAIN_PORT.*a second port"):
        read_settings(port=8140)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("REDIS_URL", "http://user:s3cret@host:6379/0", "redis://"),
        ("REDIS_URL", "redis:/:s3cret@host:6379/0", "redis://"),
        ("REDIS_URL", "redis://:p@s3/cret@127.0.0.1:1/0", "%40"),
        ("REDIS_URL", "redis://:12/s3cret@127.0.0.1:1/0", "%2F"),
        ("REDIS_URL", "rediss://:p@s3?cret@127.0.0.1:1/0", "%40"),
        ("REDIS_URL", "unix://:p@s3/cret@/run/redis.sock", "%40"),
    ],
)
def test_no_part_of_a_password_is_printed(
    name: str, value: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DAIN_{name}", value)
    with pytest.raises(SystemExit, match=rf"DAIN_{name}=\*\*\*: .*{advice}") as ended:
        read_settings()
    assert not re.search("s3|cret|127|user|12", str(ended.value))


@pytest.mark.parametrize(
    "secret",
    ["hunter2", "whsec_hunter2", "whsec_c2hvcnQ=", f"whsec_{'A' * 100}", f"whsec_{'A' * 44} hunter2"],
)
def test_a_secret_of_webhooks_that_is_none_is_refused_and_not_printed(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAIN_WEBHOOK_SECRET", secret)
    with pytest.raises(
        SystemExit, match=r"DAIN_WEBHOOK_SECRET=\*\*\*: each must be whsec_ and the base64"
    ) as ended:
        read_settings()
    assert not re.search("hunter2|AAAA|c2hvc", str(ended.value))


def test_secrets_of_webhooks_are_a_list_that_no_text_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_WEBHOOK_SECRET", f"whsec_{'A' * 44} whsec_{'B' * 44}")
    settings = Settings()
    assert [each.get_secret_value()[:7] for each in settings.webhook_secret] == ["whsec_A", "whsec_B"]
    assert "AAAA" not in f"{settings!r} {settings} {settings.model_dump()}"


@pytest.mark.parametrize("url", ["s3://key:hunter2@bucket", "s3://bucket?aws_secret_access_key=hunter2"])
def test_no_key_of_a_bucket_is_printed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_STORE_URL", url)
    with pytest.raises(SystemExit, match=r"DAIN_STORE_URL=\*\*\*: an s3:// URL ") as ended:
        read_settings()
    assert "hunter2" not in str(ended.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p%40ss%2Fword@host:1/0",
        "redis://:p@ss@host/0",
        "unix:///run/a@b.sock",
        "unix://me@/run/a.sock",
    ],
)
def test_a_redis_url_that_can_be_read_is_taken(url: str) -> None:
    assert Settings(redis_url=url).redis_url == url


def test_names_of_the_service_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_ALLOWED_HOSTS", " dain.example.com,API ,")
    assert Settings().allowed_hosts == {"dain.example.com", "api"}


def test_where_requests_may_go_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_EGRESS_ALLOW", "Hooks.internal, 10.1.0.0/16,fd00::1")
    assert Settings().egress_allow == {"hooks.internal", "10.1.0.0/16", "fd00::1"}


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_missing_redis_url_ends_each_program_in_a_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_main.signal, "signal", lambda *_: None)
    lacking = settings.model_copy(update={"redis_url": None, "keys_file": settings.state_dir / "keys.json"})
    for start in (app.serve, partial(janitor.sweep, stop=threading.Event()), worker_main.run):
        with pytest.raises(SystemExit, match="DAIN_REDIS_URL is not set.* Nothing was started"):
            start(lacking)


def test_a_variable_that_is_no_setting_is_named_without_its_value() -> None:
    said = unknown_settings(["DAIN_PORT", "DAIN_TOKEN", "DAIN_DOMAIN", "PATH", "DAIN_THRAEDS", "DAIN_XYZZY"])
    assert said == [
        "DAIN_THRAEDS is no setting, so it changes nothing. Did you mean DAIN_THREADS?",
        "DAIN_XYZZY is no setting, so it changes nothing. The README lists those there are.",
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file://{tmp}/file/store", "/file/store/scratch: Not a directory"),
        (
            "s3://bucket",
            r"The bucket bucket cannot be used: The config profile \(absent\) could not be found. Correct",
        ),
    ],
)
def test_a_store_that_cannot_be_opened_ends_each_program_in_a_sentence(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AWS_PROFILE", "absent")
    monkeypatch.setattr(worker_main.signal, "signal", lambda *_: None)
    lacking = settings.model_copy(update={"store_url": url.format(tmp=tmp_path)})
    for start in (app.serve, partial(janitor.sweep, stop=threading.Event()), worker_main.run):
        with pytest.raises(
            SystemExit, match=f"The store of DAIN_STORE_URL cannot be opened: .*{words}.* Nothing"
        ):
            start(lacking)
