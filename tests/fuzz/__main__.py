"""Damaged videos and malformed requests for the whole service: `python -m tests.fuzz --seed 7 --number 5000`.

    requests      N malformed ones go to the API, byte by byte
    description   schemathesis makes N/10 requests a route of what the API says of itself
    videos        the prober looks into N damaged ones
    jobs          N/10 of them go to the service, which makes jobs of those that it takes

No process may die, no request may be answered with a 500, and each job must end for a reason that its client can
act on.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from service.api.probe import Prober
from service.jobs.problems import Problem
from service.settings import Settings
from tests.faults.clients import Client, Order
from tests.faults.stack import Stack, running
from tests.fuzz.clips import mutants, seeds
from tests.fuzz.requests import answer_to, requests

#: Why a damaged video may be refused, or its job fail. Everything else is the service's fault.
VERDICTS = {"unreadable-video", "unsupported-format", "no-video-stream", "damaged-video", "limit-exceeded"}
EXPLAINED = (501, 502, 503, 505, 507)  # statuses that name something else than a fault of the program
AT_ONCE = 2
MOST_OPEN = 16  # connections
MOST_SHOWN = 300  # bytes of a request
JOB_SHARE = 10


def fuzz_videos(videos: Sequence[bytes], folder: Path) -> Iterator[str]:
    """A sentence for each video of which the prober makes no verdict; prints the verdicts."""
    prober, settings, verdicts = Prober(), Settings(state_dir=folder), Counter[str]()

    def look(number: int) -> str | None:
        path = folder / f"{number}.mp4"
        path.write_bytes(videos[number])
        try:
            error = prober.look(path, settings).get("error")
        except Problem as problem:
            return f"video {number}: {problem}"
        finally:
            path.unlink()
        verdict = error["type"] if error else "taken"
        verdicts[verdict] += 1
        return None if verdict in VERDICTS | {"taken"} else f"video {number}: {error}"

    prober.start()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from filter(None, pool.map(look, range(len(videos))))
    finally:
        prober.close()
    print(f"{len(videos)} videos: {_listed(verdicts)}", flush=True)


def fuzz_jobs(stack: Stack, videos: Sequence[bytes], folder: Path) -> Iterator[str]:
    """A sentence for each video that the service refuses or fails for a reason of its own; prints the ends."""
    ends = Counter[str]()

    def send(number: int) -> str | None:
        path = folder / f"{number}.mp4"
        path.write_bytes(videos[number])
        client = Client(stack.url, Order(path), patience=600.0, refusals=frozenset(VERDICTS), deletes=True)
        client.run()
        slug = client.problem
        ends[slug or client.status] += 1
        if client.fault or (slug and slug not in VERDICTS):
            kept = Path(tempfile.gettempdir(), f"dain-fuzz-{number}.mp4")
            path.replace(kept)
            return f"{kept}: {client.fault or client.error}"
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from filter(None, pool.map(send, range(len(videos))))
    print(f"{len(videos)} jobs: {_listed(ends)}", flush=True)


def fuzz_requests(port: int, messages: Sequence[bytes]) -> Iterator[str]:
    """A sentence for each request that is answered with a 500, or not at all; prints the answers."""
    answers = Counter[str]()

    def ask(message: bytes) -> str | None:
        try:
            status, is_problem = answer_to(message, port)
        except TimeoutError:
            return f"no answer to {message[:MOST_SHOWN]!r}"
        answers[f"{status or 'closed'}{' with a problem' if is_problem else ''}"] += 1
        return (
            f"{status} is the answer to {message[:MOST_SHOWN]!r}"
            if status >= 500 and status not in EXPLAINED
            else None
        )

    with ThreadPoolExecutor(MOST_OPEN) as pool:
        yield from filter(None, pool.map(ask, messages))
    print(f"{len(messages)} requests: {_listed(answers)}", flush=True)


def fuzz_description(url: str, seed: int, examples: int) -> Iterator[str]:
    """What schemathesis finds wrong: requests made by the API's own description, and answers that it does not have."""
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{url}/openapi.json",
        "--no-color",
    ]
    command += [
        f"--seed={seed}",
        f"--max-examples={examples}",
        "--phases=coverage,fuzzing",
        "--request-timeout=120",  # machines may be busy
        "--exclude-path-regex=events$",  # which never end
    ]
    with TemporaryDirectory() as folder:  # where it keeps what it found
        expected = ["2xx", "3xx", "4xx", *EXPLAINED]
        settings = f"{_CHECKS}not_a_server_error.expected-statuses = {expected}\n" + _FORMS + _BEGINNINGS
        Path(folder, "schemathesis.toml").write_text(settings)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        yield done.stdout + done.stderr
    print(*re.findall(r"Test cases:\n.*", done.stdout), flush=True)


#: Those that its command line names hold for every operation.
_CHECKS = """[checks]
enabled = false
not_a_server_error.enabled = true
status_code_conformance.enabled = true
content_type_conformance.enabled = true
response_schema_conformance.enabled = true
"""

#: schemathesis cannot make a wrong form that holds a file: it ends with "Unsupported type: 'Binary'". Wrong forms are
#: among the malformed requests.
_FORMS = "".join(
    f'[[operations]]\ninclude-path = "{path}"\ninclude-method = "POST"\ngeneration.mode = "positive"\n'
    for path in ("/jobs", "/jobs/estimate")
)

#: By tus an upload begins with a 201 that is empty, and otherwise with a document. OpenAPI describes a status once.
_BEGINNINGS = """
[[operations]]
include-path = "/uploads"
include-method = "POST"
checks.content_type_conformance.enabled = false
checks.response_schema_conformance.enabled = false
"""


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def main() -> None:
    """Fuzz as the command line asks; ends with status 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--number", type=int, default=500)
    options = parser.parse_args()
    print(f"SEED={options.seed} N={options.number}", flush=True)
    chance, began = random.Random(options.seed), time.monotonic()
    with TemporaryDirectory() as folder, running(workers=1, disks=False) as stack:
        videos = list(islice(mutants(seeds(Path(folder)), chance), options.number))
        found = list(fuzz_requests(stack.settings.port, list(islice(requests(chance), options.number))))
        found += fuzz_description(stack.url, options.seed, options.number // JOB_SHARE)
        found += fuzz_videos(videos, Path(folder))
        found += fuzz_jobs(stack, videos[::JOB_SHARE], Path(folder))
        found += [f"{name} died" for name, program in stack.programs.items() if program.starts > 1]
        if not stack.is_ready():
            found.append("the service is not ready afterwards")
        print(f"{time.monotonic() - began:.0f} s", *found[:20], sep="\n", flush=True)
        if found:
            sys.exit(f"{len(found)} wrong. Logs: {stack.folder}/logs")


if __name__ == "__main__":
    main()
