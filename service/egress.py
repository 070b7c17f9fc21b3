"""Requests to places that callers name: webhooks, and videos by URL.

A caller may name what this service can reach and the caller cannot: a database, the metadata of a cloud. So every
request of this kind goes through `Egress.client`, for which these rules hold:

- The name of the host is resolved once. Each address is judged, and the connection goes to an address that was judged,
  so that a name that changes its address between the judgement and the connection changes nothing.
- A name with an address that is not public is refused, unless `DAIN_EGRESS_ALLOW` names the host or the address.
- The scheme is https; http is for hosts and addresses that the setting names.
- A redirect is not followed: it is an answer like any other. Proxies in the environment are not used.
- A URL with a name and password is refused: it would end up in records and logs.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

from service.errors import DainError

IPAddress = IPv4Address | IPv6Address
#: Gives the addresses of a host; raises OSError where there are none.
Resolve = Callable[[str], Awaitable[list[IPAddress]]]

MAX_URL = 2048  # characters
MOST_ADDRESSES = 4  # of one host that are tried
RESOLVE_SECONDS = 5.0
TIMEOUT = httpx.Timeout(15.0, connect=5.0)

_PUBLIC_V6 = ip_network("2000::/3")
#: What `ipaddress` calls global, and what is not: it leads into the network of the machine or the cloud, or into
#: another address that it carries.
_NOT_PUBLIC: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10",  # shared by the customers of a provider (RFC 6598)
        "168.63.129.16/32",  # Azure's services for its machines
        "192.0.0.0/24",  # protocols; Oracle's metadata
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # protocols, among them Teredo, which carries an IPv4 address
        "2002::/16",  # 6to4, which does as well
        "3fff::/20",  # documentation
    )
)
# A name whose server never answers holds a thread for as long as the system's resolver is patient.
_RESOLVING = ThreadPoolExecutor(64, thread_name_prefix="resolve")


class EgressRefused(DainError):
    """The service sends nothing to this URL; the text says why."""


async def resolve(host: str) -> list[IPAddress]:
    """The addresses of `host` by the system's resolver; raises OSError where there are none."""
    look_up = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_RESOLVING, look_up)
    return list(dict.fromkeys(ip_address(address[0]) for *_, address in found))


def is_public(address: IPAddress) -> bool:
    """Whether `address` belongs to the public internet, and to one machine of it."""
    if isinstance(address, IPv6Address) and address not in _PUBLIC_V6:
        return False  # private, link-local, multicast, and those that carry an IPv4 address: mapped, NAT64
    return address.is_global and not address.is_multicast and not any(address in net for net in _NOT_PUBLIC)


def no_url() -> EgressRefused:
    return EgressRefused("This is no URL: give one such as https://example.com/path.")


def parse_url(text: str) -> httpx.URL:
    """The URL of `text` in its normal form; raises EgressRefused where it is none that may be asked for."""
    if len(text) > MAX_URL:
        raise EgressRefused(f"The URL has more than {MAX_URL} characters.")
    try:
        url = httpx.URL(text)
        host = url.host  # which is decoded only now
    except (httpx.InvalidURL, UnicodeError):
        raise no_url() from None
    if "%" in host or (url.port is not None and not 0 < url.port < 1 << 16):
        raise no_url()
    if url.scheme not in ("http", "https") or not host:
        raise EgressRefused("The URL must begin with https:// and a host, as https://example.com/path does.")
    if url.userinfo:
        raise EgressRefused("The URL holds a name or password: leave it out.")
    return url.copy_with(fragment=None)


class Egress:
    """Judges where requests may go. The host names, addresses and networks in `allow` may be private, and use http."""

    def __init__(self, allow: Iterable[str] = (), *, resolve: Resolve = resolve) -> None:
        self._resolve = resolve
        self._names: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in allow:
            try:
                self._networks.append(ip_network(entry))
            except ValueError:
                self._names.add(entry)

    async def addresses(self, url: httpx.URL) -> list[IPAddress]:
        """The addresses that a request to `url` may go to.

        Raises:
            EgressRefused: the request may not be made.
            httpx.ConnectError: the host is not known.
            httpx.ConnectTimeout: the name's server does not answer.
        """
        host = parse_url(str(url)).raw_host.decode("ascii")
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await self._resolve(host)
        except TimeoutError:
            raise httpx.ConnectTimeout(f"nobody says which address {host} has") from None
        except (OSError, UnicodeError):
            raise httpx.ConnectError(f"the host {host} is not known") from None
        if host not in self._names:
            for address in found:
                self._judge(url, address)
        return found[:MOST_ADDRESSES]

    def client(self, tls: ssl.SSLContext | bool = True) -> httpx.AsyncClient:
        """A client whose requests raise EgressRefused where they may not be made. `tls` decides whom https trusts."""
        return httpx.AsyncClient(transport=_Pinned(self, tls), timeout=TIMEOUT, follow_redirects=False)

    def _judge(self, url: httpx.URL, address: IPAddress) -> None:
        if any(address in network for network in self._networks):
            return
        if not is_public(address):
            raise EgressRefused(
                f"The host {url.host} has an address that is not public. Name a public host, or have the operator of "
                "the service add this one to DAIN_EGRESS_ALLOW."
            )
        if url.scheme != "https":
            raise EgressRefused(
                "The URL must begin with https://; plain http is for hosts that DAIN_EGRESS_ALLOW names."
            )


class _Pinned(httpx.AsyncBaseTransport):
    """Connects to an address that was judged; Host header, TLS name and certificate stay those of the URL's host."""

    def __init__(self, egress: Egress, tls: ssl.SSLContext | bool) -> None:
        self._egress = egress
        # A connection is not kept: the next request may be for another name on the same address.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(verify=tls, limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        name = request.url.raw_host.decode("ascii")
        failure: httpx.TransportError = httpx.ConnectError(f"the host {name} has no address")
        for address in await self._egress.addresses(request.url):
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=str(address)),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions | {"sni_hostname": name},
            )
            try:
                return await self._transport.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:  # nothing was sent
                failure = error
        raise failure

    async def aclose(self) -> None:
        await self._transport.aclose()
