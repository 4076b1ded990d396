"""`smg workers`, as a process of its own."""

import asyncio
import sys

from smg.discovery.command import table
from smg.testing.engine import EngineOptions, ScriptedEngine
from tests.engines.stand_in import PATIENCE_S
from tests.upstream.raw_server import Answer, as_json, raw_server


async def workers(*urls: str) -> tuple[int, list[list[str]]]:
    """The status and the cells of each line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "smg", "workers", "--worker-urls", *urls),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(4 * PATIENCE_S):
        told, _ = await process.communicate()
    assert process.returncode is not None
    lines = told.decode().splitlines()
    return process.returncode, [line.split(maxsplit=5) for line in lines]


async def test_each_worker_is_a_line() -> None:
    models = as_json({"data": [{"id": "a", "owned_by": "vllm"}, {"id": "b", "max_model_len": 7}]})
    async with (
        ScriptedEngine(options=EngineOptions(max_context=512)) as engine,
        raw_server() as web,
    ):
        web.answers |= {"/v1/models": models, "/version": as_json({"version": "0.32"})}
        status, (header, *lines) = await workers(engine.url, web.url)
    assert header[:5] == ["WORKER", "ENGINE", "VERSION", "MODEL", "CONTEXT"]
    assert header[5].split() == ["HEALTH", "LOAD"]
    assert status == 0
    (first, second, third) = lines
    assert (first[0], first[1], first[3], first[4]) == (engine.url, "vllm", "scripted", "512")
    assert first[2].startswith("scripted-")
    assert first[5] == "healthy  0 running, 0 waiting, 0% of KV cache"
    assert second == [web.url, "vllm", "0.32", "a", "-", "healthy  -"]
    assert third == [web.url, "http", "0.32", "b", "7", "healthy  -"]


async def test_a_worker_that_is_sick_or_silent_is_a_line_and_the_status_is_one() -> None:
    async with raw_server() as web, ScriptedEngine() as engine:
        web.answers["/health"] = Answer(b"", 503)
        engine.become_healthy(False)
        status, (_, *lines) = await workers("http://127.0.0.1:9", web.url, engine.url)
    assert status == 1
    silent, sick, unhealthy = (line[5] for line in lines)
    assert silent.startswith("no answer: Worker http://127.0.0.1:9/v1")
    assert sick.startswith("sick: Worker")
    assert unhealthy.startswith("sick: Worker")


def test_cells_stand_under_each_other() -> None:
    assert table([("A", "LONG", "C"), ("aaa", "b", "")]) == "A    LONG  C\naaa  b\n"
