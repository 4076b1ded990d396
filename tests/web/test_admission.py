"""Admission over HTTP: who is let in, who waits, who is refused, and who is never asked."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from smg.errors import ConfigError
from smg.layers import new_doors
from smg.settings import Settings
from smg.telemetry.counters import Telemetry
from smg.testing.engine import EngineOptions, ScriptedEngine
from tests.e2e.gateway import MODEL, Served, served

SLOW = "[[slow:60]][[say:a b c d]]"
KEYS = ("key-of-ann", "key-of-bob")


async def until(served: Served, **states: int) -> None:
    async with asyncio.timeout(5):
        doors = served.gateway.doors
        while not states.items() <= doors.states.items():  # noqa: ASYNC110 - doors tell nobody
            await asyncio.sleep(0.002)


@asynccontextmanager
async def asked(
    served: Served, text: str = SLOW, model: str = MODEL, **headers: str
) -> AsyncIterator[httpx2.Response]:
    """A stream that is open for as long as the block lasts."""
    body = {"model": model, "input": text, "stream": True, "store": False}
    async with served.http.stream("POST", "/responses", json=body, headers=headers) as answer:
        yield answer


async def ask(
    served: Served, text: str = "[[say:hello]]", model: str = MODEL, **headers: str
) -> httpx2.Response:
    body = {"model": model, "input": text, "store": False}
    return await served.http.post("/responses", json=body, headers=headers)


@asynccontextmanager
async def two_models(folder: Path, **settings: Any) -> AsyncIterator[Served]:
    """A gateway to the models `left` and `right`."""
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(ScriptedEngine(options=EngineOptions(model_name=name)))
            for name in ("left", "right")
        ]
        urls = tuple(engine.url for engine in engines)
        usual = {"tools": False, "model_path": None, "worker_urls": urls}
        yield await stack.enter_async_context(served(folder, **{**usual, **settings}))


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
            await gateway.engine.arrived()
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


async def test_each_model_has_its_own_limit(tmp_path: Path) -> None:
    limits = {"model_max_concurrent_requests": 1, "queue_size": 0}
    async with two_models(tmp_path, **limits) as gateway, asked(gateway, model="left"):
        refused = await ask(gateway, model="left")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "'left'" in refused.json()["error"]["message"]
        assert (await ask(gateway, model="right")).status_code == 200


async def test_one_model_may_have_another_limit_than_the_rest(tmp_path: Path) -> None:
    limits = {"model_max_concurrent_requests": 1, "model_limit": ("right=2",), "queue_size": 0}
    async with (
        two_models(tmp_path, **limits) as gateway,
        asked(gateway, model="left"),
        asked(gateway, model="right"),
    ):
        assert (await ask(gateway, model="left")).status_code == 429
        assert (await ask(gateway, model="right")).status_code == 200


async def test_who_waits_for_a_full_model_keeps_nobody_from_another(tmp_path: Path) -> None:
    limits = {"max_concurrent_requests": 2, "model_max_concurrent_requests": 1}
    async with two_models(tmp_path, **limits) as gateway:
        async with asked(gateway, model="left"):
            waiting = [asyncio.create_task(ask(gateway, model="left")) for _ in range(5)]
            await until(gateway, running=1, waiting=5)
            assert (await ask(gateway, model="right")).status_code == 200
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 5


async def test_too_many_a_second_to_one_model_leave_the_others_alone(tmp_path: Path) -> None:
    async with two_models(tmp_path, model_rate_limit_tokens_per_second=0.01) as gateway:
        assert (await ask(gateway, model="left")).status_code == 200
        refused = await ask(gateway, model="left")
        assert (refused.status_code, int(refused.headers["retry-after"]) > 90) == (429, True)
        assert (await ask(gateway, model="right")).status_code == 200


async def test_a_request_for_a_model_that_is_not_there_counts_for_nothing(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, rate_limit_tokens_per_second=0.01) as gateway:
        assert (await ask(gateway, model="none")).status_code == 404
        assert (await ask(gateway)).status_code == 200


@pytest.mark.parametrize("limit", ["left", "=3", "left=", "left=-1", "left=many", "other=2"])
def test_a_limit_of_one_model_must_be_readable_and_no_alias(limit: str) -> None:
    with pytest.raises(ConfigError, match="--model-limit"):
        new_doors(Settings(model_limit=(limit,), model_alias=("other=left",)), Telemetry())


BODIES: dict[str, dict[str, Any]] = {
    "/responses": {"input": "hello", "store": False},
    "/responses/compact": {"input": "hello"},
    "/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/completions": {"prompt": "hello"},
    "/embeddings": {"input": "hello"},
}


async def test_every_endpoint_that_makes_a_model_work_passes_the_gates(tmp_path: Path) -> None:
    limits = {"model_max_concurrent_requests": 1, "queue_size": 0}
    async with served(tmp_path, tools=False, **limits) as gateway:
        async with asked(gateway):
            refused = [await gateway.post(path, **body) for path, body in BODIES.items()]
        await until(gateway, running=0)
        let_in = [await gateway.post(path, **body) for path, body in BODIES.items()]
        await until(gateway, running=0)
    assert [answer.status_code for answer in refused] == [429] * len(BODIES)
    # The scripted model makes no embeddings.
    assert [answer.status_code for answer in let_in] == [200, 200, 200, 200, 400]


async def test_a_full_line_refuses_before_a_body_is_read(tmp_path: Path) -> None:
    limits = {"max_concurrent_requests": 1, "queue_size": 0}
    async with served(tmp_path, tools=False, **limits) as gateway, asked(gateway):
        answer = await gateway.http.post("/responses", content=b"{ not JSON")
        assert answer.status_code == 429


async def test_a_stored_response_keeps_its_place_when_its_client_leaves(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1) as gateway:
        body = {"model": MODEL, "input": "[[slow:0.4]][[long:8]]", "stream": True}
        async with gateway.http.stream("POST", "/responses", json=body) as answer:
            await anext(answer.aiter_lines())
        waiting = asyncio.create_task(ask(gateway))
        await until(gateway, running=1, waiting=1)
        assert (await waiting).status_code == 200
        assert [request.finish for request in gateway.engine.requests] == ["stop", "stop"]


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
        readiness = await gateway.http.get(f"{gateway.url}/readiness")
        assert (readiness.status_code, readiness.json()["status"]) == (503, "draining")
        assert (await gateway.http.get(f"{gateway.url}/health")).status_code == 200


async def test_who_waits_when_the_doors_are_closed_is_sent_elsewhere(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1) as gateway, asked(gateway):
        waiting = asyncio.create_task(ask(gateway))
        await until(gateway, waiting=1)
        gateway.gateway.doors.close()
        assert (await waiting).status_code == 503


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
