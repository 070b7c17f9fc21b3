"""`dain`: its list of commands, and `dain submit` against the real API: where the result goes, or why it cannot."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from redis import Redis

from service import __version__, cli
from tests.api import until

CONTENT = b"a video"

Submit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def submit(url: str, http: httpx.Client, clip: Path, finish: Callable[[str, bytes], None]) -> Submit:
    """Sends the clip with such options; the job ends as soon as it is there."""

    def queued() -> list[str]:
        return [job["id"] for job in http.get("/jobs", params={"status": "queued"}).json()["jobs"]]

    def run(*options: object) -> subprocess.CompletedProcess[str]:
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(dain, "submit", clip, "--url", url, *options)
            until(lambda: sent.done() or queued())
            for job_id in queued():
                finish(job_id, CONTENT)
            return sent.result()

    return run


def dain(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs `dain` with these arguments."""
    command = [sys.executable, "-m", "service.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_result_goes_where_it_is_wanted(submit: Submit, clip: Path, tmp_path: Path) -> None:
    beside = clip.with_name("café-2x.mp4")
    for options, path in (
        (("-o", tmp_path / "own.mp4"), tmp_path / "own.mp4"),
        (("-o", tmp_path), tmp_path / "café-2x.mp4"),
        ((), beside),
    ):
        done = submit(*options)
        assert done.returncode == 0, done.stderr
        assert path.read_bytes() == CONTENT and f"{path}: 24 frames" in done.stdout
    beside.unlink()


def test_the_name_of_the_result_says_what_kind_of_file_it_is(
    submit: Submit, http: httpx.Client, tmp_path: Path
) -> None:
    for options in (("-o", tmp_path / "a.MKV"), ("-o", tmp_path / "a.zip"), ("-o", tmp_path / "a.mp4")):
        assert submit(*options).returncode == 0
    assert submit("-o", tmp_path / "b.mkv", "--container", "webm").returncode == 0
    asked = [job["options"]["container"] for job in http.get("/jobs").json()["jobs"]]
    assert asked == ["webm", "mp4", "png", "mkv"]


def test_a_dry_run_says_what_a_job_would_take_and_starts_none(
    submit: Submit, http: httpx.Client, clip: Path
) -> None:
    done = submit("--dry-run", "--factor", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "36 frames, 22 of them new; 1.44 megapixels of work; no worker has measured its speed yet; "
        "0 jobs are begun before it\n"
    )
    assert http.get("/jobs").json()["jobs"] == []


def test_a_file_that_is_there_is_kept(submit: Submit, http: httpx.Client, clip: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.mp4"
    own.write_bytes(b"mine")
    refused = submit("-o", own)
    assert refused.returncode == 2 and "own.mp4 exists" in refused.stderr and "--overwrite" in refused.stderr
    assert own.read_bytes() == b"mine" and http.get("/jobs").json()["jobs"] == []
    assert submit("-o", own, "--overwrite").returncode == 0
    assert own.read_bytes() == CONTENT


def test_in_a_folder_the_result_takes_a_free_name(submit: Submit, tmp_path: Path) -> None:
    taken = tmp_path / "café-2x.mp4"
    taken.write_bytes(b"mine")
    (tmp_path / "café-2x-2.mp4").symlink_to("nowhere")
    done = submit("-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert taken.read_bytes() == b"mine" and (tmp_path / "café-2x-3.mp4").read_bytes() == CONTENT
    assert submit("-o", tmp_path, "--overwrite").returncode == 0
    assert taken.read_bytes() == CONTENT


def test_the_clip_itself_is_never_replaced(
    submit: Submit, http: httpx.Client, clip: Path, tmp_path: Path
) -> None:
    before = clip.read_bytes()
    (tmp_path / "symbolic.mp4").symlink_to(clip)
    (tmp_path / "hard.mp4").hardlink_to(clip)
    around = clip.parent / ".." / clip.parent.name / clip.name
    for path in (clip, around, tmp_path / "symbolic.mp4", tmp_path / "hard.mp4"):
        for options in ((), ("--overwrite",)):
            refused = submit("-o", path, *options)
            assert refused.returncode == 2 and "is CLIP itself" in refused.stderr
    (tmp_path / "café-2x.mp4").symlink_to(clip)  # what the result would be called in this folder
    assert submit("-o", tmp_path, "--overwrite").returncode == 0
    assert clip.read_bytes() == before


def test_without_a_folder_nothing_is_sent(submit: Submit, http: httpx.Client, tmp_path: Path) -> None:
    done = submit("-o", tmp_path / "absent" / "out.mp4")
    assert done.returncode == 2 and "there is no folder" in done.stderr
    assert http.get("/jobs").json()["jobs"] == []


def test_a_result_that_cannot_be_written_is_still_there(
    submit: Submit, http: httpx.Client, tmp_path: Path
) -> None:
    (tmp_path / f"out.mp4.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part").mkdir()
    done = submit("-o", tmp_path / "out.mp4")
    assert done.returncode == 1 and "cannot be written: Is a directory" in done.stderr
    [job] = http.get("/jobs").json()["jobs"]
    assert f"/jobs/{job['id']}/result" in done.stderr
    assert http.get(f"/jobs/{job['id']}/result").content == CONTENT


def test_the_result_of_a_job_is_fetched_later(
    url: str, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    job_id = dain("submit", clip, "--detach", "--url", url).stdout.strip()
    own = tmp_path / "own.mp4"
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(dain, "fetch", job_id, "-o", own, "--url", url)
        finish(job_id, CONTENT)
        done = fetched.result()
    assert done.returncode == 0, done.stderr
    assert own.read_bytes() == CONTENT and f"{own}: 24 frames" in done.stdout
    own.write_bytes(b"mine")
    refused = dain("fetch", job_id, "-o", own, "--url", url)
    assert refused.returncode == 2 and "own.mp4 exists" in refused.stderr and own.read_bytes() == b"mine"
    assert dain("fetch", job_id, "-o", own, "--overwrite", "--url", url).returncode == 0
    assert own.read_bytes() == CONTENT
    assert dain("fetch", job_id, "-o", tmp_path, "--url", url).returncode == 0
    assert (tmp_path / "café-2x.mp4").read_bytes() == CONTENT


def test_a_job_without_a_result_is_not_fetched(
    url: str, http: httpx.Client, clip: Path, tmp_path: Path
) -> None:
    job_id = dain("submit", clip, "--detach", "--url", url).stdout.strip()
    http.delete(f"/jobs/{job_id}")
    done = dain("fetch", job_id, "-o", tmp_path, "--url", url)
    assert done.returncode == 1 and "cancelled" in done.stderr and not list(tmp_path.glob("*2x*"))


@pytest.mark.parametrize(("command", "is_over"), [("submit", True), ("fetch", False)])
def test_an_interrupt_cancels_the_job_of_the_command_that_sent_it_alone(
    url: str, http: httpx.Client, clip: Path, command: str, is_over: bool
) -> None:
    words = [clip] if command == "submit" else [dain("submit", clip, "--detach", "--url", url).stdout.strip()]
    code = """
from service import cli, client
def interrupted(*_):
    raise KeyboardInterrupt
client.Client.wait = interrupted
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code, command, *map(str, words), "--url", url], timeout=60)
    assert done.returncode != 0
    [job] = http.get("/jobs").json()["jobs"]
    assert (job["status"] == "cancelled") is is_over


def test_jobs_are_found_by_the_metadata_they_were_submitted_with(
    url: str, http: httpx.Client, clip: Path
) -> None:
    notes = ("--metadata", "user=42", "--metadata", "formula=a=b")
    done = dain("submit", clip, "--detach", *notes, "--url", url)
    assert done.returncode == 0, done.stderr
    job_id = done.stdout.strip()
    assert http.get(f"/jobs/{job_id}").json()["metadata"] == {"user": "42", "formula": "a=b"}
    for value, found in (("42", [job_id]), ("43", [])):
        listed = dain(
            "jobs", "--metadata", f"user={value}", "--metadata", "formula=a=b", "--json", "--url", url
        )
        assert [job["id"] for job in json.loads(listed.stdout)] == found
    refused = dain("jobs", "--metadata", "user", "--url", url)
    assert refused.returncode == 2 and "'user' is not of the form KEY=VALUE" in refused.stderr
    refused = dain("jobs", "--metadata", "user=1", "--metadata", "user=2", "--url", url)
    assert refused.returncode == 2 and "'user' is given twice" in refused.stderr


def test_webhook_events_are_chosen(url: str, clip: Path) -> None:
    done = dain("submit", clip, "--detach", "--webhook-events", "job.done", "--url", url)
    assert done.returncode == 1 and "job.done" in done.stderr  # what the service says of it


#: What takes long to import: PyTorch seconds, the others tenths of one.
HEAVY = {
    "av",
    "fastapi",
    "httpx",
    "numpy",
    "pydantic",
    "redis",
    "rich",
    "rq",
    "starlette",
    "torch",
    "uvicorn",
}


def imported_by(*words: str) -> set[str]:
    """The heavy packages that `dain` with these arguments imports."""
    code = f"""
import sys
from service.cli import cli
try:
    cli({list(words)}, prog_name="dain")
finally:
    print(*{HEAVY} & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["workes"], ["completion", "zsh"]])
def test_what_tells_of_the_commands_imports_none_of_them(words: list[str]) -> None:
    assert not imported_by(*words)


@pytest.mark.parametrize(
    "words", [["interpolate", "-h"], ["interpolate", "--factor", "x"], ["submit", "-h"], ["up", "-h"]]
)
def test_whoever_asks_for_help_or_mistypes_waits_for_no_pytorch(words: list[str]) -> None:
    assert not imported_by(*words) & {"av", "fastapi", "numpy", "rq", "starlette", "torch", "uvicorn"}


def test_the_list_of_commands_is_whole() -> None:
    listed = dain("--help").stdout
    assert listed == dain("-h").stdout and all(f"  {name}  " in listed for name in cli.COMMANDS)
    assert "dain completion" in listed and max(map(len, listed.splitlines())) <= 80


def test_the_version_is_shown() -> None:
    assert dain("--version").stdout == f"dain {__version__}\n"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("workes", "workers"),
        ("subit", "submit"),
        ("ls", "jobs"),
        ("serve", "up"),
        ("qqq", "`dain --help` lists"),
    ],
)
def test_a_command_that_is_not_there_is_answered_with_one_that_is(wrong: str, meant: str) -> None:
    done = CliRunner().invoke(cli.cli, [wrong])
    assert done.exit_code == 2 and f"There is no command '{wrong}'." in done.output and meant in done.output


def test_every_word_that_others_use_leads_to_a_command() -> None:
    assert set(cli.MEANT.values()) <= cli.COMMANDS.keys() and not cli.MEANT.keys() & cli.COMMANDS.keys()


@pytest.mark.parametrize(("words", "found"), [("wor", {"workers"}), ("submit --det", {"--detach"})])
def test_a_shell_completes_commands_and_options(words: str, found: set[str]) -> None:
    environment = {**os.environ, "_DAIN_COMPLETE": "bash_complete", "COMP_WORDS": f"dain {words}"}
    environment["COMP_CWORD"] = str(len(words.split()))
    done = subprocess.run(
        [sys.executable, "-m", "service.cli"], env=environment, capture_output=True, text=True
    )
    assert {line.partition(",")[2] for line in done.stdout.split()} == found
    assert "_DAIN_COMPLETE=bash_complete" in dain("completion", "bash").stdout


def test_every_command_is_there() -> None:
    for name, entry in cli.COMMANDS.items():
        assert cli.load(name, entry).help


def test_a_part_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "up", cli.Entry("no_such_package.cli", "up", "embedded", ""))
    done = CliRunner().invoke(cli.cli, ["up", "--host", "x"])
    assert done.exit_code == 1
    assert "needs no_such_package, which is not installed" in done.output and "'.[embedded]'" in done.output


