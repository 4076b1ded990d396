"""Admission over HTTP: who is let in, who waits, who is refused, and who is never asked."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.e2e.gateway import MODEL, Served, served

SLOW = "[[slow:60]][[say:a b c d]]"
KEYS = ("key-of-ann", "key-of-bob")


async def until(served: Served, **states: int) -> None:
    async with asyncio.timeout(5):
        doors = served.gateway.doors
        while not states.items() <= doors.states.items():  # noqa: ASYNC110 - doors tell nobody
            await asyncio.sleep(0.002)


@asynccontextmanager
async def asked(served: Served, text: str = SLOW, **headers: str) -> AsyncIterator[httpx2.Response]:
    """A stream that is open for as long as the block lasts."""
    body = {"model": MODEL, "input": text, "stream": True, "store": False}
    async with served.http.stream("POST", "/responses", json=body, headers=headers) as answer:
        yield answer


async def ask(served: Served, text: str = "[[say:hello]]", **headers: str) -> httpx2.Response:
    body = {"model": MODEL, "input": text, "store": False}
    return await served.http.post("/responses", json=body, headers=headers)


async def test_a_stream_holds_its_place_to_its_end(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1, queue_size=0) as gateway:
        async with asked(gateway) as first:
            assert first.status_code == 200
            refused = await ask(gateway)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert refused.headers["x-request-id"]
        await until(gateway, running=0)
        assert (await ask(gateway)).status_code == 200


async def test_a_request_that_waits_gets_the_next_place_with_its_body(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1) as gateway:
        async with asked(gateway):
            waiting = asyncio.create_task(ask(gateway, "[[say:at last]]"))
            await until(gateway, waiting=1)
        answer = await asyncio.wait_for(waiting, 5)
        assert answer.json()["output"][0]["content"][0]["text"] == "at last"


async def test_a_client_that_leaves_the_line_is_forgotten(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1) as gateway:
        async with asked(gateway):
            waiting = asyncio.create_task(ask(gateway))
            await until(gateway, waiting=1)
            waiting.cancel()
            await until(gateway, waiting=0, running=1)
        await until(gateway, running=0)
        assert len(gateway.engine.requests) == 1


async def test_nobody_waits_longer_than_is_allowed(tmp_path: Path) -> None:
    limits = {"max_concurrent_requests": 1, "queue_timeout_secs": 0.01}
    async with served(tmp_path, tools=False, **limits) as gateway, asked(gateway):
        assert (await ask(gateway)).status_code == 429


async def test_a_request_of_high_priority_goes_first(tmp_path: Path) -> None:
    order: list[str] = []

    async def note(gateway: Served, priority: str) -> None:
        answer = await ask(gateway, **{"x-smg-priority": priority})
        assert answer.status_code == 200
        order.append(priority)

    async with (
        served(tmp_path, tools=False, max_concurrent_requests=1) as gateway,
        asyncio.TaskGroup() as group,
        asked(gateway),
    ):
        for number, priority in enumerate(("low", "whatever", "high")):
            group.create_task(note(gateway, priority))
            await until(gateway, waiting=number + 1)
    assert order == ["high", "whatever", "low"]


async def test_too_many_a_second_are_told_when_to_come_again(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, rate_limit_tokens_per_second=0.01) as gateway:
        assert (await ask(gateway)).status_code == 200
        refused = await ask(gateway)
        assert refused.status_code == 429
        assert 90 <= int(refused.headers["retry-after"]) <= 100


async def test_each_key_has_its_own_limit(tmp_path: Path) -> None:
    limits = {"key_max_concurrent_requests": 1, "queue_size": 0, "api_key": KEYS}
    ann, bob = ({"authorization": f"Bearer {key}"} for key in KEYS)
    async with served(tmp_path, tools=False, **limits) as gateway, asked(gateway, **ann):
        assert (await ask(gateway, **ann)).status_code == 429
        assert (await ask(gateway, **bob)).status_code == 200
        assert (await ask(gateway, authorization="Bearer wrong")).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/readiness", "/v1/models"])
async def test_who_makes_no_model_work_does_not_wait(tmp_path: Path, path: str) -> None:
    limits = {"max_concurrent_requests": 4, "queue_size": 20}
    async with served(tmp_path, tools=False, **limits) as gateway:
        idle = await _seconds(gateway, path)
        tasks = [asyncio.create_task(ask(gateway, SLOW)) for _ in range(24)]
        await until(gateway, running=4, waiting=20)
        loaded = await _seconds(gateway, path)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    # A request that waited would take as long as the slow ones. The floor is for a busy machine.
    assert loaded < max(20 * idle, 0.1)


async def _seconds(gateway: Served, path: str) -> float:
    """The median of five."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        answer = await gateway.http.get(f"{gateway.url}{path}")
        times.append(time.perf_counter() - begun)
        assert answer.status_code == 200
    return sorted(times)[2]


async def test_after_the_doors_are_closed_work_is_refused_and_the_rest_is_not(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, tools=False) as gateway, asked(gateway) as running:
        gateway.gateway.doors.close()
        refused = await ask(gateway)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "shutting_down"
        assert (await gateway.http.get("/models")).status_code == 200
        assert running.status_code == 200


async def test_the_grace_counts_from_when_the_doors_were_closed(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False) as gateway:
        doors = gateway.gateway.doors
        assert doors.grace_left(30) == 30
        doors.close()
        first = doors.grace_left(30)
        assert 29 < first <= 30
        doors.close()
        assert doors.grace_left(30) <= first
        assert doors.grace_left(0) == 0
