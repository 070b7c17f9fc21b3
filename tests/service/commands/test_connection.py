"""What every command that speaks to a service says where there is none, or where it is not let in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from service import client, exits
from service.cli import cli
from service.client import ClientError, Unavailable, sync_client
from service.commands.connection import exit_code
from service.exits import Exit
from tests.service.commands.conftest import Dain

NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "command", ["jobs", "workers", "submit {clip}", "fetch 1", "wait 1", "cancel 1", "logs 1"]
)
def test_no_service_is_told_of_at_once_with_the_way_out(
    command: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        pytest.fail("it waited")

    monkeypatch.setattr(time, "sleep", sleep)
    done = CliRunner().invoke(cli, [*command.format(clip=clip).split(), "--url", NOBODY])
    assert done.exit_code == Exit.UNREACHABLE
    assert NOBODY in done.stderr and "`dain up`" in done.stderr and "--url (DAIN_URL)" in done.stderr
    assert "Errno" not in done.stderr and not done.stdout


def test_a_password_in_the_url_is_not_shown(clip: Path) -> None:
    for url in ("http://alice:s3cret@host:x", "alice:s3cret@host", NOBODY.replace("//", "//alice:s3cret@")):
        done = CliRunner().invoke(cli, ["submit", str(clip), "--url", url])
        assert done.exit_code in (2, 3) and done.stderr.splitlines()[-1].startswith("Error: ")
        assert "s3cret" not in done.output and "Traceback" not in done.output


def test_who_is_not_let_in_is_told_by_the_exit_code(
    dain: Dain, make_key: Callable[..., dict[str, str]], http: httpx.Client
) -> None:
    token = make_key("ann")["Authorization"].removeprefix("Bearer ")
    done = dain("jobs")
    assert done.exit_code == Exit.UNAUTHORIZED and "DAIN_TOKEN" in done.stderr
    assert dain("jobs", "--token", token).exit_code == 0
    assert dain("workers", "--token", token).exit_code == Exit.UNAUTHORIZED


def test_a_shell_completes_ids_of_jobs(dain: Dain, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = dain("submit", clip, "--detach").stdout.strip()
    monkeypatch.setenv("_DAIN_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_CWORD", "2")
    for words, found in ((f"dain show {job_id[:5]}", f"plain,{job_id}"), ("dain fetch xyz", "")):
        monkeypatch.setenv("COMP_WORDS", words)
        assert dain().stdout.strip() == found
    monkeypatch.setenv("COMP_WORDS", "dain show ")
    monkeypatch.setenv("DAIN_URL", NOBODY)
    assert not CliRunner().invoke(cli, prog_name="dain").output.strip()


@pytest.mark.parametrize("kind", [kind for kind in vars(client).values() if isinstance(kind, type)])
def test_each_error_of_the_client_has_an_exit_code(kind: type) -> None:
    if not issubclass(kind, ClientError) or kind in (
        ClientError,
        client.ServiceError,
        client.Damaged,
        client.TimedOut,
    ):
        return
    error = kind.__new__(kind)
    assert exit_code(error) not in (Exit.DONE, Exit.FAILED)


def test_an_exit_code_never_changes_its_meaning() -> None:
    assert {code.name: int(code) for code in exits.Exit} == {
        "DONE": 0, "FAILED": 1, "USAGE": 2, "UNREACHABLE": 3, "NOT_FOUND": 4, "JOB_FAILED": 5, "JOB_CANCELLED": 6,
        "REFUSED": 7, "BUSY": 8, "UNAUTHORIZED": 9, "INTERRUPTED": 130,
    }  # fmt: skip


def test_a_busy_service_is_told_of_while_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([Unavailable("The job queue does not answer.")])

    def ask(*_: object, **__: object) -> dict[str, object]:
        for refusal in refusals:
            raise refusal
        return {"jobs": [], "next_cursor": None}

    monkeypatch.setattr(sync_client.Client, "_ask", ask)
    monkeypatch.setattr(sync_client, "sleep", lambda seconds: None)
    done = CliRunner().invoke(cli, ["jobs"])
    assert done.exit_code == 0 and done.stderr == "The job queue does not answer. Trying again.\n"
