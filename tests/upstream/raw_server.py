"""A tiny HTTP server that says exactly what a test tells it to, byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 5.0
MODELS: dict[str, Any] = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 100}]}


@dataclass
class Answer:
    """What one path answers."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    hangs: bool = False
    """Whether it keeps the connection open afterwards, until the client goes."""
    resets: bool = False
    """Whether it breaks the connection instead of ending the body."""


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), status)


def stream(*objects: Any, done: bool = True, **how: Any) -> Answer:
    lines = [b"data: " + json.dumps(told).encode() + b"\n\n" for told in objects]
    return Answer(
        b"".join([*lines, b"data: [DONE]\n\n" if done else b""]), kind="text/event-stream", **how
    )


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


@dataclass
class RawServer:
    url: str = ""
    answers: dict[str, Answer | Callable[[Any], Answer]] = field(default_factory=dict)
    """What each path answers, or what makes the answer of the request's body."""
    forward: Callable[[str, Any], Awaitable[Answer]] | None = None
    """Who answers paths that are not named."""
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    """Path, headers and body of each, but for the questions about models and health."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client has gone in the middle of an answer."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path, headers, body = await _read_request(reader)
            told = json.loads(body) if body else None
            if path not in ("/v1/models", "/health", "/version"):
                self.requests.append((path, headers, told))
            answer = await self._answer(path, told)
            writer.write(
                f"HTTP/1.1 {answer.status} X\r\ncontent-type: {answer.kind}\r\n"
                "connection: close\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            )
            if answer.body:
                writer.write(f"{len(answer.body):x}\r\n".encode() + answer.body + b"\r\n")
            await writer.drain()
            if answer.hangs:
                await reader.read()
                self.left.set()
            if not answer.resets:
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    async def _answer(self, path: str, body: Any) -> Answer:
        found = self.answers.get(path)
        if found is None and self.forward is not None:
            return await self.forward(path, body)
        if found is None:
            return as_json({"error": {"message": "no such path"}}, 404)
        return found if isinstance(found, Answer) else found(body)


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    pairs = [line.partition(":") for line in lines]
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return first.split()[1], headers, body


@asynccontextmanager
async def raw_server(chat: Answer | None = None, **answers: Answer) -> AsyncIterator[RawServer]:
    server = RawServer()
    server.answers = {"/v1/models": as_json(MODELS), "/health": Answer(b""), **answers}
    if chat is not None:
        server.answers["/v1/chat/completions"] = chat
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()
