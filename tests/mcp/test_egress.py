"""The guard against requests that reach what they must not: nothing here may touch the canary."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import pytest

from smg.errors import GatewayError, InvalidRequest, ToolServerError
from smg.mcp.egress import MAX_BODY_BYTES, Blocked, EgressTransport, is_public, look_up
from smg.mcp.request_servers import RequestServers
from smg.mcp.spec import Endpoint

PUBLIC = "93.184.215.14"


@dataclass
class Canary:
    """A listener on this machine that nobody may connect to."""

    port: int = 0
    connections: int = 0


@asynccontextmanager
async def canary() -> AsyncGenerator[Canary, None]:
    bird = Canary()

    async def caught(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bird.connections += 1
        writer.close()

    server = await asyncio.start_server(caught, "0.0.0.0", 0)
    bird.port = server.sockets[0].getsockname()[1]
    async with server:
        yield bird


@dataclass
class Names:
    """A resolver for tests: each look-up of a name takes its next answer, the last one for ever."""

    answers: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    default: Sequence[str] = ("127.0.0.1",)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        queue = self.answers.get(host, [self.default])
        return queue.pop(0) if len(queue) > 1 else queue[0]


@dataclass
class Internet:
    """Carries what goes to public addresses to a port of this machine; no other."""

    port: int
    verify: ssl.SSLContext | bool = True
    dialled: list[str] = field(default_factory=list)
    unreachable: frozenset[str] = frozenset()

    def __call__(self, endpoint: Endpoint | None = None) -> httpx2.AsyncBaseTransport:
        return _Carrier(self, httpx2.AsyncHTTPTransport(verify=self.verify))


class _Carrier(httpx2.AsyncBaseTransport):
    def __init__(self, internet: Internet, inner: httpx2.AsyncHTTPTransport) -> None:
        self._internet, self._inner = internet, inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._internet.dialled.append(request.url.host)
        if request.url.host in self._internet.unreachable:
            raise httpx2.ConnectError("no route")
        if is_public(request.url.host):
            place = {"host": "127.0.0.1", "port": self._internet.port}
            request = httpx2.Request(
                request.method,
                request.url.copy_with(**place),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2606:4700::1%lo",
    "localhost",
    "",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_no_request_reaches_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)
    async with canary() as bird:
        names = Names({"name.test": [(address,)], "mixed.test": [(PUBLIC, address)]})
        transport = EgressTransport(resolve=names)
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            for host in ("name.test", "mixed.test"):
                with pytest.raises(Blocked, match=f"'{host}' is not on the public internet"):
                    await client.get(f"http://{host}:{bird.port}/")
        assert bird.connections == 0


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_public_addresses_are_told_apart(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "localhost", "[::1]"],
)
async def test_every_spelling_of_this_machine_is_refused_with_the_real_resolver(host: str) -> None:
    async with canary() as bird:
        transport = EgressTransport()
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            with pytest.raises((httpx2.ConnectError, httpx2.InvalidURL)):
                await client.get(f"http://{host}:{bird.port}/")
        assert bird.connections == 0


HOSTILE = [
    # Addresses in every spelling.
    "https://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/",
    "https://2130706433:{port}/",
    "https://0x7f000001:{port}/",
    "https://0x7f.0.0.1:{port}/",
    "https://0177.0.0.1:{port}/",
    "https://017700000001:{port}/",
    "https://127.1:{port}/",
    "https://127.0.1:{port}/",
    "https://0:{port}/",
    "https://0.0.0.0:{port}/",
    "https://00000000177.0.0.1:{port}/",
    "https://[::1]:{port}/",
    "https://[::]:{port}/",
    "https://[0:0:0:0:0:0:0:1]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/",
    "https://[::ffff:7f00:1]:{port}/",
    "https://[::ffff:169.254.169.254]/latest/meta-data/",
    "https://[64:ff9b::7f00:1]:{port}/",
    "https://[2002:7f00:1::]:{port}/",
    "https://[::1%25lo]:{port}/",
    "https://169.254.169.254/latest/meta-data/",
    "https://metadata.google.internal/",
    "https://100.100.100.200/",
    "https://localhost:{port}/",
    "https://LOCALHOST:{port}/",
    "https://localhost.:{port}/",
    "https://127.0.0.1.nip.test:{port}/",
    "https://①②⑦.⓪.⓪.①:{port}/",
    "https://127。0。0。1:{port}/",
    # The allowed name, and yet not.
    "https://allowed.test/",
    "https://ALLOWED.test/",
    "https://allowed.test:443/mcp",
    "https://allowed.test.:443/",
    "https://allowed.test:{port}/",
    "http://allowed.test/",
    "http://allowed.test:{port}/",
    "https://allowed.test@127.0.0.1:{port}/",
    "https://allowed.test:443@127.0.0.1:{port}/",
    "https://allowed.test%40127.0.0.1:{port}/",
    "https://allowed.test%2f@127.0.0.1:{port}/",
    "https://me:secret@allowed.test/",
    "https://@allowed.test/",
    "https://127.0.0.1:{port}\\@allowed.test/",
    "https://127.0.0.1:{port}\\.allowed.test/",
    "https://allowed.test\\@127.0.0.1:{port}/",
    "https:\\\\127.0.0.1:{port}/",
    "https:/\\127.0.0.1:{port}/",
    "https://allowed.test\t@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}\t.allowed.test/",
    "https://127.0.0.1:{port}#@allowed.test/",
    "https://127.0.0.1:{port}?@allowed.test/",
    "https://127.0.0.1:{port};allowed.test/",
    "https://allowed.test#@127.0.0.1:{port}/",
    "https://allowed.test\r\nHost: 127.0.0.1:{port}/",
    "https://allowed.test /",
    " https://allowed.test/",
    "https://allowed.test\x00.evil.test/",
    "https://allowed.test%00.evil.test/",
    "https://allowed%2etest:{port}/",
    "https://xn--allowed-.test:{port}/",
    "https://аllowed.test:{port}/",  # A Cyrillic a.
    "https://allowed.test.evil.test/",
    "https://evilallowed.test/",
    # Other schemes, and none.
    "HTTP://allowed.test/",
    "FILE:///etc/passwd",
    "file://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_",
    "ftp://allowed.test/",
    "ws://allowed.test/",
    "unix:///var/run/docker.sock",
    "jar:https://allowed.test!/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "https:127.0.0.1:{port}",
    "https://",
    "https:///127.0.0.1:{port}/",
    "https://:{port}/",
    "https://allowed.test:-1/",
    "https://allowed.test:{port}0000/",
    "https://allowed.test:443:{port}/",
    "https://[allowed.test]/",
    "",
]


@pytest.mark.parametrize("url", HOSTILE)
async def test_no_hostile_url_of_a_request_reaches_this_machine(url: str) -> None:
    """Also with a resolver in the enemy's hands, for whom every name means this machine."""
    assert len(HOSTILE) >= 60
    async with canary() as bird:
        servers = RequestServers(["allowed.test"], lambda: 7, resolve=Names())
        try:
            with pytest.raises((InvalidRequest, ToolServerError)) as raised:
                await servers.open("x", url.format(port=bird.port), owner="", path="tools[0]")
        finally:
            await servers.close()
        assert bird.connections == 0
    assert_nothing_of_the_inside_is_told(raised.value)


