"""Background responses that wait for a place: queued until then, and bounded as all others."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.e2e.gateway import MODEL, PATIENCE_SECONDS, Served, served
from tests.responses.reading import validate

SLOW = "[[slow:0.2]][[say:a b c d]]"
ENDLESS = "[[slow:60]][[long:50]]"


async def begin(gateway: Served, text: str, **fields: Any) -> str:
    answer = await gateway.post("/responses", input=text, background=True, **fields)
    assert (answer.status_code, answer.json()["status"]) == (200, "queued"), answer.text
    return str(answer.json()["id"])


async def body_of(gateway: Served, response_id: str) -> dict[str, Any]:
    return dict((await gateway.http.get(f"/responses/{response_id}")).json())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.01)


async def until_it_is(gateway: Served, response_id: str, status: str) -> None:
    async def is_so() -> bool:
        return bool((await body_of(gateway, response_id))["status"] == status)

    await until(is_so)


async def test_no_more_run_at_once_than_there_are_places(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=2) as gateway:
        ids = [await begin(gateway, SLOW) for _ in range(6)]
        most = 0

        async def are_over() -> bool:
            nonlocal most
            most = max(most, sum(one.finish is None for one in gateway.engine.requests))
            bodies = [await body_of(gateway, response_id) for response_id in ids]
            return all(body["status"] == "completed" for body in bodies)

        await until(are_over)
        assert most <= 2
        assert len(gateway.engine.requests) == 6
        assert gateway.gateway.doors.states["running"] == 0


async def test_one_that_waits_is_queued_until_its_turn_comes(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1) as gateway:
        first = await begin(gateway, ENDLESS)
        await until_it_is(gateway, first, "in_progress")
        second = await begin(gateway, "[[say:At last.]]")
        assert (await body_of(gateway, second))["status"] == "queued"
        followed = asyncio.create_task(gateway.http.get(f"/responses/{second}?stream=true"))
        assert len(gateway.engine.requests) == 1
        assert (await gateway.http.post(f"/responses/{first}/cancel")).status_code == 200
        lines = (await followed).text.split("\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        for event in events:
            validate(event)
        assert [event["type"] for event in events[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        assert events[-1]["response"]["status"] == "completed"
        assert await body_of(gateway, second) == events[-1]["response"]


async def test_a_stream_in_the_background_tells_its_id_while_it_waits(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1) as gateway:
        first = await begin(gateway, ENDLESS)
        await until_it_is(gateway, first, "in_progress")
        fields = {"model": MODEL, "input": "Hello", "background": True, "stream": True}
        async with gateway.http.stream("POST", "/responses", json=fields) as answer:
            lines = answer.aiter_lines()
            told = [await anext(lines) for _ in range(5)]
            assert (told[0], told[3]) == ("event: response.created", "event: response.queued")
            await gateway.http.post(f"/responses/{first}/cancel")
            rest = [line async for line in lines if line.startswith("event:")]
        assert (rest[0], rest[-1]) == (
            "event: response.in_progress",
            "event: response.completed",
        )


async def test_one_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1) as gateway:
        first = await begin(gateway, ENDLESS)
        await until_it_is(gateway, first, "in_progress")
        second = await begin(gateway, "Hello")
        cancelled = await gateway.http.post(f"/responses/{second}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        assert gateway.gateway.doors.states["promised"] == 0
        await gateway.http.post(f"/responses/{first}/cancel")
        assert len(gateway.engine.requests) == 1


async def test_foreground_comes_before_a_line_of_background_work(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1) as gateway:
        first = await begin(gateway, ENDLESS)
        await until_it_is(gateway, first, "in_progress")
        waiting = [await begin(gateway, "[[say:Late.]]") for _ in range(3)]
        quick = asyncio.create_task(gateway.post("/responses", input="[[say:Quick.]]", store=False))

        async def is_in_line() -> bool:
            return gateway.gateway.doors.states["waiting"] == 1

        await until(is_in_line)
        await gateway.http.post(f"/responses/{first}/cancel")
        assert (await quick).status_code == 200
        for response_id in waiting:
            await until_it_is(gateway, response_id, "completed")
        prompts = [request.prompt for request in gateway.engine.requests]
        assert ["Quick" in prompt for prompt in prompts] == [False, True, False, False, False]


async def test_only_so_many_wait(tmp_path: Path) -> None:
    limits = {"max_concurrent_requests": 1, "background_queue_size": 1}
    async with served(tmp_path, tools=False, **limits) as gateway:
        first = await begin(gateway, ENDLESS)
        await until_it_is(gateway, first, "in_progress")
        second = await begin(gateway, "Hello")
        refused = await gateway.post("/responses", input="Hello", background=True)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        await gateway.http.post(f"/responses/{first}/cancel")
        await until_it_is(gateway, second, "completed")


async def test_a_conversation_is_kept_for_the_turn_that_waits(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, max_concurrent_requests=1) as gateway:
        conversation = (await gateway.http.post("/conversations", json={})).json()["id"]
        first = await begin(gateway, ENDLESS)
        await until_it_is(gateway, first, "in_progress")
        second = await begin(gateway, "[[say:Mine.]]", conversation=conversation)
        other = await gateway.post(
            "/responses", input="Hello", background=True, conversation=conversation
        )
        assert (other.status_code, other.json()["error"]["code"]) == (409, "conversation_locked")
        await gateway.http.post(f"/responses/{first}/cancel")
        await until_it_is(gateway, second, "completed")


async def test_what_is_taken_over_waits_for_places_too(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_concurrent_requests": 1, "shutdown_grace_seconds": 0.1}
    async with served(tmp_path, tools=False, **limits) as gateway:
        first = await begin(gateway, ENDLESS)
        await until_it_is(gateway, first, "in_progress")
        waiting = [await begin(gateway, "[[say:Done.]]") for _ in range(4)]
    async with served(tmp_path, tools=False, **limits) as gateway:
        # Of one second, they come in any order.
        await until(lambda: is_running(gateway, ENDLESS))
        before = len(gateway.engine.requests) - 1
        bodies = [await body_of(gateway, one) for one in waiting]
        seen = {body["status"]: body["error"] for body in bodies}
        assert gateway.gateway.doors.states["promised"] == 4 - before, seen
        await gateway.http.post(f"/responses/{first}/cancel")
        for response_id in waiting:
            await until_it_is(gateway, response_id, "completed")
        assert len(gateway.engine.requests) == 5


async def is_running(gateway: Served, text: str) -> bool:
    """Whether the engine works on this text, and on nothing else."""
    running = [one for one in gateway.engine.requests if one.finish is None]
    return len(running) == 1 and text in running[0].prompt
