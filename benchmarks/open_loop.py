"""Clients that ask at their time, whatever became of the questions before.

In go requests with the second at which each is sent, out come when each stream began and ended.
Every question has a connection of its own and knows nothing of gateways: what is wrong with an
answer is told in words, and counted by whoever reads.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.load import CHUNKED_END

PATIENCE_S = 180.0
"""How long an answer may take."""
FIRST_TEXT = re.compile(rb'"content": ?"[^"]')
WRITTEN = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One streamed chat completion."""

    at: float
    """Seconds from the beginning."""
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    tokens: int
    """How long the answer has to be."""

    def request(self) -> bytes:
        """As it goes over the wire."""
        body = json.dumps(self.body).encode()
        headers = {
            "host": "127.0.0.1",
            "connection": "close",
            "content-type": "application/json",
            "content-length": str(len(body)),
            **self.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a question."""

    first_s: float = 0.0
    """From asking to the first text."""
    ended_at: float = 0.0
    """Seconds from the beginning."""
    tokens: int = 0
    late_s: float = 0.0
    """How much later than meant it was asked: what this machine adds to every wait."""
    error: str = ""


async def ask_all(port: int, questions: Sequence[Question]) -> list[Outcome]:
    """Ask each at its time; what came of them, in their order."""
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask(port, question, begun)) for question in questions]
    return [task.result() for task in tasks]


async def _ask(port: int, question: Question, begun: float) -> Outcome:
    await asyncio.sleep(begun + question.at - time.perf_counter())
    asked_at = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S):
            answer, first_at = await _exchange(port, question.request())
    except (OSError, TimeoutError) as error:
        return Outcome(error=f"{type(error).__name__}: {error}")
    written = WRITTEN.search(answer)
    if wrong := _wrong(answer, first_at, int(written[1]) if written else 0, question):
        return Outcome(error=wrong)
    return Outcome(
        first_s=first_at - asked_at,
        ended_at=time.perf_counter() - begun,
        tokens=question.tokens,
        late_s=asked_at - begun - question.at,
    )


async def _exchange(port: int, request: bytes) -> tuple[bytes, float]:
    """The whole answer, and when its first text came; 0: it has none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer, first_at = b"", 0.0
    try:
        writer.write(request)
        while not answer.endswith(CHUNKED_END) and (piece := await reader.read(1 << 16)):
            answer += piece
            if not first_at and FIRST_TEXT.search(answer):
                first_at = time.perf_counter()
    finally:
        writer.transport.abort()  # All was read, or nobody will.
    return answer, first_at


def _wrong(answer: bytes, first_at: float, tokens: int, question: Question) -> str:
    """What is wrong with an answer; nothing, if it is what was asked for."""
    if not answer.startswith(b"HTTP/1.1 200"):
        return (
            f"{answer[:40].decode(errors='replace')} ... {answer[-200:].decode(errors='replace')}"
        )
    if not first_at or b"data: [DONE]" not in answer:
        return f"The stream was cut: ... {answer[-200:].decode(errors='replace')}"
    if tokens != question.tokens:
        return f"{tokens} tokens instead of {question.tokens}"
    return ""
