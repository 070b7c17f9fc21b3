"""How the processes of the service log: lines on standard error, without the queries of URLs.

A query may hold a secret: the signature of a presigned URL, the token of a webhook, a key that was put there wrongly.
"""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def log_to_stderr(level: str) -> None:
    """Logs from `level` on, such as "info". The access log has paths alone, and httpx does not log its requests."""
    logging.basicConfig(level=level.upper(), format=FORMAT)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs
    logging.getLogger("uvicorn.access").addFilter(leave_out_query)


def leave_out_query(record: logging.LogRecord) -> bool:
    """Leaves the query out of a line of uvicorn's access log, whose arguments are client, method, target, …"""
    if isinstance(record.args, tuple):
        client, method, target, *rest = record.args
        record.args = (client, method, str(target).partition("?")[0], *rest)
    return True
