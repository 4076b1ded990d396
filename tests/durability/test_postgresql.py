"""Several gateways on one PostgreSQL: what one leaves, another takes up (F29, F21)."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durability.test_kill import BOOK, ask, of_type, text_of
from tests.durability.world import PATIENCE_SECONDS, finished, stream, world
from tests.storage.postgres import Postgres, running_postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


async def test_another_gateway_goes_on_with_what_a_dead_one_left(
    tmp_path: Path, postgres: Postgres
) -> None:
    async with world(tmp_path, itl_ms=20) as around:
        around.database_url = await postgres.new_url()
        first, second = await asyncio.gather(around.start(), around.start())
        response = await ask(first, BOOK)
        await around.engine.arrived(2)
        await first.kill()
        body = await finished(second, response["id"])
        assert body["status"] == "completed"
        assert of_type(body, "mcp_call")[0]["output"] == "booked a table"
        assert around.ledger.calls == ["a table"]


async def test_a_running_stream_is_followed_and_cancelled_through_another_gateway(
    tmp_path: Path, postgres: Postgres
) -> None:
    async with world(tmp_path, itl_ms=20) as around:
        around.database_url = await postgres.new_url()
        first, second = await asyncio.gather(around.start(), around.start())
        short = await ask(first, "[[say:one two three]]")
        follow = await second.http.get(f"/responses/{short['id']}?stream=true")
        frames = [f for f in follow.content.split(b"\n\n") if f.startswith(b"event:")]
        events = [json.loads(frame.split(b"data: ", 1)[1]) for frame in frames]
        assert text_of(events[-1]["response"]) == "one two three"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        long = await ask(first, "[[long:2000]]")
        await around.engine.arrived(2)
        cancelled = await second.http.post(f"/responses/{long['id']}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        assert await (await around.engine.arrived(2)).ended(10) in ("cancelled", "abort")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_server_that_restarts_under_running_streams_costs_none_of_them(
    tmp_path: Path, postgres: Postgres, mode: str
) -> None:
    async with world(tmp_path, itl_ms=30) as around:
        around.database_url = await postgres.new_url()
        gateway = await around.start("--lease-seconds", "15")
        begun = asyncio.Event()
        streams = [asyncio.create_task(stream(gateway, "[[long:60]]", begun)) for _ in range(4)]
        background = await ask(gateway, BOOK)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await begun.wait()
        await postgres.restart(mode)
        asked = await gateway.http.post("/responses", json={"model": "scripted", "input": "hello"})
        assert asked.status_code == 200
        for told in await asyncio.gather(*streams):
            assert [event["sequence_number"] for event in told] == list(range(len(told)))
            last = told[-1]
            assert last["type"] == "response.completed", last["response"]["error"]
            kept = await gateway.http.get(f"/responses/{last['response']['id']}")
            assert kept.json() == last["response"]
        body = await finished(gateway, background["id"])
        assert of_type(body, "mcp_call")[0]["output"] == "booked a table"
        assert around.ledger.calls == ["a table"]
        # Nobody else had to take anything over.
        assert await postgres.values(around.database_url, "SELECT max(attempt) FROM responses") == [
            1
        ]
