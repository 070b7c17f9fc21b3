"""Swagger UI, with which a person tries the API in a browser. Its files come from here, so it works offline."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from service.api.routes.page import FRESH, File, send

router = APIRouter(prefix="/docs/try", include_in_schema=False)

PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DAIN: try the API</title>
<link rel="stylesheet" href="/docs/try/swagger-ui.css">
<div id="swagger"></div>
<script src="/docs/try/swagger-ui-bundle.js"></script>
<script src="/docs/try/start.js"></script>
</html>
"""
START = b"""SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger", deepLinking: true, validatorUrl: null })
"""


@lru_cache
def read_swagger() -> dict[str, File]:
    """The files by their names."""
    static = files("fastapi_offline") / "static"
    return {
        name: File.of((static / name).read_bytes(), name)
        for name in ("swagger-ui.css", "swagger-ui-bundle.js")
    }


@router.get("")
def show_swagger(request: Request) -> Response:
    """The page."""
    return send(request, File.of(PAGE, "page.html"), FRESH)


@router.get("/start.js")
def show_start(request: Request) -> Response:
    """What starts it: the page's policy lets no script stand in the page."""
    return send(request, File.of(START, "start.js"), FRESH)


@router.get("/{name}")
def show_file(request: Request, name: str) -> Response:
    """A script or style of Swagger UI."""
    return send(request, read_swagger().get(name), FRESH)
