"""Which worker answered is told, and a conversation's own word for where to go is heard."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from smg.testing.engine import EngineOptions, ScriptedEngine
from tests.e2e.gateway import MODEL, PATIENCE_SECONDS, Served, served

CALL = '[[call:add {"a": 1, "b": 2}]][[say:It is 3.]]'


@asynccontextmanager
async def fleet(
    folder: Path, **settings: Any
) -> AsyncIterator[tuple[Served, list[ScriptedEngine]]]:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(ScriptedEngine()) for _ in range(3)]
        urls = tuple(engine.url for engine in engines)
        gateway = await stack.enter_async_context(served(folder, worker_urls=urls, **settings))
        yield gateway, engines


def alias(engine: ScriptedEngine) -> str:
    return hashlib.sha256(engine.address.encode()).hexdigest()[:12]


def asked(text: str = "[[say:hello]]") -> dict[str, dict[str, Any]]:
    return {
        "/responses": {"model": MODEL, "input": text},
        "/chat/completions": {"model": MODEL, "messages": [{"role": "user", "content": text}]},
    }


async def test_every_answer_names_its_worker_by_a_hash_and_says_why(tmp_path: Path) -> None:
    async with fleet(tmp_path, tools=False, policy="round_robin") as (gateway, engines):
        for path, body in asked().items():
            for streamed in (False, True):
                before = [len(engine.requests) for engine in engines]
                answer = await gateway.http.post(path, json={**body, "stream": streamed})
                after = [len(engine.requests) for engine in engines]
                [used] = [e for e, x, y in zip(engines, before, after, strict=True) if x != y]
                assert answer.headers["x-smg-worker"] == alias(used)
                assert answer.headers["x-smg-worker-reason"] == "round_robin"


async def test_addresses_are_told_when_the_operator_says_so(tmp_path: Path) -> None:
    async with fleet(tmp_path, tools=False, expose_workers=True) as (gateway, engines):
        answer = await gateway.http.post("/responses", json=asked()["/responses"])
        assert answer.headers["x-smg-worker"] in {engine.address for engine in engines}


@pytest.mark.parametrize("policy", ["round_robin", "random"])
async def test_an_agent_loop_stays_on_its_worker(tmp_path: Path, policy: str) -> None:
    async with fleet(tmp_path, policy=policy) as (gateway, engines):
        tools = [{"type": "mcp", "server_label": "tools", "allowed_tools": ["add"]}]
        for _ in range(3):
            body = {"model": MODEL, "input": CALL, "tools": tools}
            answer = await gateway.http.post("/responses", json=body)
            assert answer.json()["output"][-1]["content"][0]["text"] == "It is 3."
        # Two generations each; a turn that moved would leave an odd number behind.
        counts = [len(engine.requests) for engine in engines]
        assert sum(counts) == 6
        assert [count % 2 for count in counts] == [0, 0, 0]


async def test_the_routing_keys_of_header_conversation_and_user_keep_requests_together(
    tmp_path: Path,
) -> None:
    async with fleet(tmp_path, tools=False, policy="consistent_hashing") as (gateway, _):
        conversation = (await gateway.http.post("/conversations", json={})).json()["id"]
        ways: list[tuple[dict[str, Any], dict[str, str]]] = [
            ({}, {"x-smg-routing-key": "k"}),
            ({"conversation": conversation}, {}),
            ({"user": "ann"}, {}),
            ({"prompt_cache_key": "p", "user": "somebody"}, {}),
        ]
        for fields, headers in ways:
            body = {**asked()["/responses"], **fields}
            answers = [
                await gateway.http.post("/responses", json=body, headers=headers) for _ in range(4)
            ]
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.headers["x-smg-worker"] for answer in answers}) == 1
            assert answers[0].headers["x-smg-worker-reason"] == "consistent_hashing"


async def test_the_header_goes_before_the_other_routing_keys(tmp_path: Path) -> None:
    async with fleet(tmp_path, tools=False, policy="consistent_hashing") as (gateway, _):
        workers = set()
        for number in range(30):
            for path, body in asked().items():
                fields = {**body, "user": str(number), "prompt_cache_key": str(number)}
                headers = {"x-smg-routing-key": "k"}
                answer = await gateway.http.post(path, json=fields, headers=headers)
                workers.add(answer.headers["x-smg-worker"])
        assert len(workers) == 1


async def test_a_user_goes_before_the_conversation(tmp_path: Path) -> None:
    async with fleet(tmp_path, tools=False, policy="consistent_hashing") as (gateway, _):
        workers = set()
        for _ in range(8):
            conversation = (await gateway.http.post("/conversations", json={})).json()["id"]
            body = {**asked()["/responses"], "user": "ann", "conversation": conversation}
            answer = await gateway.http.post("/responses", json=body)
            workers.add(answer.headers["x-smg-worker"])
        assert len(workers) == 1


async def test_a_chain_of_responses_stays_together(tmp_path: Path) -> None:
    async with fleet(tmp_path, tools=False, policy="consistent_hashing") as (gateway, _):
        last = (await gateway.http.post("/responses", json=asked()["/responses"])).json()["id"]
        workers = set()
        for _ in range(8):
            body = {**asked()["/responses"], "previous_response_id": last}
            answer = await gateway.http.post("/responses", json=body)
            last = answer.json()["id"]
            workers.add(answer.headers["x-smg-worker"])
        assert len(workers) == 1


async def test_a_whole_answer_names_the_worker_that_took_over(tmp_path: Path) -> None:
    async with fleet(tmp_path, tools=False, policy="passthrough") as (gateway, engines):
        await engines[0].__aexit__(None, None, None)
        answer = await gateway.http.post("/responses", json=asked()["/responses"])
        assert answer.status_code == 200
        assert answer.headers["x-smg-worker"] == alias(engines[1])
        assert answer.headers["x-smg-worker-reason"] == "the first choice failed"


async def test_the_reason_says_whether_the_worker_told_or_was_sent_it_before(
    tmp_path: Path,
) -> None:
    told, silent = EngineOptions(), EngineOptions(kv_events=False)
    question = f"[[say:Yes.]] {' '.join(map(str, range(100)))}"
    for options, how in ((told, "kv events"), (silent, "sent before")):
        async with ScriptedEngine(options=options) as engine:
            settings: Any = {"worker_urls": (engine.url,), "tools": False}
            async with served(tmp_path, **settings) as gateway, asyncio.timeout(PATIENCE_SECONDS):
                reason = ""
                while not reason.endswith(how):  # What it tells comes a moment after its answer.
                    body = asked(question)["/responses"]
                    answer = await gateway.http.post("/responses", json=body)
                    reason = answer.headers["x-smg-worker-reason"]
                assert re.fullmatch(rf"cache_aware: \d+ of \d+ known, {how}", reason)
