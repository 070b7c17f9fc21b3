"""Starts the processes of a run on several GPUs, one for each GPU."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable

from torch.multiprocessing.spawn import ProcessExitedException, start_processes


def launch(work: Callable[[], None], processes: int) -> None:
    """Call `work` in several processes, which `dain_core.training.ranks.joined` connects.

    With one process, `work` is called in this process. A process that fails ends the others. SIGTERM is passed on to
    all processes, and this function waits for their ends.

    Args:
        work: a function that can be pickled. It reports its errors itself and then raises SystemExit.
        processes: the number of processes.

    Raises:
        SystemExit: a process failed.
    """
    if processes == 1:
        return work()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = start_processes(_work, (work, processes, port), processes, join=False)
    assert context is not None
    before = signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in context.processes])
    try:
        while not context.join():
            pass
    except ProcessExitedException as error:
        sys.exit(error.exit_code or 1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _work(index: int, work: Callable[[], None], processes: int, port: int) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "RANK": str(index),
        "LOCAL_RANK": str(index),
    }
    work()
