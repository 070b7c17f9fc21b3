"""The API and the janitor in one process, as `dain edge` runs them: `python -m service.together`.

A process of its own takes the janitor 34 MB. What ends either ends both, and the supervisor starts them again.
"""

from __future__ import annotations

import os
import signal
import threading

from service import traces
from service.api.app import serve
from service.jobs import janitor
from service.logs import log_to_stderr
from service.settings import Settings, read_settings


def main() -> None:
    """Serves and sweeps until SIGTERM or SIGINT."""
    settings = read_settings()
    log_to_stderr(settings)
    traces.start("api")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            number, lambda *_: stop.set()
        )  # called when the server has ended: until then it has its own
    sweeping = threading.Thread(target=_sweep, args=(settings, stop), name="janitor")
    sweeping.start()
    try:
        serve(settings)
    finally:
        stop.set()
        sweeping.join()


def _sweep(settings: Settings, stop: threading.Event) -> None:
    try:
        janitor.sweep(settings, stop)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # an error ends the server, too


if __name__ == "__main__":
    main()