def assert_nothing_of_the_inside_is_told(error: GatewayError) -> None:
    if isinstance(error, ToolServerError):
        assert "'allowed.test' is not on the public internet" in error.message
        assert "127.0.0.1" not in error.message
    else:
        assert error.param == "tools[0].server_url"


async def answering(port: int = 0, *answers: bytes) -> tuple[asyncio.Server, list[bytes]]:
    """A server that answers each connection with the next of these bytes, the last for ever."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[min(len(heads), len(answers)) - 1])
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", port), heads


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def test_the_connection_goes_to_the_checked_address_under_the_name() -> None:
    server, heads = await answering(0, OK)
    async with server, canary():
        names, internet = Names({"name.test": [(PUBLIC,)]}), Internet(port_of(server))
        transport = EgressTransport(resolve=names, new_transport=internet)
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            response = await client.get("http://name.test/path?q=1")
    assert response.text == "ok"
    assert internet.dialled == [PUBLIC]
    assert names.asked == ["name.test"]
    assert heads[0].startswith(b"GET /path?q=1 HTTP/1.1\r\n")
    assert b"host: name.test\r\n" in heads[0].lower()
    assert b"accept-encoding: identity\r\n" in heads[0].lower()


async def test_a_name_that_turns_inward_is_refused_at_its_next_request() -> None:
    server, _ = await answering(0, OK)
    async with server, canary() as bird:
        names = Names({"name.test": [(PUBLIC,), ("127.0.0.1",)]})
        transport = EgressTransport(resolve=names, new_transport=Internet(port_of(server)))
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            assert (await client.get(f"http://name.test:{bird.port}/")).text == "ok"
            with pytest.raises(Blocked):
                await client.get(f"http://name.test:{bird.port}/")
        assert bird.connections == 0


async def test_the_next_address_is_tried_when_the_first_is_not_reached() -> None:
    server, _ = await answering(0, OK)
    other = "2606:4700::1111"
    async with server:
        names = Names({"name.test": [(other, PUBLIC)]})
        internet = Internet(port_of(server), unreachable=frozenset({other}))
        transport = EgressTransport(resolve=names, new_transport=internet)
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            assert (await client.post("http://name.test/", content=b"x")).text == "ok"
            assert internet.dialled == [other, PUBLIC]
            names.answers["name.test"] = [(other,)]
            with pytest.raises(httpx2.ConnectError, match="no route"):
                await client.get("http://name.test/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:{port}/", "http://inside.test:{port}/", "http://[::ffff:7f00:1]:{port}/"],
)
async def test_a_client_that_follows_redirects_is_guarded_at_each_hop(
    status: int, location: str
) -> None:
    async with canary() as bird:
        target = location.format(port=bird.port).encode()
        moved = b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, target)
        again = b"HTTP/1.1 %d Moved\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n" % status
        server, heads = await answering(0, again, moved)
        async with server:
            names = Names({"name.test": [(PUBLIC,)]})
            transport = EgressTransport(resolve=names, new_transport=Internet(port_of(server)))
            async with httpx2.AsyncClient(
                transport=transport, trust_env=False, follow_redirects=True
            ) as client:
                with pytest.raises(Blocked):
                    await client.get("http://name.test/")
        assert len(heads) == 2
        assert bird.connections == 0


async def test_a_host_the_operator_wrote_as_an_address_may_lie_inside() -> None:
    server, _ = await answering(0, OK)
    async with server:
        transport = EgressTransport(frozenset({"127.0.0.1"}), resolve=look_up)
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port_of(server)}/")).text == "ok"


async def test_an_unknown_name_is_an_error_of_the_connection() -> None:
    async def nobody(host: str, port: int) -> Sequence[str]:
        return ()

    for resolve in (nobody, look_up):
        transport = EgressTransport(resolve=resolve)
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            with pytest.raises(httpx2.ConnectError, match=r"the name 'no\.invalid'"):
                await client.get("http://no.invalid/")


async def test_a_user_in_the_url_is_not_sent_anywhere() -> None:
    async with canary() as bird:
        transport = EgressTransport(resolve=Names(default=(PUBLIC,)))
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            with pytest.raises(Blocked, match="only plain"):
                await client.get(f"http://me:pw@name.test:{bird.port}/")


async def test_a_compressed_answer_is_refused() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"
    server, _ = await answering(0, head)
    async with server:
        transport = EgressTransport(frozenset({"127.0.0.1"}))
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            with pytest.raises(httpx2.RemoteProtocolError, match="compressed"):
                await client.get(f"http://127.0.0.1:{port_of(server)}/")


async def test_an_endless_answer_ends() -> None:
    size = MAX_BODY_BYTES + 1
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    server, _ = await answering(0, head + b"x" * size)
    async with server:
        transport = EgressTransport(frozenset({"127.0.0.1"}))
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            with pytest.raises(httpx2.RemoteProtocolError, match="the answer is over"):
                await client.get(f"http://127.0.0.1:{port_of(server)}/")
