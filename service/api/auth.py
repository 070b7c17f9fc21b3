"""Who sends a request, and what a route asks of whoever calls it.

The middleware looks at the key before a route is found and before a byte of the body is read, so a route that forgets
to ask is no way in. A route names the scope that it needs by the type of an argument: `ReaderDep`, `SubmitterDep` or
`AdminDep`. It passes `caller.owner` on to whatever it reads or changes: the jobs of other owners do not exist for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from redis.exceptions import RedisError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from service.api.guard import SAME_SITE
from service.api.problems import problem_response, redis_unavailable
from service.api.service import Service
from service.jobs.keys import Key, KeysUnreadable, Quota, Scope, id_in
from service.jobs.problems import Problem
from service.jobs.records import DEFAULT_OWNER

log = logging.getLogger(__name__)

#: What anybody may ask, also where there are keys.
OPEN = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
OPEN_BELOW = ("/assets/", "/docs/")  #: what pages consist of
COOKIE = (
    "dain_token"  #: the token of a browser in which somebody has signed in: see `service.api.routes.session`
)


@dataclass(frozen=True)
class Caller:
    """Who sends a request. `owner` is the name that the jobs of the caller belong to."""

    owner: str
    scopes: frozenset[str]
    key: Key | None = None

    @property
    def quota(self) -> Quota:
        """How much of the service the caller's owner may take, by the key that was sent."""
        return self.key.quota if self.key else Quota()


#: Whoever calls a service that has no keys.
ANYBODY = Caller(DEFAULT_OWNER, frozenset(Scope))
#: Whoever asks for metrics on the port that is for them.
SCRAPER = Caller(DEFAULT_OWNER, frozenset({Scope.ADMIN}))


class AuthMiddleware:
    """Calls `app` for whoever has a key, in bounds of the key's rate; answers others with a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN or scope["path"].startswith(OPEN_BELOW):
            return await self.app(scope, receive, send)
        request = Request(scope)
        if is_scrape(request):
            request.state.caller = SCRAPER
            return await self.app(scope, receive, send)
        try:
            caller, headers = await run_in_threadpool(admit, request.app.state.service, request)
        except Problem as problem:
            return await problem_response(problem, request)(scope, receive, send)
        request.state.caller = caller

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in headers.items():  # a quota may have fields of these names, too
                    MutableHeaders(scope=message).append(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers if headers else send)


def is_scrape(request: Request) -> bool:
    """Whether `request` asks for metrics on the port that is for them."""
    port = request.app.state.service.settings.metrics_port
    if port is None or request.scope["path"] != "/metrics":
        return False
    _, reached = request.scope.get("server") or (None, None)  # a socket in the file system has no port
    return bool(reached == port)


def admit(service: Service, request: Request) -> tuple[Caller, dict[str, str]]:
    """The caller of `request`, and headers for the response; Problem 401, 429 or 503 for whoever is not let in."""
    try:
        known = service.keys.all()
        if not known and service.settings.open_without_keys:
            return ANYBODY, {}
        key = authenticate(known, request.headers.get("authorization") or cookie_of(request))
        if key.rate is None:
            return Caller(key.owner, key.scopes, key), {}
        taken = service.rates.take(key.id, key.rate)
    except KeysUnreadable as error:
        log.error("%s", error)
        raise keys_unreadable() from None
    except RedisError as error:
        raise redis_unavailable(error) from None
    if not taken.granted:
        raise Problem(
            "rate-limited",
            f"This key may send {key.rate} requests a minute; send the next one in {taken.wait} seconds.",
            headers=taken.headers,
        )
    return Caller(key.owner, key.scopes, key), taken.headers


def authenticate(known: Mapping[str, Key], header: str | None) -> Key:
    """The valid key among `known` whose token is in the Authorization header `header`; Problem 401 for any other."""
    token = token_in(header)
    key = known.get(id_in(token) or "")
    if key is None or not key.has(token):
        raise unauthorized(
            "The token that was sent belongs to no key of this service; send it whole.", wrong=True
        )
    if key.over:
        raise unauthorized(f"The key {key.id} of {key.owner} is {key.over}; use another.", wrong=True)
    return key


def token_in(header: str | None) -> str:
    """The token in the Authorization header `header`; Problem 401 where there is none."""
    if header is None:
        raise unauthorized(
            "This service asks for the token of a key: send it as `Authorization: Bearer dain_…`."
        )
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise unauthorized("The header Authorization holds no token: send `Authorization: Bearer dain_…`.")
    return token


def cookie_of(request: Request) -> str | None:
    """The Authorization header that the cookie of the web page stands for; None where the page did not send it.

    Pages of other origins, which DAIN_CORS_ORIGINS may let in, do not act for whoever is signed in here.
    """
    token = request.cookies.get(COOKIE)
    is_own = request.headers.get("sec-fetch-site", "none") in SAME_SITE
    return f"Bearer {token}" if token and is_own else None


def unauthorized(detail: str, *, wrong: bool = False) -> Problem:
    """Problem 401. Its `detail` repeats nothing of the header: what is no key here may be a password elsewhere."""
    return Problem(
        "unauthorized",
        f"{detail} Whoever runs the service makes keys with `dain keys add`.",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"' if wrong else "Bearer"},
    )


def keys_unreadable() -> Problem:
    return Problem(
        "keys-unreadable",
        "The service cannot read its list of keys, and lets nobody in until it can; its log says why. Try again later.",
        headers={"Retry-After": "30"},
    )


_bearer = HTTPBearer(
    auto_error=False,
    description="The token of a key, as `dain keys add` printed it; a service may have no keys.",
)


async def get_caller(
    required: SecurityScopes,
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],  # for the OpenAPI description
) -> Caller:
    """The caller of `request`; Problem 403 where one of the `required` scopes is missing."""
    caller: Caller = request.state.caller
    if missing := sorted(set(required.scopes) - caller.scopes):
        raise Problem(
            "forbidden",
            f"This needs a key with the scope {missing[0]}; this one has {', '.join(sorted(caller.scopes)) or 'none'}.",
        )
    return caller


#: For what other dependencies need of the caller: the route that uses them names the scope.
CallerDep = Annotated[Caller, Security(get_caller)]
ReaderDep = Annotated[Caller, Security(get_caller, scopes=[Scope.READ])]
SubmitterDep = Annotated[Caller, Security(get_caller, scopes=[Scope.SUBMIT])]
AdminDep = Annotated[Caller, Security(get_caller, scopes=[Scope.ADMIN])]
