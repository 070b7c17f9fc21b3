"""The description of the API as a page. It needs no script and no other host, so it reads the same offline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

Schema = dict[str, Any]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
h2 { margin-top: 2em; border-top: 1px solid; padding-top: .5em; } h2 code { font-size: 1.1em; }
table { border-collapse: collapse; } td { padding: .1em 1em .1em 0; vertical-align: top; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8bf; } }
"""
TUS = "-H 'Tus-Resumable: 1.0.0'"
SUBMIT = "-F file=@clip.mp4 -F factor=2"
#: What curl is given for a call, where it is not a plain GET.
OPTIONS = {
    "POST /jobs": SUBMIT,
    "POST /jobs/estimate": SUBMIT,
    "POST /jobs/{job_id}/cancel": "-X POST",
    "DELETE /jobs/{job_id}": "-X DELETE",
    "GET /jobs/{job_id}/events": "-N",
    "GET /jobs/{job_id}/result": "-OJ",
    "GET /events": "-N",
    "POST /uploads": f'-i -X POST {TUS} -H "Upload-Length: $(wc -c < clip.mp4)"',
    "OPTIONS /uploads": "-i -X OPTIONS",
    "HEAD /uploads/{upload_id}": f"-I {TUS}",
    "PATCH /uploads/{upload_id}": f"-i -X PATCH {TUS} -H 'Upload-Offset: 0' "
    "-H 'Content-Type: application/offset+octet-stream' --data-binary @clip.mp4",
    "DELETE /uploads/{upload_id}": f"-X DELETE {TUS}",
}
KEY = '-H "Authorization: Bearer $DAIN_TOKEN"'
HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


@router.get("/docs")
def page(request: Request) -> HTMLResponse:
    """The page."""
    description = request.app.openapi()
    info = description["info"]
    body = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        *(f"<p>{_code(text)}</p>" for text in info["description"].split("\n\n")),
        '<p><a href="/docs/try">Try it</a> in the browser. For programs: <a href="/openapi.json">openapi.json</a>.</p>',
        *_calls(
            description["paths"], description["components"]["schemas"], str(request.base_url).rstrip("/")
        ),
    ]
    head = f"<title>{escape(info['title'])}</title><style>{STYLE}</style>"
    document = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{head}<body>{"".join(body)}</body></html>'
    )
    return HTMLResponse(document, headers=HEADERS)


def _calls(paths: Schema, schemas: Schema, base_url: str) -> Iterator[str]:
    """A section for each method of each path."""
    for path, methods in paths.items():
        for method, call in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p>{_code(call.get('description', call['summary']))}</p>"
            yield f"<pre>{escape(_example(f'{method.upper()} {path}', base_url, with_key='security' in call))}</pre>"
            yield from _table("Parameters", map(_parameter, call.get("parameters", ())))
            yield from _table("Form", _fields(call, schemas))
            yield from _table(
                "Answers", ((code, each["description"]) for code, each in sorted(call["responses"].items()))
            )


def _example(call: str, base_url: str, *, with_key: bool) -> str:
    """A call, such as "GET /jobs", as a curl command."""
    path = re.sub(r"{\w+}", "ID", call.partition(" ")[2])
    return " ".join(filter(None, ["curl", OPTIONS.get(call), KEY if with_key else None, base_url + path]))


def _parameter(parameter: Schema) -> tuple[str, str]:
    schema = parameter.get("schema", {})
    text = parameter.get("description") or schema.get("description", "")
    return f"{parameter['name']} ({parameter['in']})", text


def _fields(call: Schema, schemas: Schema) -> Iterator[tuple[str, str]]:
    form = call.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
    schema = schemas.get(form.get("$ref", "").rpartition("/")[2], {})
    for name, field in schema.get("properties", {}).items():
        yield name, field.get("description", "")


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    cells = [f"<tr><td><code>{escape(name)}</code><td>{_code(text)}" for name, text in rows]
    if cells:
        yield f"<h3>{title}</h3><table>{''.join(cells)}</table>"


def _code(text: str) -> str:
    """`text` as HTML, with what stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
