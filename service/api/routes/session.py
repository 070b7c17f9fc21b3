"""The sign-in of the web page.

A browser sends no Authorization header for a picture, a video or a download. So the page has the token of a key put
into a cookie, which scripts cannot read and no other site is sent.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.auth import COOKIE, Caller, CallerDep, token_in

router = APIRouter(prefix="/session", include_in_schema=False)


class Session(BaseModel):
    """Who calls."""

    owner: str
    scopes: list[str]
    keyed: bool = Field(description="whether a key says so; else the service has none")

    @classmethod
    def of(cls, caller: Caller) -> Session:
        return cls(owner=caller.owner, scopes=sorted(caller.scopes), keyed=caller.key is not None)


@router.get("")
async def show_session(caller: CallerDep, response: Response) -> Session:
    """Says who calls."""
    response.headers["Cache-Control"] = "no-store"
    return Session.of(caller)


@router.post("")
async def sign_in(caller: CallerDep, request: Request, response: Response) -> Session:
    """Keeps the token of the header Authorization in a cookie, until the browser is closed."""
    response.headers["Cache-Control"] = "no-store"
    if caller.key is not None:
        token = token_in(request.headers.get("authorization"))
        # A proxy may speak TLS for this service, which does not see it. The browser says what the page came by.
        secure = request.headers.get("origin", "").startswith("https://")
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
    return Session.of(caller)


@router.delete("", status_code=204)
async def sign_out(caller: CallerDep) -> Response:
    """Removes the cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response
