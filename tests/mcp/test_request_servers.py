"""Servers that requests bring along, over real ports: who shares them, and who sees secrets."""

import asyncio
import gc
import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from smg.errors import InvalidRequest, RateLimited, ToolServerError
from smg.mcp.request_servers import PoolLimits, RequestServer, RequestServers
from smg.testing.tools import new_server
from smg.turn import ToolResult
from tests.mcp.raw_server import INITIALIZED, tool
from tests.mcp.servers import down_spec, served
from tests.mcp.test_egress import PUBLIC, Internet, Names, canary

BOUND = 20.0
USUAL = PoolLimits()


@asynccontextmanager
async def allowing(
    *hosts: str, limits: PoolLimits = USUAL, **options: Any
) -> AsyncGenerator[RequestServers, None]:
    hosts = hosts or ("127.0.0.1",)
    servers = RequestServers(hosts, lambda: 7, limits=limits, **options)
    try:
        yield servers
    finally:
        await servers.close()


@dataclass
class Recorder:
    """A tool server that knows who has come to it with which headers."""

    opened: list[str] = field(default_factory=list)
    """The credential each session was opened with."""
    mixed: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        methods = ["GET", "POST", "DELETE"]
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=methods)])

    async def answer(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        credential = request.headers.get("authorization", "")
        session = request.headers.get("mcp-session-id")
        if session is not None and self.opened[int(session)] != credential:
            self.mixed.append(credential)
        if request.method == "DELETE":
            self.left.set()
        if request.method != "POST":
            return PlainTextResponse("", status_code=405)
        message = await request.json()
        if "id" not in message:
            return PlainTextResponse("", status_code=202)
        return await self.answer_message(message, credential)

    async def answer_message(self, message: dict[str, Any], credential: str) -> Response:
        match message["method"]:
            case "initialize":
                self.opened.append(credential)
                headers = {"mcp-session-id": str(len(self.opened) - 1)}
                return JSONResponse(reply(message, INITIALIZED), headers=headers)
            case "tools/list":
                return JSONResponse(reply(message, {"tools": [tool("whoami"), tool("hold")]}))
            case "tools/call":
                if message["params"]["name"] == "hold":
                    self.held.set()
                    await self.release.wait()
                said = [{"type": "text", "text": credential}]
                return JSONResponse(reply(message, {"content": said}))
        return PlainTextResponse("", status_code=400)


def reply(request: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


@pytest.mark.parametrize("transport", ["mcp", "sse"])
async def test_a_server_named_by_a_request_is_listed_and_called(transport: str) -> None:
    server = new_server()
    app = server.sse_app() if transport == "sse" else server.streamable_http_app()
    async with served(app) as url, allowing() as servers:
        opened = await servers.open("calc", f"{url}/{transport}", owner="me")
        tools = await opened.tools()
        result = await opened.call("add", '{"a": 1, "b": 2}')
        wrong = await opened.call("add", "[]")
    assert [tool.name for tool in tools][:2] == ["add", "multiply"]
    assert result == ToolResult(output="3")
    assert wrong.error is not None
    assert "must be a JSON object" in wrong.error.message


async def test_credentials_reach_the_server_and_are_told_to_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    recorder = Recorder()
    async with served(recorder.app()) as url, allowing() as servers:
        opened = await servers.open(
            "x",
            f"{url}/mcp?key=sk-query",
            authorization="sk-token",
            headers={"X-Key": "sk-header"},
            owner="sk-owner",
        )
        said = await opened.call("whoami", "{}")
        shown = repr([vars(opened), vars(servers)]) + str(opened.spec)
    assert said == ToolResult(output="Bearer sk-token")
    assert all(headers["x-key"] == "sk-header" for headers in recorder.headers)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("smg")]
    for secret in ("sk-query", "sk-token", "sk-header"):
        assert secret not in shown
        assert secret not in "\n".join(lines)
    assert "sk-header" not in caplog.text
    assert "Bearer" not in "".join(lines)


async def test_a_server_that_tells_its_key_in_an_error_is_not_quoted_with_it() -> None:
    async def tell(request: Request) -> Response:
        error = {"code": -32001, "message": f"not with {request.headers['authorization']}"}
        message = await request.json()
        return JSONResponse({"jsonrpc": "2.0", "id": message.get("id"), "error": error})

    app = Starlette(routes=[Route("/mcp", tell, methods=["POST"])])
    async with served(app) as url, allowing() as servers:
        with pytest.raises(ToolServerError, match=r"not with \*\*\*") as raised:
            await servers.open("x", f"{url}/mcp", authorization="sk-token", owner="")
    assert raised.value.status == 424
    assert "sk-token" not in raised.value.message


async def test_connections_are_shared_by_what_is_equal_in_everything() -> None:
    recorder = Recorder()
    async with served(recorder.app()) as url, allowing() as servers:
        common: dict[str, Any] = {"authorization": "a", "owner": "me"}
        for _ in range(3):
            await servers.open("x", f"{url}/mcp", **common)
        assert len(recorder.opened) == 1
        await servers.open("x", f"{url}/mcp", authorization="Bearer a", owner="me")
        assert len(recorder.opened) == 1
        await servers.open("x", f"{url}/mcp", **common | {"owner": "you"})
        await servers.open("x", f"{url}/mcp", **common | {"authorization": "b"})
        await servers.open("x", f"{url}/other", **common)
        await servers.open("y", f"{url}/mcp", **common)
        await servers.open("x", f"{url}/mcp", headers={"X-Tenant": "1"}, **common)
        assert len(recorder.opened) == 6


async def test_two_tenants_on_one_server_never_share_a_session() -> None:
    recorder = Recorder()

    async def work(servers: RequestServers, url: str, tenant: str) -> None:
        opened = await servers.open("x", url, authorization=tenant, owner=tenant)
        assert (await opened.call("whoami", "{}")).output == f"Bearer {tenant}"

    async with served(recorder.app()) as url, allowing() as servers:
        tenants = ["one", "two"] * 50
        await asyncio.gather(*(work(servers, f"{url}/mcp", tenant) for tenant in tenants))
    assert sorted(recorder.opened) == ["Bearer one", "Bearer two"]
    assert recorder.mixed == []


async def test_what_nobody_uses_is_closed_and_opens_again_when_called() -> None:
    recorder = Recorder()
    async with served(recorder.app()) as url, allowing(limits=PoolLimits(idle_s=0.05)) as servers:
        opened = await servers.open("x", f"{url}/mcp", owner="")
        with anyio.fail_after(BOUND):
            await recorder.left.wait()
        assert (await opened.call("whoami", "{}")).error is None
    assert len(recorder.opened) == 2


async def test_a_call_that_takes_longer_than_the_idle_time_is_not_cut() -> None:
    recorder = Recorder()
    async with served(recorder.app()) as url, allowing(limits=PoolLimits(idle_s=0.02)) as servers:
        opened = await servers.open("x", f"{url}/mcp", owner="")
        calling = asyncio.create_task(opened.call("hold", "{}"))
        with anyio.fail_after(BOUND):
            await recorder.held.wait()
            with anyio.move_on_after(0.1):  # Several times the idle time.
                await recorder.left.wait()
            recorder.release.set()
            assert (await calling).error is None


async def test_the_least_recently_used_makes_room_and_what_is_in_use_stays() -> None:
    recorder = Recorder()
    async with served(recorder.app()) as url, allowing(limits=PoolLimits(capacity=2)) as servers:
        one = await servers.open("one", f"{url}/mcp", owner="")
        two = await servers.open("two", f"{url}/mcp", owner="")
        assert (await one.call("whoami", "{}")).error is None
        await servers.open("three", f"{url}/mcp", owner="")  # Closes two.
        await servers.open("one", f"{url}/mcp", owner="")
        assert len(recorder.opened) == 3
        assert (await two.call("whoami", "{}")).error is None
        assert len(recorder.opened) == 4
        holding = [asyncio.create_task(s.call("hold", "{}")) for s in (one, two)]
        with anyio.fail_after(BOUND):
            await recorder.held.wait()
            await anyio.lowlevel.checkpoint()
        with pytest.raises(RateLimited):
            await servers.open("four", f"{url}/mcp", owner="")
        refused = await RequestServer(servers, "five", one.spec).call("whoami", "{}")
        assert refused.error is not None
        assert "Too many" in refused.error.message
        recorder.release.set()
        assert [result.error for result in await asyncio.gather(*holding)] == [None, None]


async def test_a_server_that_is_down_is_an_error_and_leaves_nothing_behind() -> None:
    address = down_spec().address
    async with allowing() as servers:
        with anyio.fail_after(BOUND), pytest.raises(ToolServerError, match="'x' cannot be reached"):
            await servers.open("x", address, owner="")
        with anyio.fail_after(BOUND):
            while any(t.get_name() == "mcp x" for t in asyncio.all_tasks()):
                await anyio.lowlevel.checkpoint()
    gc.collect()


async def test_a_closed_pool_opens_nothing() -> None:
    recorder = Recorder()
    async with served(recorder.app()) as url:
        async with allowing() as servers:
            opened = await servers.open("x", f"{url}/mcp", owner="")
        result = await opened.call("whoami", "{}")
    assert result.error is not None
    assert "shutting down" in result.error.message
    assert len(recorder.opened) == 1


async def test_without_the_flag_no_server_is_reached() -> None:
    async with canary() as bird:
        servers = RequestServers((), lambda: 7)
        with pytest.raises(InvalidRequest, match="--allow-request-mcp") as raised:
            await servers.open("x", f"http://127.0.0.1:{bird.port}", owner="", path="tools[2]")
        assert raised.value.param == "tools[2].server_url"
        assert bird.connections == 0


@pytest.mark.parametrize(
    ("given", "param", "why"),
    [
        ({"headers": {"X\r\nY": "z"}}, "headers", "plain ASCII"),
        ({"headers": {"X": "y\r\nZ: 1"}}, "headers", "plain ASCII"),
        ({"headers": {"X": "é"}}, "headers", "plain ASCII"),
        ({"headers": {"X": "1", "x": "2"}}, "headers", "each name once"),
        ({"headers": {"Host": "inside"}}, "headers", "'host' is not a request's to set"),
        ({"headers": {"Cookie": "a=b"}}, "headers", "'cookie'"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers", "'transfer-encoding'"),
        ({"headers": {"Content-Length": "0"}}, "headers", "'content-length'"),
        ({"headers": {"Proxy-Authorization": "x"}}, "headers", "'proxy-authorization'"),
        ({"headers": {"X-SMG-Owner": "x"}}, "headers", "'x-smg-owner'"),
        ({"headers": {"Mcp-Session-Id": "1"}}, "headers", "'mcp-session-id'"),
        ({"headers": {"X-Forwarded-For": "1"}}, "headers", "'x-forwarded-for'"),
        ({"headers": {f"x-{n}": "1" for n in range(33)}}, "headers", "at most 32"),
        ({"headers": {"X": "y" * 20000}}, "headers", "16384 bytes"),
        ({"headers": {"Authorization": "x"}, "authorization": "sk-y"}, "headers", "beside it"),
        ({"authorization": "sk-a\r\nX: y"}, "authorization", "expected a token"),
        ({"authorization": "sk-\u00e9"}, "authorization", "expected a token"),
        ({"label": "a b"}, "server_label", "letters"),
        ({"label": ""}, "server_label", "letters"),
        ({"label": "x\nMCP server y: ready"}, "server_label", "letters"),
    ],
)
async def test_what_a_request_may_not_send_is_named_without_its_value(
    given: dict[str, Any], param: str, why: str
) -> None:
    async with canary() as bird, allowing() as servers:
        url = f"http://127.0.0.1:{bird.port}/"
        asked = {"label": "x", "url": url, "owner": "", "path": "tools[1]"} | given
        with pytest.raises(InvalidRequest, match=why) as raised:
            await servers.open(**asked)
        assert bird.connections == 0
    assert raised.value.param == f"tools[1].{param}"
    assert "sk-" not in raised.value.message


@pytest.mark.parametrize("path", ["mcp", "sse"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/", "file:///etc/passwd", "gopher:"])
async def test_no_redirect_of_a_server_is_followed(path: str, status: int, location: str) -> None:
    seen: list[str] = []
    async with canary() as bird, allowing() as servers:

        async def move(request: Request) -> Response:
            seen.append(request.url.path)
            if request.url.path == "/second":
                return RedirectResponse(location.format(port=bird.port), status_code=status)
            return RedirectResponse("/second", status_code=status)

        app = Starlette(routes=[Route("/{path:path}", move, methods=["GET", "POST"])])
        async with served(app) as url:
            for start in (path, f"second/{path}"):
                with pytest.raises(ToolServerError, match=f"HTTP {status}"):
                    await servers.open("x", f"{url}/{start}", authorization="sk-x", owner="")
        assert "/second" not in seen
        assert bird.connections == 0


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:{port}/messages",
        "//127.0.0.1:{port}/messages",
        "http://inside.test:{port}/messages",
        "file:///etc/passwd",
        "http://@127.0.0.1:{port}/messages",
    ],
)
async def test_an_sse_server_cannot_send_messages_elsewhere(endpoint: str) -> None:
    hasty = PoolLimits(connect_timeout_s=0.5)
    async with canary() as bird, allowing(limits=hasty) as servers:

        async def events(request: Request) -> Response:
            where = endpoint.format(port=bird.port)

            async def body() -> AsyncGenerator[str, None]:
                yield f"event: endpoint\ndata: {where}\n\n"
                await asyncio.Event().wait()

            return StreamingResponse(body(), media_type="text/event-stream")

        app = Starlette(routes=[Route("/sse", events)])
        async with served(app) as url:
            opening = servers.open("x", f"{url}/sse", owner="")
            with anyio.fail_after(BOUND), pytest.raises(ToolServerError):
                await opening
        assert bird.connections == 0


async def test_tls_is_spoken_with_the_name_at_the_checked_address(tmp_path: Path) -> None:
    certificate, trust = new_certificate("mcp.test", tmp_path)
    recorder = Recorder()
    async with served_tls(recorder.app(), certificate) as port:
        for name, reached in (("mcp.test", True), ("other.test", False)):
            internet = Internet(port, verify=trust)
            names = Names(default=(PUBLIC,))
            async with allowing(name, resolve=names, wire=internet) as servers:
                if reached:
                    await servers.open("x", f"https://{name}/mcp", owner="")
                else:
                    with pytest.raises(ToolServerError, match="certificate"):
                        await servers.open("x", f"https://{name}/mcp", owner="")
            assert set(internet.dialled) == {PUBLIC}
    assert {headers["host"] for headers in recorder.headers} == {"mcp.test"}


def new_certificate(name: str, folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for a name, in a file with its key, and a context that trusts it alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.now(UTC) - timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "server.pem"
    path.write_bytes(private + pem)
    return path, ssl.create_default_context(cadata=pem.decode())


@asynccontextmanager
async def served_tls(app: Starlette, certificate: Path) -> AsyncGenerator[int, None]:
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(certificate),
        timeout_graceful_shutdown=1,
    )
    started = asyncio.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(config)
    task = asyncio.create_task(server.serve())
    try:
        with anyio.fail_after(BOUND):
            await started.wait()
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task
        await server.lifespan.shutdown()  # A server that was forced to end forgets it.
