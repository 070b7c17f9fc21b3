"""`dain up` where it cannot work: it says whose fault that is within seconds, and starts nothing."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from service import cli, up
from service.jobs.keys import FileKeys, Key
from service.settings import Settings
from service.store.local import LocalStore
from tests import s3
from tests.api import serve
from worker import main as worker_main

Up = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Up:
    """Runs `dain up` with such options and settings in this process, which must fail; returns what it says."""

    def run(*options: object, command: str = "up", state: Path = tmp_path / "state", **settings: str) -> str:
        unset = {name: None for name in os.environ if name.startswith("DAIN_")}
        words = [command, "--state-dir", str(state), *map(str, options)]
        done = CliRunner().invoke(cli.cli, words, env=unset | settings, prog_name="dain")
        assert done.exit_code in (1, 2), done.output
        assert isinstance(done.exception, SystemExit) and "Ready" not in done.stdout
        assert not (state / "supervisord.conf").exists()  # nothing was started
        return done.output

    return run


@pytest.fixture
def devices_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker says of its devices comes from this process, which has PyTorch already."""

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        words = command[command.index("worker.main") + 1 :]
        done = CliRunner().invoke(worker_main.main, words, env=env)
        return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)

    monkeypatch.setattr(up.subprocess, "run", run)


def test_a_port_that_another_program_holds(refused: Up) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = refused("--port", port)
    assert f"Port {port} of 127.0.0.1 is taken by another program" in words and "--port" in words


def test_a_port_that_another_service_holds(refused: Up, settings: Settings) -> None:
    with serve(settings) as url:
        words = refused("--port", url.rpartition(":")[2])
    assert "taken by another DAIN service" in words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "192.0.2.1"), "192.0.2.1, which is no address of this machine"),
        (("--host", "no such host"), "which is no address"),
    ],
)
def test_an_address_that_is_not_this_machines(options: tuple[str, ...], words: str, refused: Up) -> None:
    assert words in refused("--port", 0, *options)


def test_a_port_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, who may listen on any port."""

    def forbid(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", forbid)
    with pytest.raises(click.ClickException, match="Port 80 of 127.0.0.1 is for root alone.*1024"):
        up.claim_port("127.0.0.1", 80)


def test_a_state_folder_that_is_none(refused: Up, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for state in (tmp_path / "file", tmp_path / "file" / "state", Path("/proc/none/state")):
        words = refused("--port", 0, state=state)
        assert str(state) in words and "--state-dir" in words


def test_a_redis_that_does_not_answer_is_named_without_its_password(refused: Up) -> None:
    words = refused("--port", 0, DAIN_REDIS_URL="redis://:s3cret@127.0.0.1:9/0")
    assert "The Redis of DAIN_REDIS_URL, 127.0.0.1:9, does not answer" in words and "s3cret" not in words
    assert ".." not in words
    for wrong in (
        "http://:s3cret@127.0.0.1/",
        "http://:s3/cret@h",
        "redis://:s3cret@127.0.0.1:x/",
        "redis://:s3/cret@h",
        "redis://:p@s3/cret@127.0.0.1:1/0",
    ):
        words = refused("--port", 0, DAIN_REDIS_URL=wrong)
        assert "DAIN_REDIS_URL" in words and "s3" not in words and "DAIN_STORE_URL" not in words


def test_a_store_that_cannot_be_written_to(refused: Up, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in ("file:///proc/x", (tmp_path / "file").as_uri(), "file:///%00"):
        words = refused("--port", 0, DAIN_STORE_URL=url)
        assert f"The store of DAIN_STORE_URL, {url}, cannot be used" in words


def test_a_bucket_that_is_not_there(refused: Up, bucket: s3.Bucket) -> None:
    words = refused("--port", 0, DAIN_STORE_URL=bucket.url.replace(bucket.name, "no-such-bucket"))
    assert "there is no such bucket" in words and s3.SECRET_KEY not in words
    assert ".." not in words


def test_a_full_store_keeps_no_service_from_starting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that are removed make room."""

    def refuse(self: LocalStore) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalStore, "scratch", refuse)
    up.check_store(settings)


