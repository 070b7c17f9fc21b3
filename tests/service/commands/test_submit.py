"""`dain submit` against the real API: where results go, what is refused, and what an interrupt does."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from service.cli import cli
from service.commands.progress import Lines
from service.jobs.stills import archived
from service.settings import Settings
from tests.api import serve, until
from tests.service.commands.conftest import CONTENT, Dain, again_and_again, queued


@pytest.fixture
def clips(clip: Path, tmp_path: Path) -> Path:
    """A folder of two clips and a file that is no video."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("one.mp4", "two.mp4"):
        (folder / name).write_bytes(clip.read_bytes())
    (folder / "notes.txt").write_text("no video")
    return folder


def all_jobs(http: httpx.Client) -> list[dict[str, object]]:
    jobs: list[dict[str, object]] = http.get("/jobs").json()["jobs"]
    return jobs


@pytest.mark.usefixtures("working")
def test_the_result_goes_where_it_is_wanted(dain: Dain, clip: Path, tmp_path: Path) -> None:
    beside = clip.with_name("café-2x.mp4")
    for options, path in (
        (("-o", tmp_path / "own.mp4"), tmp_path / "own.mp4"),
        (("-o", tmp_path), tmp_path / "café-2x.mp4"),
        ((), beside),
    ):
        done = dain("submit", clip, *options)
        assert done.exit_code == 0, done.stderr
        assert path.read_bytes() == CONTENT and f"{path}: 24 frames" in done.stdout
    beside.unlink()


@pytest.mark.usefixtures("working")
def test_a_slash_at_its_end_makes_it_a_folder(dain: Dain, clip: Path, tmp_path: Path) -> None:
    assert dain("submit", clip, "-o", f"{tmp_path}/new/").exit_code == 0
    assert (tmp_path / "new" / "café-2x.mp4").read_bytes() == CONTENT


@pytest.mark.usefixtures("working")
def test_the_name_of_the_result_says_what_kind_of_file_it_is(
    dain: Dain, http: httpx.Client, clip: Path, tmp_path: Path
) -> None:
    for name in ("a.MKV", "a.zip", "a.mp4"):
        assert dain("submit", clip, "-o", tmp_path / name).exit_code == 0
    assert dain("submit", clip, "-o", tmp_path / "b.mkv", "--container", "webm").exit_code == 0
    asked = [job["options"]["container"] for job in http.get("/jobs").json()["jobs"]]
    assert asked == ["webm", "mp4", "png", "mkv"]


def test_a_dry_run_says_what_a_job_would_take_and_starts_none(
    dain: Dain, http: httpx.Client, clip: Path, clips: Path
) -> None:
    what = (
        "36 frames, 22 of them new; 1.44 megapixels of work; no worker has measured its speed yet; "
        "0 jobs are begun before it\n"
    )
    assert dain("submit", clip, "--dry-run", "--factor", "3").stdout == what
    assert dain("submit", clips, "--dry-run", "--factor", "3").stdout == f"one.mp4: {what}two.mp4: {what}"
    assert json.loads(dain("submit", clip, "--dry-run", "--json").stdout)["frames"] == 24
    assert not all_jobs(http)


@pytest.mark.usefixtures("working")
def test_several_videos_are_sent_and_what_comes_of_them_is_fetched(
    dain: Dain, clips: Path, clip: Path, tmp_path: Path
) -> None:
    done = dain("submit", clips, f"{clip.parent}/cli?.mp4", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "café-2x-2.mp4",
        "café-2x-3.mp4",
        "café-2x.mp4",
    ]
    assert len(done.stdout.splitlines()) == 3
    for name in ("one.mp4", "two.mp4", "clip.mp4"):
        assert f"{name}: uploading" in done.stderr


