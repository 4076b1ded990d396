"""The tool servers over HTTP, and the configuration file read again."""

import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from smg.errors import ConfigError, GatewayError
from smg.mcp.config import load
from smg.mcp.reload import ConfigReload, reloading_at_hangup
from smg.mcp.routes import Routes
from smg.mcp.toolbox import Toolbox
from smg.web.auth import owner_check
from smg.web.errors import on_gateway_error
from tests.mcp.servers import RAW_SERVER, logged, served

BOUND = 20.0


def entry(behaviour: str = "well", **options: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": [str(RAW_SERVER), behaviour]} | options


def write(path: Path, **servers: dict[str, Any]) -> None:
    path.write_text(json.dumps({"mcpServers": servers}))


@asynccontextmanager
async def gateway(path: Path, *keys: str) -> AsyncGenerator[httpx2.AsyncClient, None]:
    toolbox = Toolbox(load(path, {}).servers, lambda: 7)
    await toolbox.start()
    reload = ConfigReload(path, {}, toolbox)
    app = FastAPI()
    routes = Routes(toolbox=toolbox, reload=reload, owner_of=owner_check(keys))
    app.include_router(routes.router())
    app.add_exception_handler(GatewayError, on_gateway_error)
    try:
        async with (
            served(app) as url,
            httpx2.AsyncClient(base_url=url, trust_env=False, timeout=BOUND) as client,
        ):
            with reloading_at_hangup(reload):
                yield client
    finally:
        await toolbox.close()


async def test_servers_are_shown_with_their_tools_and_without_their_place(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    hidden = entry(internal=True, builtin_type="file_search")
    down = entry("leaves", env={"KEY": "sk-very-secret"})
    write(path, raw=entry(), down=down, hidden=hidden)
    async with gateway(path) as client:
        answer = await client.get("/v1/mcp/servers")
    raw, left = answer.json()["data"]
    assert raw == {
        "object": "mcp.server",
        "server_label": "raw",
        "state": "ready",
        "changed_at": 7,
        "error": None,
        "required": False,
        "default": False,
        "tools": ["echo"],
        "left_out": [],
        "definitions_hash": raw["definitions_hash"],
        "breaker": "closed",
        "running": 0,
        "progress": None,
        "questions": 0,
    }
    assert left["state"] in {"down", "connecting"}
    assert "no licence for key ***" in left["error"]
    for secret in ("sk-very-secret", str(RAW_SERVER), sys.executable):
        assert secret not in answer.text


async def test_a_reload_takes_over_what_the_file_says_now(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    write(path, old=entry(), same=entry())
    async with gateway(path) as client:
        write(path, same=entry(), new=entry())
        answer = await client.post("/mcp/reload")
        shown = (await client.get("/v1/mcp/servers")).json()["data"]
    assert answer.json() == {
        "object": "mcp.reload",
        "added": ["new"],
        "removed": ["old"],
        "changed": [],
        "kept": ["same"],
    }
    assert [(server["server_label"], server["state"]) for server in shown] == [
        ("same", "ready"),
        ("new", "ready"),
    ]


async def test_a_file_with_a_mistake_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    write(path, one=entry())
    async with gateway(path) as client:
        write(path, one=entry(), two={"command": "x", "nope": 1})
        answer = await client.post("/mcp/reload")
        shown = (await client.get("/v1/mcp/servers")).json()["data"]
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_config"
    assert "mcpServers.two.nope: is not a known key" in answer.json()["error"]["message"]
    assert [server["server_label"] for server in shown] == ["one"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/mcp/servers"), ("POST", "/mcp/reload")])
async def test_who_has_no_key_learns_and_changes_nothing(
    method: str, path: str, tmp_path: Path
) -> None:
    file = tmp_path / "mcp.json"
    write(file, one=entry())
    async with gateway(file, "sk-right") as client:
        refused = await client.request(method, path, headers={"Authorization": "Bearer sk-wrong"})
        let = await client.request(method, path, headers={"Authorization": "Bearer sk-right"})
    assert (refused.status_code, let.status_code) == (401, 200)


async def test_no_request_can_add_a_process(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    write(file, one=entry())
    document = {"mcpServers": {"evil": {"command": "touch", "args": [str(tmp_path / "owned")]}}}
    async with gateway(file) as client:
        answer = await client.post("/mcp/reload", json=document)
        for method in ("POST", "PUT", "PATCH"):
            refused = await client.request(method, "/v1/mcp/servers", json=document)
            assert refused.status_code == 405
    assert answer.json()["kept"] == ["one"]
    assert not (tmp_path / "owned").exists()


async def test_hangup_reads_the_file_again(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    write(path, one=entry())
    async with gateway(path) as client:
        write(path, one=entry(), two=entry())
        with logged("MCP servers read again") as told, anyio.fail_after(BOUND):
            os.kill(os.getpid(), signal.SIGHUP)
            await told.wait()
        shown = (await client.get("/v1/mcp/servers")).json()["data"]
        assert [server["server_label"] for server in shown] == ["one", "two"]
        path.write_text("{")
        with logged("MCP servers stay as they are") as told, anyio.fail_after(BOUND):
            os.kill(os.getpid(), signal.SIGHUP)
            await told.wait()


async def test_without_a_file_there_is_nothing_to_read() -> None:
    with pytest.raises(ConfigError, match="--mcp-config-path"):
        await ConfigReload(None, {}, Toolbox((), lambda: 7))()
