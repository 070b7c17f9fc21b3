"""Refuses what a web page of another site makes a browser send.

A service without keys trusts its own machine, so a browser there must not act on it for a stranger's page.
Three headers that no page can forge tell such requests apart:

- `Host`. A page whose own name is made to point here (DNS rebinding) sends that name.
- `Origin`. Browsers send it with every request that may change something.
- `Sec-Fetch-Site`. Browsers send it with every request.

Other clients send a Host that they were given, and neither of the latter two.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import problem_response
from service.jobs.problems import Problem
from service.settings import Settings

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SAME_SITE = frozenset({"same-origin", "none"})  # none: an address that was typed, or a bookmark

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")


class Guard:
    """The names under which the service answers, and the test of each request against them.

    `host` is the address that the API listens on, `allowed_hosts` are further names, such as a proxy's. `origins` are
    those of the other sites whose pages may call all the same.
    """

    def __init__(self, host: str, allowed_hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)
        self._configured = frozenset(allowed_hosts)
        self._names = LOOPBACK | self._configured | {host.lower()}
        self._any_address = _is_unspecified(host)

    def check(self, request: Request) -> None:
        """Raises Problem 403 where `request` names an unknown host or comes from a page of another site."""
        hosts = request.headers.getlist("host")
        for host in hosts:
            if not self._is_ours(_hostname(host)):
                raise unknown_host(host)
        origins = request.headers.getlist("origin")
        if origins and self._origins.issuperset(origins):
            return
        for origin in origins:
            if not self._is_own_page(origin, hosts):
                raise cross_site(f"The header Origin is {origin!r:.100}")
        site = request.headers.get("sec-fetch-site", "none")
        if site not in SAME_SITE and not _follows_a_link(request):
            raise cross_site(f"The header Sec-Fetch-Site is {site!r:.100}")

    def _is_ours(self, hostname: str | None) -> bool:
        """Whether the service answers under this name.

        A service that listens on every address cannot know them all. An address in the Host header is no danger:
        a page can be under a stranger's name, but not under this machine's address.
        """
        return hostname is not None and (
            hostname in self._names or (self._any_address and _is_address(hostname))
        )

    def _is_own_page(self, origin: str, hosts: list[str]) -> bool:
        """Whether a page of this `origin` is one of the service's own, as the browser or as a proxy calls it."""
        authority = origin.lower().partition("://")[2]
        return authority in map(str.lower, hosts) or _hostname(authority) in self._configured


class GuardMiddleware:
    """Answers with the problem that `Guard` finds, and calls `app` where it finds none."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.guard = Guard(settings.host, settings.allowed_hosts, settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        try:
            self.guard.check(request)
        except Problem as problem:
            return await problem_response(problem, request)(scope, receive, send)
        await self.app(scope, receive, send)


def unknown_host(host: str) -> Problem:
    return Problem(
        "unknown-host",
        f"The header Host is {host!r:.100}, which is no name of this service. Use an address that it listens on, or "
        "add the name to DAIN_ALLOWED_HOSTS on the service's machine.",
    )


def cross_site(what: str) -> Problem:
    return Problem(
        "cross-site-request",
        f"{what}: a web page of another site made the browser send this request, and such requests are refused. "
        "Where the page is yours, add its origin to DAIN_CORS_ORIGINS on the service's machine, or serve it and the "
        "API under one name through a proxy.",
    )


def _follows_a_link(request: Request) -> bool:
    """Whether a person follows a link to here. Such a request changes nothing, and no page can read the answer."""
    return (
        request.method in ("GET", "HEAD")
        and request.headers.get("sec-fetch-mode") == "navigate"
        and request.headers.get("sec-fetch-dest") == "document"
    )


def _hostname(authority: str) -> str | None:
    """The name in `authority`, in lower case and without port and brackets; None where it is malformed."""
    match = _AUTHORITY.fullmatch(authority)
    return match and (match[1] or match[2]).lower()


def _is_address(hostname: str) -> bool:
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return False
    return True


def _is_unspecified(host: str) -> bool:
    """Whether listening on `host` means listening on every address of the machine."""
    return host == "" or (_is_address(host) and ipaddress.ip_address(host).is_unspecified)
