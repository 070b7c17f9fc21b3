"""What another site's page makes a browser send is refused; what other clients and our own pages send is not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.jobs.machine import Jobs
from service.settings import Settings
from tests.api import assert_problem

JOB = f"/jobs/{'0' * 28}"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"allowed_hosts": frozenset({"dain.example.com", "api"})})


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:3000", "LocalHost", "127.0.0.1:1", "[::1]:8000", "[::1]",
        "dain.example.com", "api:8000", "DAIN.example.com:443",
    ],
)  # fmt: skip
def test_a_name_of_ours(host: str, http: httpx.Client) -> None:
    assert http.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "example.com",
        "a.dain.example.com", "169.254.169.254", "0.0.0.0", "[fe80::1]", "127.0.0.1@evil.example",
        "evil.example/127.0.0.1", "localhost:x", "localhost#", "[::1", "", ":8000",
    ],
)  # fmt: skip
def test_a_strangers_name(host: str, http: httpx.Client) -> None:
    for method, path in (("GET", "/jobs"), ("DELETE", JOB), ("POST", "/jobs"), ("GET", "/metrics")):
        problem = assert_problem(http.request(method, path, headers={"Host": host}), 403, "unknown-host")
        assert "DAIN_ALLOWED_HOSTS" in problem["detail"]


def test_a_client_too_old_to_name_a_host(url: str) -> None:
    """No browser leaves Host out; simple health checks do."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another program of this machine
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_another_sites_page_makes_no_job_and_reads_none(
    headers: dict[str, str], http: httpx.Client, clip: Path, jobs: Jobs
) -> None:
    content = clip.read_bytes()
    responses = [
        http.post("/jobs?factor=16", files={"file": ("x.mp4", content)}, headers=headers),
        http.post("/jobs", content=content, headers=headers),  # a Blob without a type: no Content-Type
        http.get("/jobs", headers=headers),
        http.delete(JOB, headers=headers),
        http.options("/jobs", headers=headers),
    ]
    for response in responses:
        assert_problem(response, 403, "cross-site-request")
        assert "Access-Control-Allow-Origin" not in response.headers
    assert jobs.counts()["queued"] == 0


def test_a_form_of_another_site_makes_no_job(http: httpx.Client, clip: Path, jobs: Jobs) -> None:
    navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    response = http.post("/jobs", files={"file": ("x.mp4", clip.read_bytes())}, headers=navigation)
    assert_problem(response, 403, "cross-site-request")
    assert http.get("/docs", headers=navigation).status_code == 200  # a person may follow a link
    assert jobs.counts()["queued"] == 0


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (None, None),  # the page that the API itself serves
        ("dain.example.com", "https://dain.example.com"),  # through a proxy that passes the name on
        ("127.0.0.1:8000", "https://dain.example.com"),  # through one that does not
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_our_own_page_may(
    host: str | None, origin: str | None, http: httpx.Client, clip: Path, url: str
) -> None:
    headers = {"Origin": origin or url, "Sec-Fetch-Site": "same-origin"} | ({"Host": host} if host else {})
    response = http.post("/jobs", files={"file": ("x.mp4", clip.read_bytes())}, headers=headers)
    assert response.status_code == 202


class TestEveryAddress:
    """A service that listens on all addresses of its machine, as in a container."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"host": "0.0.0.0"})

    def test_any_address_is_its_own(self, http: httpx.Client) -> None:
        for host in ("10.1.2.3:8000", "192.168.1.5", "[fd00::5]:8000", "localhost", "api:8000"):
            assert http.get("/healthz", headers={"Host": host}).status_code == 200
        assert_problem(http.get("/healthz", headers={"Host": "evil.example"}), 403, "unknown-host")
        headers = {"Host": "10.1.2.3:8000", "Origin": "http://10.1.2.4:8000"}
        assert_problem(http.get("/healthz", headers=headers), 403, "cross-site-request")


class TestNamedAddress:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"host": "192.168.1.5"})

    def test_only_the_address_it_listens_on(self, http: httpx.Client) -> None:
        assert http.get("/healthz", headers={"Host": "192.168.1.5:8000"}).status_code == 200
        assert_problem(http.get("/healthz", headers={"Host": "192.168.1.6:8000"}), 403, "unknown-host")


class TestAllowedSite:
    """A page of another site that the operator has named calls the API from a browser."""

    PAGE = {"Origin": "https://app.example.com", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"cors_origins": frozenset({"https://app.example.com"})})

    def test_asks_whether_it_may(self, http: httpx.Client, make_key: Callable[..., dict[str, str]]) -> None:
        make_key("ann")  # a browser asks before it sends the key
        asked = {"Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization,content-type,idempotency-key"}  # fmt: skip
        response = http.options("/jobs", headers=self.PAGE | asked)
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        for name in asked["Access-Control-Request-Headers"].split(","):
            assert name in response.headers["Access-Control-Allow-Headers"]
        stranger = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert_problem(http.options("/jobs", headers=stranger | asked), 403, "cross-site-request")

    def test_sends_and_reads(
        self, http: httpx.Client, clip: Path, make_key: Callable[..., dict[str, str]]
    ) -> None:
        ann = make_key("ann", rate=100)
        response = http.post("/jobs", content=clip.read_bytes(), headers=self.PAGE | ann)
        assert response.status_code == 202
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert response.headers["Access-Control-Expose-Headers"] == "*"
        assert "Access-Control-Allow-Credentials" not in response.headers
        refused = http.get("/jobs", headers=self.PAGE)  # the page can read the problem
        assert_problem(refused, 401, "unauthorized")
        assert refused.headers["Access-Control-Allow-Origin"] == "https://app.example.com"

    def test_and_no_other_does(self, http: httpx.Client) -> None:
        for origins in (["https://evil.example"], ["https://app.example.com", "https://evil.example"],
                        ["http://app.example.com"], ["https://app.example.com:444"]):  # fmt: skip
            headers = [("Sec-Fetch-Site", "cross-site"), *(("Origin", origin) for origin in origins)]
            response = http.get("/jobs", headers=headers)
            assert_problem(response, 403, "cross-site-request")
            assert "Access-Control-Allow-Origin" not in response.headers
        strange = self.PAGE | {"Host": "evil.example"}
        assert_problem(http.get("/jobs", headers=strange), 403, "unknown-host")


def test_without_allowed_sites_no_browser_is_told_that_it_may(http: httpx.Client) -> None:
    assert not [name for name in http.get("/jobs").headers if name.startswith("access-control")]
