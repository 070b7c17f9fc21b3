"""`dain keys`, as an operator uses it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from service.commands.keys import keys
from service.jobs.keys import FileKeys, RedisKeys
from service.settings import Settings
from tests.api import assert_problem
from tests.receiver import SECRET


@pytest.fixture(autouse=True)
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RedisKeys, "SECONDS", 0)
    monkeypatch.setenv("DAIN_REDIS_URL", settings.require_redis_url)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(keys, arguments)


def listed() -> dict[str, dict[str, object]]:
    return {key["id"]: key for key in json.loads(run("list", "--json").stdout)}


def test_a_key_is_shown_once_and_works(http: httpx.Client) -> None:
    added = run("add", "ann", "--scope", "read, admin", "--jobs", "20", "--bytes", "50GiB", "--rate", "600",
                "--work", "9000", "--weight", "3", "--expires", "90d")  # fmt: skip
    assert added.exit_code == 0, added.output
    token = added.stdout.strip()
    assert re.fullmatch(r"dain_[0-9a-f]{12}_[0-9a-f]{64}", token)
    assert http.get("/workers", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    [key] = listed().values()
    assert key["owner"] == "ann" and sorted(key["scopes"]) == ["admin", "read"] and key["rate"] == 600
    assert key["quota"] == {"jobs": 20, "bytes": 50 * 2**30, "work": 9000} and key["weight"] == 3
    assert 89.9 < (key["expires_at"] - time.time()) / (24 * 3600) < 90.1
    table = run("list").stdout
    assert key["id"] in table and "50.0GiB" in table and "until 20" in table
    for output in (table, run("list", "--json").stdout):
        assert token.rpartition("_")[2] not in output and "sha256" not in output


def test_a_script_gets_a_key_as_a_document(http: httpx.Client) -> None:
    added = json.loads(run("add", "ann", "--json").stdout)
    rotated = json.loads(run("rotate", added["id"], "--json").stdout)
    assert (
        added["owner"] == rotated["owner"] == "ann" and added["id"] != rotated["id"] and "sha256" not in added
    )
    for key, status in ((added, 401), (rotated, 200)):
        assert http.get("/jobs", headers={"Authorization": f"Bearer {key['token']}"}).status_code == status


def test_a_list_shows_all_that_a_key_has_in_two_short_lines() -> None:
    limits = "--jobs 20  --bytes 50.0GiB  --work 9000  --weight 0.5  --rate 600"
    run("add", "ann", *limits.split(), "--expires", "90d", "--scope", "submit,read,admin")
    run("add", "bob", "--webhook-url", "https://1.1.1.1/x")
    run("add", "cy")
    ann, ann_limits, bob, bob_limits, cy = run("list").stdout.splitlines()
    assert re.fullmatch(r"[0-9a-f]{12}  ann  admin,read,submit  until 20\d\d-\d\d-\d\d \d\d:\d\d UTC", ann)
    assert ann_limits == f"    {limits}" and max(len(ann), len(ann_limits)) <= 80
    assert bob.endswith("  bob  read,submit") and bob_limits == "    --webhook-url https://1.1.1.1/x"
    assert cy.endswith("  cy  read,submit")


def test_a_revoked_key_ends_in_a_running_service_and_stays_listed(http: httpx.Client) -> None:
    headers = {"Authorization": f"Bearer {run('add', 'ann').stdout.strip()}"}
    assert http.get("/jobs", headers=headers).status_code == 200
    [key_id] = listed()
    assert run("revoke", key_id).exit_code == 0
    assert_problem(http.get("/jobs", headers=headers), 401, "unauthorized")
    assert "revoked" in run("list").stdout


def test_a_rotated_key_is_like_the_one_before(http: httpx.Client) -> None:
    old = {"Authorization": f"Bearer {run('add', 'ann', '--jobs', '3', '--scope', 'read').stdout.strip()}"}
    [old_id] = listed()
    new = {"Authorization": f"Bearer {run('rotate', old_id, '--keep', '1h').stdout.strip()}"}
    assert http.get("/jobs", headers=old).status_code == http.get("/jobs", headers=new).status_code == 200
    records = listed()
    kept = ("owner", "scopes", "quota", "rate")
    before, after = records.pop(old_id), records.popitem()[1]
    assert [before[name] for name in kept] == [after[name] for name in kept] and after["expires_at"] is None
    assert 0 < before["expires_at"] - time.time() <= 3600
    assert run("rotate", after["id"]).exit_code == 0
    assert_problem(http.get("/jobs", headers=new), 401, "unauthorized")
    assert "expired" in run("rotate", after["id"]).output


def test_before_the_first_key_the_list_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (None, tmp_path / "keys.json"):
        if place:
            monkeypatch.setenv("DAIN_KEYS_FILE", str(place))
        done = run("list")
        assert (
            done.exit_code == 0 and done.stdout == "" and "There is no key yet. `dain keys add" in done.stderr
        )
        assert run("list", "--json").stdout == "[]\n"


def test_a_file_of_keys_that_cannot_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DAIN_KEYS_FILE", str(tmp_path / "file" / "more" / "keys.json"))
    for words in (("add", "ann"), ("list",)):
        done = run(*words)
        assert done.exit_code == 1 and "/file/more: Not a directory. Correct DAIN_KEYS" in done.output


def test_scopes_may_be_given_one_by_one() -> None:
    for words in (("--scope", "read", "--scope", "admin"), ("--scope", "read,admin")):
        assert sorted(json.loads(run("add", "ann", *words, "--json").stdout)["scopes"]) == ["admin", "read"]
    assert sorted(json.loads(run("add", "bob", "--json").stdout)["scopes"]) == ["read", "submit"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "Ann Other"), "NAME"),
        (("add", "a:b"), "NAME"),
        (("add", "ann", "--scope", "submit,fly"), "submit, read, admin"),
        (("add", "ann", "--scope", ""), "submit, read, admin"),
        (("add", "ann", "--bytes", "much"), "50GiB"),
        (("add", "ann", "--expires", "soon"), "90d"),
        (("add", "ann", "--expires", "0d"), "over at once"),
        (("add", "ann", "--jobs", "0"), "--jobs"),
        (("add", "ann", "--weight", "nan"), "--weight"),
        (("add", "ann", "--weight", "inf"), "--weight"),
        (("add", "ann", "--webhook-url", "ftp://example.com"), "https://"),
        (("add", "ann", "--webhook-url", "https://xn--a/x"), "no URL"),
        (("webhook-secret", "ann"), "DAIN_WEBHOOK_SECRET is not set here"),
        (("webhook-secret", "NO Such"), "NAME"),
        (("revoke", "0" * 12), "dain keys list"),
        (("rotate", "0" * 12), "dain keys list"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0 and said in result.output and "Traceback" not in result.output
    assert listed() == {}


def test_a_record_that_cannot_be_read_can_be_ended_and_holds_up_no_other(
    http: httpx.Client, redis: Redis
) -> None:
    headers = {"Authorization": f"Bearer {run('add', 'ann').stdout.strip()}"}
    [good] = listed()
    redis.hset(
        RedisKeys.NAME, "0bad", json.dumps({**listed()[good], "id": "0bad", "sha256": "", "weight": None})
    )
    assert_problem(http.get("/jobs", headers=headers), 503, "keys-unreadable")
    assert "cannot be read: weight. End this key with `dain keys revoke 0bad`" in run("list").output
    assert run("revoke", good).exit_code == 0
    assert run("revoke", "0bad").exit_code == 0
    assert {key_id: bool(key["revoked_at"]) for key_id, key in listed().items()} == {good: True, "0bad": True}
    assert_problem(http.get("/jobs", headers=headers), 401, "unauthorized")
    assert_problem(http.get("/jobs"), 401, "unauthorized")


def test_what_a_webhook_of_a_key_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    add = ("add", "ann", "--webhook-url", "http://10.9.9.9/x")
    lacking = run(*add)
    assert lacking.exit_code == 0 and lacking.stdout.startswith("dain_")
    assert "refuses every job" in lacking.stderr
    assert "DAIN_EGRESS_ALLOW" in lacking.stderr and "DAIN_WEBHOOK_SECRET is not set" in lacking.stderr
    monkeypatch.setenv("DAIN_WEBHOOK_SECRET", SECRET)
    assert "DAIN_WEBHOOK_SECRET" not in run(*add).stderr
    monkeypatch.setenv("DAIN_EGRESS_ALLOW", "10.9.9.9")
    assert "refuses" not in run(*add).stderr


def test_each_owner_has_a_secret_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_WEBHOOK_SECRET", SECRET)
    ann, bob, default = (run("webhook-secret", name).stdout for name in ("ann", "bob", "default"))
    assert ann != bob and default == f"{SECRET}\n"
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", ann)


def test_a_secret_of_a_name_that_no_key_has_comes_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAIN_WEBHOOK_SECRET", SECRET)
    run("add", "ann")
    warnings = {name: run("webhook-secret", name).stderr for name in ("ann", "bob", "default")}
    assert warnings == {"ann": "", "bob": "Warning: no key has the name bob.\n", "default": ""}
    monkeypatch.setenv("DAIN_REDIS_URL", f"unix://{tmp_path}/none.sock")
    unknown = run("webhook-secret", "ann")
    assert unknown.exit_code == 0 and unknown.stdout.startswith("whsec_") and "is unknown" in unknown.stderr


def test_keys_go_into_the_file_that_the_settings_name(
    tmp_path: Path, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAIN_KEYS_FILE", str(tmp_path / "new" / "keys.json"))
    assert run("add", "ann").exit_code == 0
    assert [key.owner for key in FileKeys(tmp_path / "new" / "keys.json").all().values()] == ["ann"]
    assert redis.keys() == []


def test_no_key_of_a_file_that_is_gone_is_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAIN_KEYS_FILE", str(tmp_path / "keys.json"))
    assert "Put it back" in run("revoke", "0" * 12).output
    assert not (tmp_path / "keys.json").exists()


def test_a_redis_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAIN_REDIS_URL", f"unix://{tmp_path}/none.sock")
    assert "DAIN_REDIS_URL" in run("list").output
