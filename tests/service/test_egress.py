"""Requests to places that callers name, with a resolver of the test's own and real servers on this machine."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from random import Random

import httpx
import pytest
import trustme

from service import egress
from service.egress import Egress, EgressRefused, IPAddress, is_public, parse_url

PUBLIC = "93.184.215.14"


class Names:
    """A resolver that gives the answers of `turns` one after the other, and the last for ever."""

    def __init__(self, *turns: list[str]) -> None:
        self.turns = list(turns)
        self.asked = 0

    async def __call__(self, host: str) -> list[IPAddress]:
        self.asked += 1
        addresses = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        return [ip_address(address) for address in addresses]


@contextmanager
def server(tls: ssl.SSLContext | None = None, status: int = 200) -> Iterator[tuple[int, list[str]]]:
    """A server on 127.0.0.1; yields its port and the Host headers it gets."""
    hosts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers["Host"])
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        if tls:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        threading.Thread(target=listener.serve_forever, args=(0.01,)).start()
        try:
            yield listener.server_address[1], hosts
        finally:
            listener.shutdown()


def get(egress: Egress, url: str, tls: ssl.SSLContext | bool = False) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with egress.client(tls) as client:
            return await client.get(url)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # the metadata of most clouds
        "168.63.129.16",
        "192.0.0.192",
        "100.64.0.1",
        "100.100.100.200",
        "192.88.99.1",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.251",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:93.184.215.14",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2001::7f00:1",  # Teredo
        "2002:7f00:1::",  # 6to4
        "2001:db8::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(EgressRefused, match="not public"):
        get(Egress(resolve=Names([PUBLIC, address])), "https://hooks.example/")


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450::1"])
def test_an_address_of_the_public_internet_is_taken(address: str) -> None:
    guard = Egress(resolve=Names([address]))
    assert asyncio.run(guard.addresses(httpx.URL("https://x.example/"))) == [ip_address(address)]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "[::1]", "[::ffff:7f00:1]"],
)
def test_no_spelling_of_this_machine_is_taken(host: str) -> None:
    with pytest.raises(EgressRefused):
        get(Egress(), str(parse_url(f"https://{host}:1/")))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("https:///path", "https://"),
        ("example.com", "https://"),
        ("https://user:s3cret@example.com/", "leave it out"),
        ("https://exa mple.com:port/", "no URL"),
        ("https://example.com/" + "x" * 2048, "2048"),
    ],
)
def test_a_url_that_is_none_says_why(url: str, reason: str) -> None:
    with pytest.raises(EgressRefused, match=reason) as refused:
        parse_url(url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "host",
    [
        "xn--a",
        "xn--",
        "XN--999.example",
        "\u2603",
        "\ud800",
        "[::1%eth0]",
        "[v1.a]",
        "[::",
        "[",
        "%00",
        "999.1.1.1",
        "a:0",
        "a:99999",
        "a:-1",
        "a:b",
    ],
)
def test_a_host_or_port_that_is_none_is_no_url(host: str) -> None:
    with pytest.raises(EgressRefused, match="no URL"):
        parse_url(f"https://{host}/x")


@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 300, "a." * 150])
def test_a_host_that_nobody_can_have_is_not_known(host: str) -> None:
    with pytest.raises(httpx.ConnectError, match="not known"):
        get(Egress(), str(parse_url(f"https://{host}/x")))


def test_any_text_is_a_url_or_refused() -> None:
    random = Random(0)
    pieces = [
        "xn--",
        "a",
        ".",
        "%",
        "[",
        "]",
        ":",
        "@",
        "0",
        "\u00df",
        "\u0661",
        "\u200d",
        "\ud800",
        "\0",
        "/",
        "\\",
        "-",
    ]
    for _ in range(5000):
        text = "https://" + "".join(random.choices(pieces, k=random.randint(1, 8)))
        with suppress(EgressRefused):
            parse_url(str(parse_url(text))).raw_host.decode("ascii")


def test_a_url_takes_its_normal_form() -> None:
    assert str(parse_url("HTTPS://Example.COM:443/a?b=c#d")) == "https://example.com/a?b=c"


def test_plain_http_is_for_hosts_of_the_setting() -> None:
    with pytest.raises(EgressRefused, match="https://"):
        get(Egress(resolve=Names([PUBLIC])), "http://hooks.example/")
    with server() as (port, hosts):
        assert get(Egress(["127.0.0.0/8"]), f"http://127.0.0.1:{port}/").status_code == 200
        name = f"hooks.internal:{port}"
        assert (
            get(Egress(["hooks.internal"], resolve=Names(["127.0.0.1"])), f"http://{name}/").status_code
            == 200
        )
    assert hosts == [f"127.0.0.1:{port}", name]


def test_a_name_that_changes_its_address_is_resolved_once() -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])  # the second is where a connection by name would go
    with server() as (port, hosts):
        assert get(Egress(["127.0.0.1"], resolve=names), f"http://rebind.example:{port}/").status_code == 200
        with pytest.raises(EgressRefused):
            get(Egress(["127.0.0.1"], resolve=names), f"http://rebind.example:{port}/")
    assert names.asked == 2 and len(hosts) == 1


def test_the_certificate_and_its_name_are_those_of_the_host() -> None:
    authority, served, trusted = (
        trustme.CA(),
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        ssl.create_default_context(),
    )
    authority.issue_cert("hooks.example").configure_cert(served)
    authority.configure_trust(trusted)
    asked: list[str | None] = []
    served.sni_callback = lambda _, name, __: asked.append(name)
    guard = Egress(["127.0.0.1"], resolve=Names(["127.0.0.1"]))
    with server(served) as (port, hosts):
        assert get(guard, f"https://hooks.example:{port}/", trusted).status_code == 200
        with pytest.raises(httpx.ConnectError, match="certificate"):
            get(guard, f"https://other.example:{port}/", trusted)
    assert asked == ["hooks.example", "other.example"]
    assert hosts == [f"hooks.example:{port}"]


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    with server(status=302) as (port, hosts):
        assert get(Egress(["127.0.0.1"]), f"http://127.0.0.1:{port}/").status_code == 302
    assert len(hosts) == 1


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    names = Names(["127.0.0.2", "127.0.0.1"])
    with server() as (port, _):
        assert get(Egress(["127.0.0.0/8"], resolve=names), f"http://two.example:{port}/").status_code == 200


def test_a_host_that_is_not_known_is_said() -> None:
    async def fail(host: str) -> list[IPAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(httpx.ConnectError, match="x.example is not known"):
        get(Egress(resolve=fail), "https://x.example/")


def test_a_name_that_nobody_answers_for_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(host: str) -> list[IPAddress]:
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(egress, "RESOLVE_SECONDS", 0.05)
    with pytest.raises(httpx.ConnectTimeout, match="x.example"):
        get(Egress(resolve=hang), "https://x.example/")


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with server() as (port, _):
        assert get(Egress(["127.0.0.1"]), f"http://127.0.0.1:{port}/").status_code == 200
