"""The web page: the files in `service/web`, which `npm run build` makes of the sources in `web`."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from functools import lru_cache
from gzip import compress
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from service.api.views import is_named

router = APIRouter(include_in_schema=False)

BUILT = Path(__file__).parents[2] / "web"
#: No script, style, picture or request of any other place, and nothing inline. The page draws pictures of files that it
#: was given (blob:) and of data that it was sent (data:).
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
FRESH = "no-cache"  # may be kept, and is asked for by its ETag each time
FOREVER = "public, max-age=31536000, immutable"  # the name has a hash of the content


@dataclass(frozen=True)
class File:
    """A file as it is sent."""

    content: bytes
    packed: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, content: bytes, name: str) -> File:
        """The file of this content; its name says what it is."""
        return cls(
            content,
            packed=compress(content, mtime=0),
            media_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
            etag=f'W/"{hashlib.sha256(content).hexdigest()[:32]}"',
        )


@lru_cache
def read_files(folder: Path = BUILT) -> dict[str, File]:
    """The files below `folder` by their path in it. They are few and small, and stay in memory."""
    return {
        path.relative_to(folder).as_posix(): File.of(path.read_bytes(), path.name)
        for path in folder.rglob("*")
        if path.is_file()
    }


@router.head("/")
@router.get("/")
def show_page(request: Request) -> Response:
    """The page."""
    return send(request, read_files().get("index.html"), FRESH)


@router.head("/assets/{name}")
@router.get("/assets/{name}")
def show_asset(request: Request, name: str) -> Response:
    """A script, style or picture of the page."""
    return send(request, read_files().get(f"assets/{name}"), FOREVER)


def send(request: Request, file: File | None, caching: str) -> Response:
    """Answers with `file`; 404 where there is none."""
    if file is None:
        raise HTTPException(404)
    headers = HEADERS | {"Cache-Control": caching, "ETag": file.etag, "Vary": "Accept-Encoding"}
    if is_named(file.etag, request.headers.get("if-none-match")):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            file.packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=file.media_type
        )
    return Response(file.content, headers=headers, media_type=file.media_type)