@pytest.mark.usefixtures("working")
def test_one_of_several_that_is_refused_is_told_of_and_the_others_go_on(
    dain: Dain, clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    done = dain("submit", clips / "notes.txt", clips, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 7 and "Error: notes.txt: " in done.stderr
    paths = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert len(paths) == 2 and all(Path(path).read_bytes() == CONTENT for path in paths)
    alone = dain("submit", clips / "notes.txt")
    assert alone.exit_code == 7 and alone.stderr.startswith("notes.txt: uploading")


@pytest.mark.usefixtures("working")
def test_a_file_that_cannot_be_read_is_named(
    dain: Dain, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> AbstractContextManager[Path]:  # root may read everything
        if path.name == "s.mp4":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return archived(path)

    monkeypatch.setattr("service.commands.submit.archived", refuse)
    (tmp_path / "s.mp4").touch()
    done = dain("submit", tmp_path / "s.mp4", clip, "-o", tmp_path)
    assert done.exit_code == 1 and "Error: s.mp4: it cannot be read: Permission denied." in done.stderr
    assert (tmp_path / "café-2x.mp4").read_bytes() == CONTENT


def test_where_the_queue_is_full_the_rest_is_sent_when_jobs_before_it_are_over(
    settings: Settings,
    clips: Path,
    tmp_path: Path,
    finish: Callable[[str, bytes], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "out").mkdir()
    said: list[str] = []
    monkeypatch.setattr(Lines, "say", lambda self, line: said.append(line))

    def finish_once_it_is_full() -> None:
        if any("1 more are sent" in line for line in said):
            for job_id in queued(http):
                finish(job_id, CONTENT)

    small = settings.model_copy(update={"max_queued_jobs": 1})
    with (
        serve(small) as url,
        httpx.Client(base_url=url, timeout=60) as http,
        again_and_again(finish_once_it_is_full),
    ):
        words = ["submit", clips, "-o", tmp_path / "out", "--url", url]
        done = CliRunner().invoke(cli, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_file_that_is_there_is_kept(dain: Dain, http: httpx.Client, clip: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.mp4"
    own.write_bytes(b"mine")
    refused = dain("submit", clip, "-o", own)
    assert refused.exit_code == 2 and "own.mp4 exists" in refused.stderr and "--overwrite" in refused.stderr
    assert own.read_bytes() == b"mine" and not all_jobs(http)


@pytest.mark.usefixtures("working")
def test_a_file_is_replaced_where_that_is_asked_for(dain: Dain, clip: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.mp4"
    own.write_bytes(b"mine")
    assert dain("submit", clip, "-o", own, "--overwrite").exit_code == 0
    assert own.read_bytes() == CONTENT


@pytest.mark.usefixtures("working")
def test_in_a_folder_the_result_takes_a_free_name(dain: Dain, clip: Path, tmp_path: Path) -> None:
    taken = tmp_path / "café-2x.mp4"
    taken.write_bytes(b"mine")
    (tmp_path / "café-2x-2.mp4").symlink_to("nowhere")
    done = dain("submit", clip, "-o", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert taken.read_bytes() == b"mine" and (tmp_path / "café-2x-3.mp4").read_bytes() == CONTENT
    assert dain("submit", clip, "-o", tmp_path, "--overwrite").exit_code == 0
    assert taken.read_bytes() == CONTENT


@pytest.mark.usefixtures("working")
def test_a_name_that_another_command_takes_meanwhile_is_left_to_it(
    dain: Dain, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "café-2x.mp4"

    def show(self: Lines, row: object, name: str, stage: str, *more: object) -> None:
        if stage == "fetching":
            taken.write_bytes(b"theirs")

    monkeypatch.setattr(Lines, "show", show)
    done = dain("submit", clip, "-o", f"{tmp_path}/")
    assert done.exit_code == 0 and "café-2x-2.mp4: 24 frames" in done.stdout, done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == {
        "café-2x.mp4": b"theirs",
        "café-2x-2.mp4": CONTENT,
    }


@pytest.mark.usefixtures("working")
def test_the_clip_itself_is_never_replaced(dain: Dain, clip: Path, tmp_path: Path) -> None:
    before = clip.read_bytes()
    (tmp_path / "symbolic.mp4").symlink_to(clip)
    (tmp_path / "hard.mp4").hardlink_to(clip)
    around = clip.parent / ".." / clip.parent.name / clip.name
    for path in (clip, around, tmp_path / "symbolic.mp4", tmp_path / "hard.mp4"):
        for options in ((), ("--overwrite",)):
            refused = dain("submit", clip, "-o", path, *options)
            assert refused.exit_code == 2 and "is CLIP itself" in refused.stderr
    (tmp_path / "café-2x.mp4").symlink_to(clip)  # what the result would be called in this folder
    assert dain("submit", clip, "-o", tmp_path, "--overwrite").exit_code == 0
    assert clip.read_bytes() == before
    other = tmp_path / "other.mp4"
    other.write_bytes(before)
    assert dain("submit", other, clip, "-o", tmp_path, "--overwrite").exit_code == 0
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("{clip}", "-o", "{tmp}/absent/out.mp4"), "there is no folder"),
        (
            ("{clip}", "https://example.com/a.mp4", "-o", "{tmp}/notes.txt"),
            "cannot be made a folder for the results",
        ),
        (("{clip}", "-o", "{tmp}/notes.txt/"), "cannot be made a folder for the results"),
        (("{clip}", "-o", "/proc/out.mp4"), "the folder /proc cannot be written to"),
        (("/proc/version",), "the folder /proc cannot be written to"),
        (("{tmp}/gone.mp4",), "there is no file or folder"),
        (("{tmp}/*.mp4",), "matches no video"),
        (("{tmp}",), "holds neither videos nor pictures"),
        (("https://example.com/a.mp4", "--mask", "{clip}"), "a mask goes with a file"),
        (("{clip}", "-o", "{tmp}/out.xyz"), "out.xyz: give the result a name that ends in .mp4, "),
        (("{clip}", "-o", "{tmp}/out"), "or say --container"),
        (("{clip}", "-o", "{tmp}/pipe.mp4", "--overwrite"), "pipe.mp4 is a device, a pipe or the like"),
        (("{clip}", "-o", "{tmp}/out.mp4", "--detach"), "With --detach nothing is fetched"),
        (("{clip}", "--overwrite", "--detach"), "give them to `dain fetch`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(
    dain: Dain, http: httpx.Client, clip: Path, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "notes.txt").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    done = dain("submit", *(word.format(clip=clip, tmp=tmp_path) for word in words))
    assert done.exit_code == 2 and reason in " ".join(done.stderr.split())
    assert not all_jobs(http)


@pytest.mark.usefixtures("working")
def test_a_result_that_cannot_be_written_is_still_there(
    dain: Dain, http: httpx.Client, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / f"out.mp4.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part").mkdir()
    done = dain("submit", clip, "-o", tmp_path / "out.mp4")
    assert done.exit_code == 1 and "cannot be written: Is a directory" in done.stderr
    [job] = all_jobs(http)
    assert f"dain fetch {job['id']} -o OTHER" in done.stderr
    assert http.get(f"/jobs/{job['id']}/result").content == CONTENT


def test_a_folder_that_is_sent_again_leaves_its_results_out(
    dain: Dain, http: httpx.Client, clips: Path
) -> None:
    (clips / "one-60fps.mp4").touch()
    done = dain("submit", clips, "--detach")
    assert done.exit_code == 0 and len(done.stdout.split()) == len(all_jobs(http)) == 2, done.stderr
    assert "one-60fps.mp4 is left out: by its name it was made of one.mp4." in done.stderr


def test_a_file_without_a_byte_is_named(dain: Dain, http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "none.mp4").touch()
    done = dain("submit", tmp_path / "none.mp4")
    assert (done.exit_code, done.stderr) == (
        7,
        "Error: The file is empty: there is no video in it to send.\n",
    )


def test_detached_jobs_are_named_each_on_a_line(dain: Dain, http: httpx.Client, clips: Path) -> None:
    done = dain("submit", clips, "--detach")
    assert done.exit_code == 0 and done.stdout.split() == queued(http)
    assert json.loads(dain("submit", clips / "one.mp4", "--detach", "--json").stdout)["status"] == "queued"


def test_jobs_are_found_by_the_metadata_they_were_submitted_with(
    dain: Dain, http: httpx.Client, clip: Path
) -> None:
    done = dain("submit", clip, "--detach", "--metadata", "user=42", "--metadata", "formula=a=b")
    assert done.exit_code == 0, done.stderr
    job_id = done.stdout.strip()
    assert http.get(f"/jobs/{job_id}").json()["metadata"] == {"user": "42", "formula": "a=b"}
    for value, found in (("42", [job_id]), ("43", [])):
        listed = dain("jobs", "--metadata", f"user={value}", "--metadata", "formula=a=b", "--json")
        assert [job["id"] for job in json.loads(listed.stdout)] == found
    refused = dain("jobs", "--metadata", "user")
    assert refused.exit_code == 2 and "'user' is not of the form KEY=VALUE" in refused.stderr
    refused = dain("jobs", "--metadata", "user=1", "--metadata", "user=2")
    assert refused.exit_code == 2 and "'user' is given twice" in refused.stderr


def test_what_the_service_says_of_an_option_is_passed_on(dain: Dain, clip: Path) -> None:
    done = dain("submit", clip, "--detach", "--webhook-events", "job.done")
    assert done.exit_code == 7 and "job.done" in done.stderr


def test_an_interrupt_before_the_answer_does_not_deny_the_job(
    dain: Dain, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Lines, row: object, name: str, stage: str, *more: object) -> None:
        raise KeyboardInterrupt  # when the last byte has been sent

    monkeypatch.setattr(Lines, "show", interrupt)
    done = dain("submit", clip)
    assert done.exit_code == 130 and "clip.mp4 may have become a job" in done.stderr
    assert "not sent" not in done.stderr


def test_an_interrupt_without_a_terminal_leaves_the_job_and_says_how_to_go_on(
    url: str, http: httpx.Client, clip: Path, tmp_path: Path
) -> None:
    place, login = f"{tmp_path}/own videos/", url.replace("://", "://ann:secret@")
    command = [sys.executable, "-m", "service.cli", "submit", str(clip), "--url", login, "-o", place]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = [next(line for line in process.stderr if "queued" in line)]
        process.send_signal(signal.SIGINT)
        said += process.stderr.readlines()
    [job] = all_jobs(http)
    assert process.returncode == 130 and job["status"] == "queued"
    assert said[-1].strip() == f"dain fetch {job['id']} -o '{place}' --url {url}"


@pytest.mark.parametrize(("answer", "status"), [("cancel", "cancelled"), ("detach", "queued")])
def test_an_interrupt_on_a_terminal_asks(
    url: str, http: httpx.Client, clip: Path, answer: str, status: str
) -> None:
    with terminal("submit", str(clip), "--url", url) as (process, screen):
        until(lambda: queued(http))
        shown = read_until(screen, b"queued")
        assert not re.search(rb"\x1b\[[0-9;]*3\d", shown)  # NO_COLOR is set
        process.send_signal(signal.SIGINT)
        read_until(screen, b"[detach]:")
        os.write(screen, b"wait\n")
        read_until(screen, b"queued")
        process.send_signal(signal.SIGINT)
        read_until(screen, b"[detach]:")
        os.write(screen, f"{answer}\n".encode())
        read_until(screen, b"Cancelled job" if answer == "cancel" else b"dain fetch")
    [job] = all_jobs(http)
    assert process.returncode == 130 and job["status"] == status


@contextmanager
def terminal(*words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`dain` on a terminal of its own, and what reads from its screen and writes to its keyboard."""
    screen, theirs = pty.openpty()
    command = [sys.executable, "-m", "service.cli", *words]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        yield process, screen
    os.close(screen)


def read_until(screen: int, words: bytes) -> bytes:
    """What the screen shows up to these words; fails where it ends before."""
    seen = b""
    while words not in seen:
        seen += os.read(screen, 1024)
    return seen
