"""`python -m service.bound COMMAND …` becomes COMMAND, which gets SIGTERM when its parent process dies.

supervisord cannot end its programs when it is itself killed, and an orphaned Redis would keep files of the state
folder open.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); kept across execve


def die_with_parent() -> None:
    """Makes the kernel send this process SIGTERM when its parent process ends. Linux only."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    die_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
