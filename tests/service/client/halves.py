"""Writes `service/client/sync_client.py` of `async_client.py`: `python -m tests.service.client.halves`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[3] / "service" / "client"
MADE = CLIENT / "sync_client.py"

HEAD = '''"""The calls of the API as methods of `Client`. This module is made of `async_client`: change that one.

`python -m tests.service.client.halves` writes this one anew.
"""
'''
#: What becomes of words and phrases, in this order.
CHANGES = {
    r"AsyncIterator, Awaitable, (Callable, Iterator)": r"\1",
    r"asynccontextmanager, contextmanager": "contextmanager",
    r"Awaitable\[(\w+)\]": r"\1",
    r"\basync (def|with|for) ": r"\1 ",
    r"\bawait ": "",
    r"\basync_io\b": "sync_io",
    r"\bAsync(Client|Iterator)\b": r"\1",
    r"\basynccontextmanager\b": "contextmanager",
    r"\b__a(enter|exit)__\b": r"__\1__",
    r"\ba(close|read|iter_bytes)\b": r"\1",
}


def made() -> str:
    """The text of the module that calls block in."""
    docstring, _, body = (CLIENT / "async_client.py").read_text().partition('\n"""\n')
    text = HEAD + body
    for pattern, instead in CHANGES.items():
        text = re.sub(pattern, instead, text)
    for command in (["check", "--select", "I", "--fix-only", "--quiet"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(MADE), "-"]
        text = subprocess.run(ruff, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    MADE.write_text(made())
