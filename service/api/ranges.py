"""The Range header of a request, read as RFC 9110 has it.

Starlette's `FileResponse` sends the ranges. Its own reading takes numbers that are none (`1_0`, `+1`), answers errors
in plain text, and refuses a unit that it should ignore. `settle` leaves it a header that it reads without fault.
"""

from __future__ import annotations

import re

from fastapi import Request

from service.jobs.problems import Problem

_NUMBER = "[0-9]{1,4000}"  # Python reads no longer ones
_RANGE = re.compile(rf"({_NUMBER})-({_NUMBER})?|-({_NUMBER})")


def settle(request: Request, size_bytes: int, etag: str) -> list[tuple[int, int]]:
    """Leaves the request's Range header only ranges inside a file of `size_bytes`, or removes the header.

    It is removed, as RFC 9110 has it, where its unit is not bytes, or where If-Range names another file than `etag`.
    Returns the first and the last byte of each range that is left; nothing where the whole file is wanted. Raises
    Problem 400 where the header is malformed, and 416 where none of its ranges lies in the file.
    """
    header = request.headers.get("range", "")
    unit, _, ranges = header.partition("=")
    if unit.strip().lower() != "bytes" or request.headers.get("if-range", etag) != etag:
        _replace(request, None)
        return []
    asked = [_bounds(text.strip(), size_bytes) for text in ranges.split(",") if text.strip()]
    if not asked or None in asked:
        raise malformed(header)
    inside = [bounds for bounds in asked if bounds and bounds[0] < size_bytes]
    if not inside:
        raise Problem(
            "range-not-satisfiable",
            f"The file has {size_bytes} bytes, and the range {header!r:.100} asks for none of them.",
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )
    _replace(request, "bytes=" + ",".join(f"{first}-{last}" for first, last in inside))
    return inside


def _bounds(text: str, size_bytes: int) -> tuple[int, int] | None:
    """The first and the last byte of one range, e.g. `10-19` or `-5`; None where `text` is malformed."""
    match = _RANGE.fullmatch(text)
    if not match:
        return None
    if match[3]:
        return size_bytes - min(int(match[3]), size_bytes), size_bytes - 1
    first, last = int(match[1]), int(match[2]) if match[2] else size_bytes - 1
    return (first, min(last, size_bytes - 1)) if first <= last or not match[2] else None


def malformed(header: str) -> Problem:
    return Problem(
        "invalid-range",
        f"The Range header is {header!r:.100}; send one such as bytes=0-499, bytes=500- or bytes=-500.",
    )


def _replace(request: Request, value: str | None) -> None:
    """Sets the Range header of `request`, or removes it, for whatever reads the request's scope next."""
    headers = [(name, old) for name, old in request.scope["headers"] if name != b"range"]
    request.scope["headers"] = headers if value is None else [*headers, (b"range", value.encode())]