def test_a_password_in_the_url_is_not_shown(clip: Path) -> None:
    for url in ("http://alice:s3cret@host:x", "alice:s3cret@host"):
        command = [sys.executable, "-m", "service.cli", "submit", str(clip), "--url", url]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and "must look like http://" in done.stderr
        assert "s3cret" not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_a_result_that_stays_in_the_service_is_named_without_the_password(
    submit: Submit, url: str, tmp_path: Path
) -> None:
    (tmp_path / f"out.mp4.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part").mkdir()
    done = submit("-o", tmp_path / "out.mp4", "--url", url.replace("//", "//alice:s3cret@"))
    assert f"at {url}/jobs/" in done.stderr and "s3cret" not in done.stdout + done.stderr


def test_jobs_are_listed_even_where_a_record_cannot_be_read(
    url: str, http: httpx.Client, clip: Path, redis: Redis
) -> None:
    for _ in range(2):
        posted = http.post("/jobs", content=clip.read_bytes(), headers={"Content-Type": "video/mp4"})
    broken = posted.json()["id"]
    redis.hset(f"dain:job:{broken}", mapping={"options": "{", "created_at": "yesterday", "input": "[]"})
    for command in (["jobs"], ["jobs", "--json"], ["workers"]):
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", *command, "--url", url],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stderr
        assert command == ["workers"] or broken in done.stdout
