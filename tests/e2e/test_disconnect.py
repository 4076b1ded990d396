"""Clients that go away: a turn nobody will ever read is not worth an engine's time."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.gateway import MODEL, PATIENCE_SECONDS, Served
from tests.e2e.gateway import served as serve

Json = dict[str, Any]
NUMBERS = itertools.count()

ASKED: dict[str, tuple[str, Json]] = {
    "a response": ("/responses", {"store": False}),
    "a streamed response": ("/responses", {"store": False, "stream": True}),
    "a chat": ("/chat/completions", {}),
    "a streamed chat": ("/chat/completions", {"stream": True}),
    "two streamed chats": ("/chat/completions", {"stream": True, "n": 2}),
}


def body(path: str, question: str, **fields: Any) -> Json:
    key = "input" if path == "/responses" else "messages"
    said: Any = question if key == "input" else [{"role": "user", "content": question}]
    return {"model": MODEL, key: said, **fields}


def slow() -> str:
    """A question like no other, whose answer takes longer than any test."""
    return f"Number {next(NUMBERS)} [[long:500]][[slow:100]]"


@pytest.mark.parametrize("asked", ASKED)
async def test_the_engine_is_told_when_the_client_of_this_goes_away(
    asked: str, served: Served
) -> None:
    path, fields = ASKED[asked]
    choices = fields.get("n", 1)
    before = len(served.engine.requests)
    client = asyncio.create_task(request(served, path, body(path, slow(), **fields)))
    await served.engine.arrived(before + choices)
    client.cancel()
    await asyncio.gather(client, return_exceptions=True)
    for received in list(served.engine.requests)[before:]:
        assert await received.ended() in ("cancelled", "abort")


async def request(served: Served, path: str, fields: Json) -> None:
    """Ask on a connection of its own, which ends with the asking task."""
    async with httpx2.AsyncClient(base_url=f"{served.url}/v1", timeout=30) as client:
        await client.post(path, json=fields)


async def test_a_stored_response_goes_on_without_its_client(served: Served) -> None:
    fields = body("/responses", "[[long:30]][[slow:0.5]]", stream=True)
    async with (
        httpx2.AsyncClient(base_url=f"{served.url}/v1") as client,
        client.stream("POST", "/responses", json=fields) as answer,
    ):
        sent = await first_text(answer)
    response_id = sent.split('"id":"')[1].split('"')[0]
    live = await served.http.get(f"/responses/{response_id}", params={"stream": "true"})
    assert live.text.startswith(sent.split("\n\n", maxsplit=1)[0])
    assert "event: response.completed" in live.text
    stored = (await served.http.get(f"/responses/{response_id}")).json()
    assert stored["status"] == "completed"
    assert stored["output"][0]["content"][0]["text"].endswith(" w29")


async def first_text(answer: httpx2.Response) -> str:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for text in answer.aiter_text():
            return text
    raise AssertionError("The stream was empty")


async def test_the_operator_may_have_stored_responses_end_with_their_clients(
    tmp_path: Path,
) -> None:
    async with serve(tmp_path, tools=False, on_disconnect="cancel") as served:
        client = asyncio.create_task(
            request(served, "/responses", body("/responses", slow(), stream=True))
        )
        received = await served.engine.arrived()
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
        assert await received.ended() in ("cancelled", "abort")


async def test_a_client_that_closes_at_the_last_event_has_its_response_stored(
    served: Served,
) -> None:
    sent = ""
    fields = body("/responses", "Hello", stream=True)
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        httpx2.AsyncClient(base_url=f"{served.url}/v1") as client,
        client.stream("POST", "/responses", json=fields) as answer,
    ):
        async for text in answer.aiter_text():
            sent += text
            if "event: response.completed" in sent:
                break
    response_id = sent.split('"id":"')[1].split('"')[0]
    stored = await served.http.get(f"/responses/{response_id}")
    assert stored.json()["status"] == "completed"
