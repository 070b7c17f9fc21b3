"""Real things for every test: a Redis server, settings of their own, small videos."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import imageio_ffmpeg
import pytest
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError, ConnectionError
from redis.retry import Retry

from service.settings import Settings
from service.up import redis_server as find_redis_server
from tests import s3

# Several processes run the tests, and start more. With one thread of PyTorch in each they do not fight for the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

#: Folders whose files take longest. They run first: a long file at the end would leave the other processes idle.
FIRST = tuple(
    f"tests/{folder}/"
    for folder in (
        "e2e", "faults", "fuzz", "web", "worker", "dain_core/export", "dain_core/network", "dain_core/training",
    )
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis server that keeps nothing; the tests share it and `redis` empties it before each."""
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "redis.sock"
    where = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    options = [*where, "--save", "", "--appendonly", "no"]
    log = (folder / "log").open("wb")
    with log, subprocess.Popen([find_redis_server(), *options], stdout=log, stderr=log) as server:
        until_up = Retry(ConstantBackoff(0.05), 200, (ConnectionError, BusyLoadingError))
        with Redis(unix_socket_path=str(socket), retry=until_up) as connection:
            connection.ping()
        yield f"unix://{socket}"
        server.terminate()


@pytest.fixture
def redis(redis_server: str) -> Iterator[Redis]:
    """A connection to an empty Redis; replies are bytes, as the service has them."""
    with Redis.from_url(redis_server) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def settings(redis_server: str, redis: Redis, tmp_path: Path) -> Settings:
    """Defaults, with a state folder and an empty Redis of this test's own."""
    return Settings(state_dir=tmp_path / "state", redis_url=redis_server, min_free_bytes=1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an S3 server; see `tests.s3`."""
    with s3.serve(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> s3.Bucket:
    """An empty bucket of this test's own, and its credentials in the environment."""
    for name, value in s3.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return s3.Bucket.make(s3_server)


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a video with ffmpeg: `make_clip("name.mp4", *output_arguments)` of a moving 96x64 picture,
    12 frames at 24/s, unless `source` says otherwise."""
    folder = tmp_path_factory.mktemp("clips")

    def make(name: str, *arguments: str, source: str = "testsrc2=size=96x64:rate=24:duration=0.5") -> Path:
        made_by = hashlib.sha256(repr((arguments, source)).encode()).hexdigest()[:12]
        path = folder / made_by / name  # two tests may give different videos one name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
            command = [ffmpeg, "-nostdin", "-v", "error", "-f", "lavfi", "-i", source]
            subprocess.run([*command, "-pix_fmt", "yuv420p", *arguments, str(path)], check=True)
        return path

    return make


@pytest.fixture(scope="session")
def clip(make_clip: Callable[..., Path]) -> Path:
    """Half a second of moving picture: 96x64, 12 frames, 24/s, H.264 in MP4, no sound."""
    return make_clip("clip.mp4")


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of exported models: the stages of dain-lite. All processes of a run share it."""
    from dain_core.export.write import export
    from dain_core.weights.registry import registry

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = shared / "exports" / "dain-lite"
    with (shared / "exports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            made.parent.mkdir(exist_ok=True)
            assert export(registry()["dain-lite"], made, form="stages") > 90
    return made.parent


@pytest.fixture(scope="session")
def bikes() -> Path:
    """A real film with five cuts, fast motion and B-frames: 640x272, 250 frames, 25/s, H.264 in MP4, no sound."""
    return Path(__file__).parent / "data" / "bikes.mp4"
