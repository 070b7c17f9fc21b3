"""The TypeScript client in a browser, on a page of another origin that the service lets in."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.jobs.machine import Jobs
from service.jobs.records import State
from service.settings import Settings
from tests.api import RESULT, until

BUILT = Path(__file__).parents[2] / "clients" / "typescript" / "dist"

SCRIPT = """async ({ url, token, clip }) => {
  const { Client, InvalidRequest } = await import("/index.js")
  const client = new Client({ baseUrl: url, token })
  const bytes = Uint8Array.from(atob(clip), (letter) => letter.charCodeAt(0))
  const file = new File([bytes, new Uint8Array(9 * 2 ** 20)], "large.mp4")
  const sent = []
  const job = await client.submit(file, { target_fps: "60" }, { onProgress: (sum) => sent.push(sum) })
  const events = []
  for await (const event of client.events(job.id)) events.push(event.type)
  const done = await client.wait(job.id)
  const result = await client.download(job.id)
  const refused = await client.submit(bytes, { factor: 99 }).catch((error) => error instanceof InvalidRequest)
  return { name: job.filename, status: done.status, sent, events, size: result.size, refused }
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The origin of a page that has the client's files beside it."""
    if not (BUILT / "index.js").exists():
        pytest.skip("`make typescript` builds the TypeScript client")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(BUILT)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings(settings: Settings, elsewhere: str) -> Settings:
    return settings.model_copy(update={"cors_origins": frozenset({elsewhere})})


def test_from_upload_to_download(
    open_page: Callable[..., Any],
    elsewhere: str,
    settings: Settings,
    url: str,
    clip: Path,
    jobs: Jobs,
    finish: Callable[[str, bytes], None],
    make_key: Callable[..., dict[str, str]],
) -> None:
    key = make_key("ann")["Authorization"].removeprefix("Bearer ")
    page = open_page(base=elsewhere)
    given = {"url": url, "token": key, "clip": base64.b64encode(clip.read_bytes()).decode()}

    def work() -> None:
        until(lambda: jobs.page("ann", State.QUEUED)[0])
        finish(jobs.page("ann", State.QUEUED)[0][0].id, RESULT)

    worker = threading.Thread(target=work)
    worker.start()
    seen = page.evaluate(SCRIPT, given)
    worker.join()
    size = clip.stat().st_size + 9 * 2**20
    assert seen["sent"] == sorted(seen["sent"]) and (seen["sent"][0], seen["sent"][-1]) == (0, size)
    assert len(seen["sent"]) > 3, "it was sent in pieces"
    assert seen["events"][-1] in ("job", "job.succeeded")
    assert (seen["name"], seen["status"], seen["size"], seen["refused"]) == (
        "large.mp4", "succeeded", len(RESULT), True
    )  # fmt: skip
