"""What requests are made of: the service's URL, its login or token, a job's options."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import httpx

from .errors import ClientError, NotFound

_VISIBLE = re.compile(r"[!-~]+")
_ID = re.compile(r"[\w-]+", re.ASCII)
# In such a URL, what is read as the host is a part of a password that holds a / or the like.
_AT_AFTER_AUTHORITY = re.compile(r"//[^/?#]*[/?#].*@", re.DOTALL)


def parsed_url(base_url: str) -> httpx.URL:
    """The URL; ClientError where it is none. The error does not repeat it: it may hold a password."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or _AT_AFTER_AUTHORITY.search(base_url):
        raise ClientError(
            "The service's URL must look like http://127.0.0.1:8000. In a password, write @ as %40, / as %2F, : as %3A."
        )
    return url


def authorization(token: str | None, *, has_login: bool) -> dict[str, str]:
    """The header that carries `token`, or the environment's DAIN_TOKEN where it is None; empty where there is none.

    ClientError where it cannot; the error does not repeat it.
    """
    token = (os.environ.get("DAIN_TOKEN", "") if token is None else token).strip()
    if not token:
        return {}
    if has_login:
        raise ClientError(
            "The service's URL has a login, and there is a token, too (DAIN_TOKEN or --token). "
            "A request carries one of them: leave the other out."
        )
    if not _VISIBLE.fullmatch(token):  # else the error of the HTTP library would show it
        raise ClientError(
            "The token (DAIN_TOKEN or --token) is not whole: give it as `dain keys add` printed it."
        )
    return {"Authorization": f"Bearer {token}"}


def job_path(job_id: str) -> str:
    """The path of the job; NotFound where what is to be its id would lead to another place, as an empty one."""
    if not _ID.fullmatch(job_id):
        raise NotFound(f"{job_id!r} is no id of a job.")
    return f"/jobs/{job_id}"


def given(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in (options or {}).items() if value is not None}


def query_of(options: Mapping[str, Any] | None, filename: str) -> dict[str, str]:
    """The query that goes with a video of this name."""
    return {**{name: _text(value) for name, value in given(options).items()}, "filename": filename}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
