"""Workers die while many streams run: who had begun is told, and nobody else notices."""

import asyncio
import json
from pathlib import Path
from typing import Any

from smg.testing.engine import ScriptedEngine
from tests.e2e.gateway import MODEL, Served
from tests.web.test_placing import fleet

STREAMS = 64


class Stream:
    """One streamed response, read to its end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.began = asyncio.Event()
        self.last: dict[str, Any] = {}

    async def read(self, gateway: Served) -> None:
        body = {"model": MODEL, "input": self.text, "stream": True, "store": False}
        async with gateway.http.stream("POST", "/responses", json=body) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event["type"] == "response.output_text.delta":
                    self.began.set()
                self.last = event


async def kill(engine: ScriptedEngine) -> None:
    await engine.__aexit__(None, None, None)


async def test_one_of_three_is_killed_under_64_streams_and_no_unbegun_request_is_lost(
    tmp_path: Path,
) -> None:
    async with fleet(tmp_path, tools=False, policy="round_robin") as (gateway, engines):
        early = [Stream("[[slow:1.5]][[long:30]]") for _ in range(STREAMS // 2)]
        late = [Stream("[[slow:0.2]][[long:30]]") for _ in range(STREAMS // 2)]
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for stream in early:
                group.create_task(stream.read(gateway))
            await asyncio.gather(*(stream.began.wait() for stream in early))
            for stream in late:
                group.create_task(stream.read(gateway))
            await kill(engines[0])
        ends = [stream.last["type"] for stream in (*early, *late)]
        assert set(ends) <= {"response.completed", "response.failed"}
        lost = [stream for stream in (*early, *late) if stream.last["type"] == "response.failed"]
        assert lost
        assert len(lost) < STREAMS // 2
        for stream in lost:  # Each had been seen to begin, and keeps what was said.
            assert stream.began.is_set()
            assert stream.last["response"]["output"][0]["content"][0]["text"]
        assert [w.is_up for w in gateway.gateway.models.all()[0].pool.workers][1:] == [True, True]


async def test_a_worker_that_hangs_is_left_for_another(tmp_path: Path) -> None:
    settings = {"policy": "passthrough", "first_token_timeout_secs": 0.2}
    async with fleet(tmp_path, tools=False, **settings) as (gateway, engines):
        hung = Stream("[[slow:60]][[say:a]]")
        await asyncio.wait_for(hung.read(gateway), 10)
        # It hangs on every worker; each was asked once, told to stop, and is up.
        assert hung.last["response"]["error"] is not None
        assert [len(engine.requests) for engine in engines] == [1, 1, 1]
        for engine in engines:
            assert await engine.requests[0].ended() in {"cancelled", "abort"}
        well = Stream("[[say:hello]]")
        await asyncio.wait_for(well.read(gateway), 10)
        assert well.last["type"] == "response.completed"


async def test_a_worker_that_comes_back_is_used_again(tmp_path: Path) -> None:
    quick = {"health_check_interval_secs": 0.1, "health_failure_threshold": 1}
    settings: dict[str, Any] = {"policy": "passthrough", "health_success_threshold": 1, **quick}
    async with fleet(tmp_path, tools=False, **settings) as (gateway, engines):
        for healthy, arrived in ((False, 0), (True, 1)):
            engines[0].become_healthy(healthy)
            await until_first_is(gateway, up=healthy)
            answer = await gateway.http.post("/responses", json={"model": MODEL, "input": "hello"})
            assert (answer.status_code, len(engines[0].requests)) == (200, arrived)


async def until_first_is(gateway: Served, *, up: bool) -> None:
    [model] = gateway.gateway.models.all()
    async with asyncio.timeout(10):
        while model.pool.workers[0].is_up is not up:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)