def test_a_worker_that_cannot_start_is_explained_by_its_log(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.safetensors").write_text("no weights")
    state = tmp_path / "state"
    (state / "logs").mkdir(parents=True)
    (state / "logs" / "supervisord.log").write_text("WARN exited: janitor (exit status 1; not expected)\n")
    (state / "logs" / "worker-0.log").write_text("Error: of an earlier run\n")
    command = [sys.executable, "-m", "service.cli", "up", "--port", "0", "--state-dir", str(state)]
    environment = os.environ | {"DAIN_MODELS": str(tmp_path / "models"), "DAIN_DEVICE": "cpu"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        too_late = threading.Timer(200, process.terminate)
        too_late.start()
        ended = next((line for line in process.stderr if " ended " in line), "")
        too_late.cancel()
        process.send_signal(signal.SIGINT)
        assert any("Stopping" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)  # changes nothing
        assert "Stopping" not in process.communicate(timeout=60)[0]
    log = state / "logs" / "worker-0.log"
    assert ended.startswith(f"worker-0 ended and is started again. Its log, {log}, ends with: ")
    assert "mine.safetensors is no readable .safetensors file" in ended


def test_every_program_of_the_service_runs(settings: Settings, tmp_path: Path) -> None:
    settings.state_dir.mkdir()
    config = up.supervisor_config(settings, tmp_path, workers=["cpu"])
    programs = {name.removeprefix("program:") for name in config.sections() if name.startswith("program:")}
    assert programs == {"janitor", "webhooks", "worker-0", "api"}


def test_a_small_service_has_few_programs_and_a_small_redis(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    settings.state_dir.mkdir()
    config = up.supervisor_config(settings, tmp_path, workers=["cpu"], small=True)
    programs = {name.removeprefix("program:") for name in config.sections() if name.startswith("program:")}
    assert programs == {"redis", "worker-0", "api"}
    assert f"'--maxmemory' '{up.SMALL_REDIS}'" in config["program:redis"]["command"]
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    with_webhooks = Settings(state_dir=tmp_path / "state", webhook_secret=secret)
    config = up.supervisor_config(with_webhooks, tmp_path, workers=["cpu"], small=True)
    assert "program:webhooks" in config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--memory", "4potatoes"), "'4potatoes' is no size of memory. Write it like 4GiB"),
        (("--memory", "0"), "'0' is no size of memory. Write it like 4GiB"),
        (("--memory", "900TiB"), "900.0TiB is more than this machine's"),
        (
            ("--memory", "512MiB"),
            "dain-lite makes no frames of 640x480 within 0.5 GiB: the least for them is",
        ),
        (("--device", "abacus"), "DAIN_DEVICE=abacus"),
    ],
)
@pytest.mark.usefixtures("devices_in_process")
def test_a_small_machine_that_is_too_small(options: tuple[str, ...], words: str, refused: Up) -> None:
    said = refused("--port", 0, *options, command="edge")
    assert words in said and ".." not in said


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DAIN_MEMORY", "900TiB", "900.0TiB is more than this machine's"),
        ("DAIN_MODEL", "abacus", "no model is called 'abacus': choose one of dain, dain-lite"),
    ],
)
@pytest.mark.usefixtures("devices_in_process")
def test_variables_of_a_small_service_are_checked_as_options_are(
    name: str, value: str, words: str, refused: Up
) -> None:
    assert words in refused("--port", 0, command="edge", **{name: value})


def test_what_is_set_goes_before_what_a_small_service_chooses(tmp_path: Path) -> None:
    chosen = up.small(Settings(state_dir=tmp_path))
    assert (chosen.model, chosen.worker_ttl_seconds) == ("dain-lite", 60)
    assert up.small(Settings(state_dir=tmp_path, model="dain")).model == "dain"
    assert up._for_workers(chosen)["DAIN_MODEL"] == "dain-lite"


def test_a_device_that_workers_cannot_use(refused: Up) -> None:
    assert "cuda:9 cannot be used" in refused("--port", 0, "--device", "cuda:9", command="edge")


def test_a_free_port_is_taken_where_any_will_do() -> None:
    assert up.claim_port("127.0.0.1", 0) > 0 and up.claim_port("localhost", 0) > 0


def test_another_service_is_not_taken_for_ours(settings: Settings) -> None:
    with serve(settings) as url:
        missing = up.what_is_missing(url, "our token", up.Logs(settings.state_dir))
        assert missing is not None and "another DAIN service" in missing
        ours = up.what_is_missing(url, up._instance_at(url) or "", up.Logs(settings.state_dir))
        assert ours == "workers: none is running."


def test_a_silent_api_is_explained_by_its_log(settings: Settings) -> None:
    (settings.state_dir / "logs").mkdir(parents=True)
    log = settings.state_dir / "logs" / "api.log"
    log.write_text("RuntimeError: of the last start\n")
    logs = up.Logs(log.parent)
    missing = up.what_is_missing("http://127.0.0.1:9", "token", logs)
    assert missing is not None and missing.endswith(f"Its log, {log}, is empty so far.")
    with log.open("a") as file:
        file.write("Traceback (most recent call last):\n  File\nValueError: store_url is 's3'\nExiting.\n")
    missing = up.what_is_missing("http://127.0.0.1:9", "token", logs)
    assert missing is not None and str(log) in missing and missing.endswith("ValueError: store_url is 's3'")
    log.write_text("OSError: after rotation\n")
    assert logs.last_words("api").endswith("OSError: after rotation")


