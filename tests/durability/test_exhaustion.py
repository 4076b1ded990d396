"""More comes than there are files or memory for (F32)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2

from smg.testing.engine import EngineOptions, ScriptedEngine
from smg.testing.vocabulary import MODEL_PATH
from tests.durability.world import Process
from tests.e2e.gateway import MODEL, Served, served, write_tools

FILES = 128
CONNECTIONS = FILES // 2
MIB = 1024 * 1024


@asynccontextmanager
async def cramped(folder: Path) -> AsyncIterator[Process]:
    """A gateway with stdio tools that may open few files."""
    async with ScriptedEngine(options=EngineOptions(itl_ms=20)) as engine:
        process = await Process.start(
            *("--worker-urls", engine.url, "--model-path", str(MODEL_PATH)),
            *("--database-url", str(folder / "smg.db")),
            *("--mcp-config-path", str(write_tools(folder))),
            within=("sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh"),
        )
        try:
            yield process
        finally:
            await process.end()


async def answer_to(reader: asyncio.StreamReader) -> bytes:
    with suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(65536), 5)
    return b""


async def streamed(gateway: Process, text: str, begun: asyncio.Event) -> str:
    body = {"model": MODEL, "input": text, "stream": True}
    last: dict[str, Any] = {}
    async with gateway.http.stream("POST", "/responses", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                last = json.loads(line.removeprefix("data: "))
                begun.set()
    return str(last["type"])


async def test_more_connections_than_files_harm_nobody_who_was_let_in(tmp_path: Path) -> None:
    async with cramped(tmp_path) as gateway, AsyncExitStack() as crowd:
        begun = asyncio.Event()
        running = asyncio.create_task(streamed(gateway, "[[long:100]]", begun))
        await asyncio.wait_for(begun.wait(), 10)
        port = httpx2.URL(gateway.url).port
        readers = []
        for _ in range(FILES * 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            crowd.callback(writer.close)
            readers.append(reader)
        turned_away = [await answer_to(reader) for reader in readers[CONNECTIONS:]]
        assert all(not answer or answer.startswith(b"HTTP/1.1 503 ") for answer in turned_away)
        assert any(b'"code": "overloaded"' in answer for answer in turned_away)
        # Who was let in is served, and there are files for the database and the tools.
        assert await running == "response.completed"
        await crowd.aclose()
        await until_it_answers(gateway)
        call = {"model": MODEL, "input": '[[call:add {"a": 1, "b": 2}]]', "tools": TOOLS}
        body = (await gateway.http.post("/responses", json=call)).json()
        assert body["output"][-2]["output"] == "3"


TOOLS = [{"type": "mcp", "server_label": "tools", "require_approval": "never"}]


async def until_it_answers(gateway: Process) -> None:
    async with asyncio.timeout(10):
        while True:
            with suppress(httpx2.TransportError):
                async with httpx2.AsyncClient() as fresh:
                    if (await fresh.get(f"{gateway.url}/health")).status_code == 200:
                        return
            await asyncio.sleep(0.05)


async def half_sent(gateway: Served, size: int) -> asyncio.StreamWriter:
    """A request whose body does not come to its end."""
    url = httpx2.URL(gateway.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: {size + 1}\r\n\r\n"
    writer.write(head.encode() + b" " * size)
    await writer.drain()
    return writer


async def test_bodies_that_are_too_much_together_are_refused_and_the_room_comes_back(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, tools=False, max_bodies_mib=4) as gateway:
        small = json.dumps({"model": MODEL, "input": "[[say:hello]]", "store": False}).encode()
        large = small + b" " * MIB
        writers = [await half_sent(gateway, MIB) for _ in range(3)]
        # All three have come so far that a fourth is too much.
        refused = await until_it_is(503, gateway, large)
        assert refused.json()["error"]["code"] == "overloaded"
        assert refused.headers["retry-after"] == "1"
        assert (await gateway.http.post("/responses", content=small)).status_code == 200
        for writer in writers:
            writer.close()
        await until_it_is(200, gateway, large)


async def until_it_is(status: int, gateway: Served, body: bytes) -> httpx2.Response:
    async with asyncio.timeout(10):
        while True:
            answer = await gateway.http.post("/responses", content=body)
            if answer.status_code == status:
                return answer


async def test_a_text_that_can_never_fit_is_refused_without_being_encoded(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False) as gateway:
        text = "word " * (3 * MIB)  # Encoded whole it would take 80 seconds and three GiB.
        for path, fields in (
            ("/responses", {"input": text}),
            ("/responses/input_tokens", {"input": text}),
            ("/chat/completions", {"messages": [{"role": "user", "content": text}]}),
            ("/completions", {"prompt": text}),
        ):
            answer = await asyncio.wait_for(gateway.post(path, **fields), 8)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["code"] == "context_length_exceeded"
