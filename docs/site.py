"""What MkDocs makes of the pages: the README first, references from the code, links that stay within the site."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from service.api.app import create_app
from service.jobs.problems import PROBLEMS
from service.settings import Settings

ROOT = Path(__file__).parents[1]
#: Files outside of docs/ that are pages of the site, and their names there.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "dain_core/weights/README.md": "weights.md",
    "deploy/kubernetes/README.md": "kubernetes.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, and those that the code writes."""
    made = {name: (ROOT / path).read_text() for path, name in PAGES.items()}
    made["reference/http.md"] = "\n".join(http_reference())
    made["reference/settings.md"] = "\n".join(settings_reference())
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to other pages of the site; of a link to another file of the project, leave the file's name."""
    name = page.file.src_uri
    source = {name: path for path, name in PAGES.items()}.get(name, f"docs/{name}")

    def lead(match: re.Match[str]) -> str:
        picture, text, target, place = match[1], match[2], match[3], match[4] or ""
        path = (ROOT / source).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        inside = PAGES.get(path) or path.removeprefix("docs/")
        if files.get_file_from_path(inside) is None:
            return text if path in text else f"{text} (`{path}`)"
        return f"{picture}[{text}]({'../' * name.count('/')}{inside}{place})"

    return _LINK.sub(lead, markdown)


def settings_reference() -> Iterator[str]:
    """Give the lines of the page of settings."""
    yield from ("# Settings", "", "Settings are environment variables. Sizes may be written `4GiB`.", "")
    yield from ("| variable | default | meaning |", "| --- | --- | --- |")
    for name, field in Settings.model_fields.items():
        default = "" if field.is_required() or field.default_factory else f"`{field.default}`"
        shown = "" if default in ("`None`", "``") else default
        yield f"| `DAIN_{name.upper()}` | {shown} | {_cell(field.description)} |"


def http_reference() -> Iterator[str]:
    """Give the lines of the page of the API: calls with their parameters and answers, and the kinds of problems."""
    description = create_app(Settings(redis_url="unix:///nowhere")).openapi()
    yield from (
        "# HTTP API",
        "",
        "A running service describes itself at `/openapi.json`, and shows that at `/docs`.",
        "",
    )
    for path, calls in description["paths"].items():
        for method, call in calls.items():
            yield from _call(f"{method.upper()} {path}", call, description["components"])
    yield from (
        "## Problems",
        "",
        "A refused request and a failed job carry a problem document (RFC 9457).",
        "",
    )
    yield from ("| type | status | title |", "| --- | --- | --- |")
    yield from (f"| `{slug}` | {status} | {title} |" for slug, (status, title) in PROBLEMS.items())


def _call(name: str, call: Mapping[str, Any], components: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"## `{name}`", "", call.get("description") or call.get("summary", ""), "")
    parameters = [_resolved(each, components) for each in call.get("parameters", [])]
    if parameters:
        yield from ("| parameter | in | meaning |", "| --- | --- | --- |")
        yield from (
            f"| `{each['name']}` | {each['in']} | {_cell(each.get('description'))} |" for each in parameters
        )
        yield ""
    yield from ("| status | answer |", "| --- | --- |")
    for status, answer in call["responses"].items():
        yield f"| {status} | {_cell(_resolved(answer, components).get('description'))} |"
    yield ""


def _resolved(value: Mapping[str, Any], components: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference within the description."""
    reference = value.get("$ref")
    if reference is None:
        return value
    kind, name = reference.split("/")[-2:]
    found: Mapping[str, Any] = components[kind][name]
    return found


def _cell(text: str | None) -> str:
    """Write a text so that it fits into a cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")
