"""The gateway as a process: started, stopped, started again on the same database."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import openai
import pytest

from smg.testing.engine import ScriptedEngine
from smg.testing.vocabulary import MODEL_PATH
from tests.durability.world import PATIENCE_SECONDS, Process

MODEL = "scripted"


@asynccontextmanager
async def gateway(engine: ScriptedEngine, database: Path) -> AsyncIterator[Process]:
    """A gateway process; it is told to stop at the end, and must do so by itself."""
    flags = ["--worker-urls", engine.url, "--model-path", str(MODEL_PATH)]
    process = await Process.start(*flags, "--database-url", f"sqlite:///{database}")
    try:
        yield process
        process.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.process.wait() == 0
    finally:
        await process.end()


async def heard(running: Process, parent: str) -> list[str]:
    """What the model is told when a chain goes on."""
    response = await running.openai.responses.create(
        model=MODEL, input="[[echo]]", previous_response_id=parent
    )
    return [text for _, text in json.loads(response.output_text)]


async def test_a_conversation_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine:
        async with gateway(engine, tmp_path / "smg.db") as running:
            create = running.openai.responses.create
            first = await create(model=MODEL, input="[[say:Red.]]")
            second = await create(model=MODEL, input="[[say:Blue.]]", previous_response_id=first.id)
            unstored = await create(model=MODEL, input="[[say:Grey.]]", store=False)
        async with gateway(engine, tmp_path / "smg.db") as running:
            responses = running.openai.responses
            assert await responses.retrieve(first.id) == first
            assert await responses.retrieve(second.id) == second
            with pytest.raises(openai.NotFoundError):
                await responses.retrieve(unstored.id)
            texts = ["[[say:Red.]]", "Red.", "[[say:Blue.]]", "Blue.", "[[echo]]"]
            assert await heard(running, second.id) == texts
            await responses.delete(first.id)
            assert await heard(running, second.id) == texts
            with pytest.raises(openai.NotFoundError):
                await responses.retrieve(first.id)
            with pytest.raises(openai.BadRequestError):
                await heard(running, first.id)


async def test_what_is_running_at_shutdown_may_end(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, AsyncExitStack() as stack:
        running = await stack.enter_async_context(gateway(engine, tmp_path / "smg.db"))
        question = "[[long:20]][[slow:1.5]]"
        stream = await running.openai.responses.create(model=MODEL, input=question, stream=True)
        for _ in range(3):
            await anext(stream)
        ending = asyncio.create_task(stack.aclose())  # It is told to stop, and waited for.
        kinds = [event.type async for event in stream]
        await ending
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") > 20
