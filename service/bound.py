"""`python -m service.bound COMMAND …`: become COMMAND, and get SIGTERM when the parent process dies.

supervisord cannot end its programs when it is itself killed; an orphaned Redis would keep the state folder's
files open.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); kept across execve


def die_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the one that started it ends. Linux only."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    die_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
