"""Servers that want a token: where it comes from, and where the secret does not go."""

import asyncio
import base64
import logging
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from smg.errors import ToolServerError
from smg.mcp.oauth import TokenAuth
from smg.mcp.spec import Endpoint, OAuth, Secret, ServerSpec
from smg.turn import ToolResult
from tests.mcp.raw_server import INITIALIZED, tool
from tests.mcp.servers import connected, http_spec, served
from tests.mcp.test_egress import canary
from tests.mcp.test_request_servers import reply

BOUND = 20.0
ECHO = {"content": [{"type": "text", "text": "echo"}]}


@dataclass
class Place:
    """A tool server and its authorization server, at two ports."""

    server: str = ""
    issuer: str = ""
    token_endpoint: str = ""
    lasts: int = 3600
    issued: int = 0
    forms: list[str] = field(default_factory=list)
    secrets_seen: list[str] = field(default_factory=list)
    revoked: bool = False

    def server_app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self.serve, methods=["GET", "POST"])])

    def issuer_app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self.issue, methods=["GET", "POST"])])

    async def serve(self, request: Request) -> Response:
        if "oauth-protected-resource" in request.url.path:
            resource = {"resource": f"{self.server}/mcp", "authorization_servers": [self.issuer]}
            return JSONResponse(resource)
        if request.method != "POST":
            return PlainTextResponse("", status_code=405)
        if request.headers.get("authorization") != f"Bearer token-{self.issued}" or self.revoked:
            self.revoked = False
            return PlainTextResponse("who are you?", status_code=401)
        message = await request.json()
        answers: dict[str, dict[str, Any]] = {
            "initialize": INITIALIZED,
            "tools/list": {"tools": [tool("echo")]},
            "tools/call": ECHO,
        }
        if message["method"] not in answers:
            return PlainTextResponse("", status_code=202 if "id" not in message else 400)
        return JSONResponse(reply(message, answers[message["method"]]))

    async def issue(self, request: Request) -> Response:
        if request.url.path != "/token":
            metadata = {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": self.token_endpoint,
                "response_types_supported": ["code"],
            }
            return JSONResponse(metadata)
        _, _, account = request.headers["authorization"].partition(" ")
        self.secrets_seen.append(base64.b64decode(account).decode())
        self.forms.append((await request.body()).decode())
        self.issued += 1
        token = {"access_token": f"token-{self.issued}", "token_type": "Bearer"}
        return JSONResponse(token | {"expires_in": self.lasts})

    def spec(self, **where: str | None) -> ServerSpec:
        oauth = OAuth(client_id="smg", client_secret=Secret("sk-secret"), scope="read", **where)
        endpoint = Endpoint(url=Secret(f"{self.server}/mcp"), oauth=oauth)
        return http_spec("", transport=endpoint, timeout_s=BOUND)


async def test_a_token_is_got_from_the_issuer_the_operator_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    place = Place()
    async with served(place.server_app()) as server, served(place.issuer_app()) as issuer:
        place.server, place.issuer, place.token_endpoint = server, issuer, f"{issuer}/token"
        async with connected(place.spec(issuer=issuer)) as connection:
            assert await connection.call("echo", {}) == ToolResult(output="echo")
            shown = f"{connection.spec} {vars(connection)}"
    assert place.secrets_seen == ["smg:sk-secret"]
    assert "grant_type=client_credentials" in place.forms[0]
    for secret in ("sk-secret", "token-1"):
        assert secret not in shown
        assert secret not in caplog.text


async def test_the_secret_is_shown_to_no_other_issuer() -> None:
    place = Place()
    async with served(place.server_app()) as server, served(place.issuer_app()) as issuer:
        place.server, place.issuer, place.token_endpoint = server, issuer, f"{issuer}/token"
        async with connected(place.spec(issuer="https://auth.test")) as connection:
            with anyio.fail_after(BOUND), pytest.raises(ToolServerError, match="cannot be reached"):
                await connection.tools()
    assert place.secrets_seen == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"])
async def test_a_token_endpoint_inside_that_nobody_wrote_is_not_reached(host: str) -> None:
    place = Place()
    async with (
        served(place.server_app()) as server,
        served(place.issuer_app()) as issuer,
        canary() as bird,
    ):
        place.server, place.issuer = server, issuer
        place.token_endpoint = f"http://{host}:{bird.port}/token"
        async with connected(place.spec(issuer=issuer)) as connection:
            with anyio.fail_after(BOUND), pytest.raises(ToolServerError, match="public internet"):
                await connection.tools()
        assert bird.connections == 0


async def test_one_token_from_its_url_serves_all_calls() -> None:
    place = Place()
    async with served(place.server_app()) as server, served(place.issuer_app()) as issuer:
        place.server = server
        async with connected(place.spec(token_url=f"{issuer}/token")) as connection:
            calls = [connection.call("echo", {}) for _ in range(5)]
            assert await asyncio.gather(*calls) == [ToolResult(output="echo")] * 5
    assert place.secrets_seen == ["smg:sk-secret"]
    assert place.forms == ["grant_type=client_credentials&scope=read"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_token_is_not_sent_after_its_end() -> None:
    place, clock = Place(lasts=100), Clock()
    account = OAuth(client_id="smg", client_secret=Secret("sk-secret"))
    message = {"id": 1, "method": "tools/list"}
    async with served(place.server_app()) as server, served(place.issuer_app()) as issuer:
        auth = TokenAuth(account, f"{issuer}/token", clock)
        async with httpx2.AsyncClient(auth=auth, trust_env=False) as client:
            for clock.now, issued in ((0.0, 1), (69.0, 1), (70.0, 2), (139.0, 2)):
                answer = await client.post(f"{server}/mcp", json=message)
                assert (answer.status_code, place.issued) == (200, issued)


async def test_a_token_that_is_refused_is_replaced_once() -> None:
    place = Place()
    async with served(place.server_app()) as server, served(place.issuer_app()) as issuer:
        place.server = server
        async with connected(place.spec(token_url=f"{issuer}/token")) as connection:
            assert await connection.call("echo", {}) == ToolResult(output="echo")
            place.revoked = True
            assert await connection.call("echo", {}) == ToolResult(output="echo")
    assert place.issued == 2


@pytest.mark.parametrize("path", ["metadata", "mcp-no-such"])
async def test_an_answer_without_a_token_is_an_error_that_says_so(path: str) -> None:
    place = Place()
    async with served(place.server_app()) as server, served(place.issuer_app()) as issuer:
        place.server = server
        where = f"{issuer}/{path}" if path == "metadata" else f"{server}/mcp"
        async with connected(place.spec(token_url=where)) as connection:
            with anyio.fail_after(BOUND), pytest.raises(ToolServerError, match="and no token"):
                await connection.tools()


@pytest.mark.parametrize("status", [302, 307, 308])
async def test_with_an_account_redirects_are_not_followed_either(status: int) -> None:
    seen: list[str] = []

    async def move(request: Request) -> Response:
        seen.append(request.url.path)
        return RedirectResponse("/elsewhere", status_code=status)

    place = Place()
    app = Starlette(routes=[Route("/{path:path}", move, methods=["GET", "POST"])])
    async with served(app) as server, served(place.issuer_app()) as issuer:
        place.server = server
        for token_url in (f"{issuer}/token", f"{server}/token"):
            async with connected(place.spec(token_url=token_url)) as connection:
                with anyio.fail_after(BOUND), pytest.raises(ToolServerError, match=f"{status}"):
                    await connection.tools()
    assert set(seen) == {"/mcp", "/token"}
