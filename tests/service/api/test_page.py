"""How the API serves the web page, and the cookie that its sign-in gives."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from service.api.routes.page import POLICY, read_files
from tests.api import assert_problem

MakeKey = Callable[..., dict[str, str]]


def test_the_page_comes_from_here_alone(http: httpx.Client) -> None:
    answer = http.get("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert not re.search(r"unsafe|https?:|\*", policy)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"<style|style=|<script>|\son\w+=|https?://", answer.text)
    for link in re.findall(r'(?:src|href)="\./(assets/[^"]+)"', answer.text):
        assert http.get(f"/{link}").headers["Cache-Control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("path", ["index.html", *(name for name in read_files() if name.endswith(".js"))])
def test_what_a_browser_has_is_not_sent_again(path: str, http: httpx.Client) -> None:
    url = "/" + path.removeprefix("index.html")
    packed, plain = http.get(url), http.get(url, headers={"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip" and "Content-Encoding" not in plain.headers
    assert packed.content == plain.content == read_files()[path].content
    again = http.get(url, headers={"If-None-Match": packed.headers["ETag"]})
    assert again.status_code == 304 and not again.content
    assert http.head(url).status_code == 200


def test_the_page_is_read_and_nothing_else(http: httpx.Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = http.request(method, "/")
        assert answer.status_code == 405 and answer.headers["Allow"] == "GET, HEAD"
    assert http.get("/assets/nothing.js").status_code == 404
    assert http.get("/assets/..%2Findex.html").status_code == 404


def test_the_page_is_open_and_what_it_shows_is_not(http: httpx.Client, make_key: MakeKey) -> None:
    make_key("ann")
    for path in ("/", "/docs/try", "/docs/try/start.js", "/docs/try/swagger-ui.css"):
        assert http.get(path).headers["Content-Security-Policy"] == POLICY
    assert http.get("/docs/try/nothing.js").status_code == 404
    assert http.get("/assets/nothing.js").status_code == 404
    for method in ("GET", "POST", "DELETE"):
        assert_problem(http.request(method, "/session"), 401, "unauthorized")


def test_who_signs_in_needs_no_header_until_he_signs_out(http: httpx.Client, make_key: MakeKey) -> None:
    assert http.post("/session").json() == {
        "owner": "default",
        "scopes": ["admin", "read", "submit"],
        "keyed": False,
    }
    assert not http.cookies
    signed_in = http.post("/session", headers=make_key("ann"))
    assert signed_in.json() == {"owner": "ann", "scopes": ["read", "submit"], "keyed": True}
    cookie = signed_in.headers["Set-Cookie"].lower()
    assert (
        "httponly" in cookie
        and "samesite=strict" in cookie
        and "path=/" in cookie
        and "max-age" not in cookie
    )
    assert "secure" not in cookie
    encrypted = http.post(
        "/session", headers=make_key("ann") | {"Origin": f"https://{http.base_url.netloc.decode()}"}
    )
    assert "secure" in encrypted.headers["Set-Cookie"].lower()
    http.cookies.clear()
    http.post("/session", headers=make_key("ann"))
    assert http.get("/jobs").status_code == 200
    assert http.get("/session").json() == signed_in.json()
    http.delete("/session")
    assert_problem(http.get("/jobs"), 401, "unauthorized")


def test_the_cookie_counts_for_the_page_alone(http: httpx.Client, make_key: MakeKey) -> None:
    http.post("/session", headers=make_key("ann"))
    assert http.get("/jobs", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert_problem(
        http.get("/jobs", headers=make_key("bob") | {"Authorization": "Bearer x"}), 401, "unauthorized"
    )
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert_problem(http.get("/jobs", headers=link), 401, "unauthorized")
