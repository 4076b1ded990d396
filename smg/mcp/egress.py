"""The guard at the door: HTTP requests to where somebody else chose reach public addresses only.

A request comes in, its response goes out. The name is looked up once; every address it has must be
public; the connection goes to one of these very addresses, under the name the request was for. So
what was checked is what is connected to, for each request anew: each redirect, each OAuth endpoint.
Knows nothing of MCP.
"""

import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import anyio
import httpx2

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A host and a port to the addresses to connect to, best first."""

NewTransport = Callable[[], httpx2.AsyncBaseTransport]

MAX_BODY_BYTES = 16 * 1024 * 1024

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Python's own `is_global` has changed between its versions; this list does not.
_NOT_PUBLIC: tuple[_Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # This host, and the unspecified address.
        "10.0.0.0/8",
        "100.64.0.0/10",  # Behind a carrier's NAT.
        "127.0.0.0/8",
        "168.63.129.16/32",  # Public by number: the inside of one large cloud.
        "169.254.0.0/16",  # Link-local, and the metadata of most clouds.
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # Multicast.
        "240.0.0.0/4",  # Reserved, and broadcast.
        "2001::/23",  # Teredo and other special uses.
        "2001:db8::/32",
        "2002::/16",  # An IPv4 address in disguise (6to4).
        "3fff::/20",
    )
)
# All other IPv6 is loopback, private, link-local, multicast, reserved, or IPv4 in disguise: mapped
# (::ffff:0:0/96), compatible (::/96), translated (64:ff9b::/96).
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")


class Blocked(httpx2.ConnectError):
    """Raised when a request would have reached an address it must not."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, as itself and not by translation."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and (parsed not in _PUBLIC_IPV6 or parsed.scope_id is not None):
        return False
    return not any(parsed.version == net.version and parsed in net for net in _NOT_PUBLIC)


async def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, from the system's resolver; an address is its own."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class EgressTransport(httpx2.AsyncBaseTransport):
    """A transport of httpx2 that connects to public addresses only."""

    def __init__(
        self,
        private: frozenset[str] = frozenset(),
        *,
        resolve: Resolve = look_up,
        new_transport: NewTransport = httpx2.AsyncHTTPTransport,
    ) -> None:
        """Guard requests; hosts in `private` may lie anywhere, by the operator's word."""
        self._private = private
        self._resolve = resolve
        self._new = new_transport
        # One pool a name: a connection made under one name's certificate must not carry requests
        # for another that happens to live at the same address.
        self._transports: dict[str, httpx2.AsyncBaseTransport] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request, to an address that was checked for it.

        Raises:
            Blocked: there is none.
        """
        if request.url.scheme not in ("http", "https") or request.url.userinfo:
            raise Blocked("only plain http and https URLs are reached")
        addresses = await self._checked(request.url)
        for address in addresses[:-1]:
            try:
                return await self._send(request, address)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue  # Nothing was sent: the next address may take it.
        return await self._send(request, addresses[-1])

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            await transport.aclose()

    async def _checked(self, url: httpx2.URL) -> Sequence[str]:
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = await self._resolve(url.host, port)
        except (OSError, UnicodeError) as error:
            raise httpx2.ConnectError(f"the name {url.host!r} is not known") from error
        if not addresses:
            raise httpx2.ConnectError(f"the name {url.host!r} has no address")
        if url.host not in self._private and not all(map(is_public, addresses)):
            # Which address it was is the inside's business: names of it could be probed so.
            raise Blocked(f"{url.host!r} is not on the public internet")
        return addresses

    async def _send(self, request: httpx2.Request, address: str) -> httpx2.Response:
        host = request.url.host
        transport = self._transports.get(host) or self._transports.setdefault(host, self._new())
        # `Host` is a header by now, and stays; the name that is asked for in TLS, and that the
        # certificate must have, is told apart from the address connected to.
        headers = httpx2.Headers(request.headers)
        headers["Accept-Encoding"] = "identity"
        pinned = httpx2.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        return await _bounded(await transport.handle_async_request(pinned))


async def _bounded(response: httpx2.Response) -> httpx2.Response:
    """The response, with an end to its body: a compressed or an endless one could fill the memory.

    Streams of events are let through: their reader bounds each event.
    """
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        await response.aclose()
        raise httpx2.RemoteProtocolError("the answer is compressed, which was not asked for")
    if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        return response
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    return httpx2.Response(
        response.status_code,
        headers=response.headers,
        stream=_Bounded(response.stream),
        extensions=response.extensions,
    )


class _Bounded(httpx2.AsyncByteStream):
    """A body that fails once it is larger than anybody means."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._inner:
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise httpx2.RemoteProtocolError(f"the answer is over {MAX_BODY_BYTES} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