def test_a_full_disk_is_one_sentence(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    code = """
from supervisor.loggers import getLogger, handle_file
logger = getLogger()
handle_file(logger, "/dev/full", "%(message)s\\n")
for number in range(3):
    logger.info(f"line {number}")
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True).stderr
    assert printed.count(b"Traceback") == 3
    up.relay_errors(io.BytesIO(printed + b"Error: something else\n"), settings)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[1] == "Error: something else"
    assert re.match(rf"The disk of {settings.state_dir} is full: .* Make room\.", said[0])


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "dain-left"
    left.mkdir()
    (tmp_path / "lock").write_text(str(left))
    with up._only_one(tmp_path) as (_, runtime_dir):
        assert not left.exists() and runtime_dir.is_dir()
        assert (tmp_path / "lock").read_text() == str(runtime_dir)
        with pytest.raises(click.ClickException, match="is running"), up._only_one(tmp_path):
            pass
    assert not runtime_dir.exists()


def test_an_address_that_others_reach_is_refused_until_there_is_a_key(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAIN_")}
    environment |= {"DAIN_STATE_DIR": str(tmp_path / "state"), "DAIN_DEVICE": "cpu"}
    command = [sys.executable, "-m", "service.cli", "up", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    advice = re.search(r"`(DAIN_KEYS_FILE=\S+ dain keys add) NAME`", done.stderr)
    assert advice and "DAIN_OPEN=true" in done.stderr
    given = Settings(state_dir=tmp_path / "state", host="0.0.0.0")
    assert given.keys_file is not None and str(given.keys_file) in advice[1]
    FileKeys(given.keys_file).put(Key.new("ann", ["read"])[0])
    up.check_keys(given)
    environment = up._environment(given, tmp_path, "token")
    assert (
        Path(environment["DAIN_KEYS_FILE"]) == given.keys_file
    )  # the API has a DAIN_REDIS_URL, and yet no keys there


def test_modules_in_the_current_folder_stand_in_for_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "worker.py").write_text("raise SystemExit('a stranger')")
    command = [*up.PYTHON, "service.bound", *up.PYTHON, "worker.main", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_little_room_is_told_of_before_anything_is_started(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.state_dir.mkdir()
    monkeypatch.setattr(up, "memory_left", lambda: up.LEAST_MEMORY)
    up.warn_of_little_room(settings)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(up, "LEAST_DISK", 2**60)
    monkeypatch.setattr(up, "memory_left", lambda: 300 * 2**20)
    up.warn_of_little_room(settings.model_copy(update={"min_free_bytes": 2**60}))
    store, folder, memory = capsys.readouterr().err.splitlines()
    assert "takes no job below 1.0EiB (DAIN_MIN_FREE_BYTES)" in store and str(settings.store_url) in store
    assert f"disk of {settings.state_dir} has" in folder and "--state-dir" in folder
    assert "300.0MiB of memory are free" in memory and "dain edge" in memory


def test_the_memory_that_is_left_is_less_than_all() -> None:
    assert 0 < up.memory_left() < up.main_memory()


def test_the_page_is_opened_in_the_users_browser_once_the_service_is_ready(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(up.webbrowser, "open", lambda url: opened.append(url) or True)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for is_ready, is_page_wanted in ((False, True), (True, False), (True, True)):
        monkeypatch.setattr(
            up, "_await_readiness", lambda ended, *_, ready=is_ready: ended.wait() == 0 and ready
        )
        with subprocess.Popen(["true"]) as ended:
            up._attend(ended, io.StringIO(), settings, "token", is_page_wanted)
    assert opened == [f"http://127.0.0.1:{settings.port}"]


def test_a_machine_without_a_browser_is_told_where_the_page_is() -> None:
    code = "from service.up import open_page; open_page('http://127.0.0.1:8000')"
    nothing = {"PATH": "/nowhere", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run([sys.executable, "-c", code], env=nothing, capture_output=True, text=True)
    assert done.stderr == "There is no browser here to open http://127.0.0.1:8000 with.\n"


def test_a_program_that_ends_unasked_is_named_once_in_a_while(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = settings.state_dir / "logs"
    logs.mkdir(parents=True)
    endings_of = up.Logs(logs)
    (logs / "worker-0.log").write_text("MemoryError\n")
    line = "2026 WARN exited: worker-0 (terminated by SIGKILL; not expected)\n"
    events, now = io.StringIO(2 * line), 0.0
    monkeypatch.setattr(up.time, "monotonic", lambda: now)
    endings = up.Endings(events, endings_of)
    for again, passed, told in (("", 0.0, 1), (line, 1.0, 0), (line, up.QUIET_SECONDS, 1), ("", 600.0, 0)):
        place = events.tell()
        events.write(again)
        events.seek(place)
        now += passed
        endings.tell()
        said = capsys.readouterr().err.splitlines()
        assert len(said) == told and all("worker-0 ended" in each and "MemoryError" in each for each in said)


def test_what_ends_after_the_service_was_ready_is_told_of_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(up, "_await_readiness", lambda *_: True)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    events = io.StringIO("2026 WARN exited: api (exit status 1; not expected)\n")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as ends:
        threading.Timer(0.2, ends.communicate).start()
        up._attend(ends, up.Endings(events, up.Logs(settings.state_dir)), settings, "token", False)
    printed = capsys.readouterr()
    assert "api ended and is started again." in printed.err and printed.out == "Stopped.\n"
