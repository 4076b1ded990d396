"""Taking a turn to its end: the only place that waits for models and tools.

Decisions are the loop's. Everything that becomes known is published in order, by this coroutine
alone. What can answer a generation or a call is known here only by the protocols below.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from smg.agent.loop import AgentLoop, CallTools, Generate, Stop
from smg.engines.base import Finish
from smg.errors import EngineError, RequestError, TurnTimeout
from smg.events import Event, Usage
from smg.items import GatewayCall, Item
from smg.parsers.base import ParsedDelta
from smg.turn import ToolResult, Turn

Publish = Callable[[Sequence[Event]], Awaitable[None]]  # Where a turn's events go.


@dataclass(slots=True)  # One per engine chunk: unfrozen for speed.
class Spoken:
    """What a model said next. The last of a generation has a finish and the usage."""

    deltas: Sequence[ParsedDelta]
    finish: Finish | None = None
    usage: Usage = Usage()


class Model(Protocol):
    """Whatever can go on with a conversation."""

    async def prepare(self, turn: Turn, output: Sequence[Item], step: Generate) -> Any:
        """Make what one generation starts from, refusing what cannot be generated.

        Raises:
            RequestError: the conversation does not fit, or cannot be put to this model.
        """
        ...

    def generate(self, prepared: Any) -> AsyncGenerator[Spoken, None]:
        """Stream one generation; closing the generator early frees the worker.

        Raises:
            EngineError: the worker failed.
        """
        ...


class Tools(Protocol):
    """Whatever runs the calls."""

    async def call(self, server: str, name: str, arguments: str) -> ToolResult:
        """Run one call; a failing tool is a result, not an exception."""
        ...


async def run_turn(
    loop: AgentLoop, turn: Turn, model: Model, tools: Tools, publish: Publish, *, first: Any = None
) -> None:
    """Take a turn to its end, publishing each batch of events as it becomes known.

    `first` is what intake has already prepared for the first generation.
    """
    try:
        async with asyncio.timeout(turn.limits.wall_seconds):
            await _run(loop, turn, model, tools, publish, first)
    except TimeoutError:
        seconds = turn.limits.wall_seconds
        await publish(loop.fail(TurnTimeout(f"The response took longer than {seconds:g} s.")))
    except (EngineError, RequestError) as error:
        await publish(loop.fail(error))


async def _run(
    loop: AgentLoop, turn: Turn, model: Model, tools: Tools, publish: Publish, first: Any
) -> None:
    while True:
        match loop.action:
            case Generate() as step:
                prepared = first or await model.prepare(turn, loop.output, step)
                first = None
                await _generate(loop, model, prepared, publish)
            case CallTools(calls):
                first = None  # Made before these calls, which a person has just allowed.
                await _call_tools(loop, calls, tools, publish)
            case Stop():
                return


async def _generate(loop: AgentLoop, model: Model, prepared: Any, publish: Publish) -> None:
    async with aclosing(model.generate(prepared)) as spoken:
        async for words in spoken:
            events = loop.receive(words.deltas)
            if words.finish is not None:
                events += loop.generation_finished(words.finish, words.usage)
            if events:
                await publish(events)


async def _call_tools(
    loop: AgentLoop, calls: Sequence[GatewayCall], tools: Tools, publish: Publish
) -> None:
    tasks = [asyncio.create_task(_call(tools, call)) for call in calls]
    try:
        for finished in asyncio.as_completed(tasks):
            item_id, result = await finished
            await publish(loop.tool_finished(item_id, result))
    finally:
        # No task group: it would hide the one error of a publisher in a group of errors.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _call(tools: Tools, call: GatewayCall) -> tuple[str, ToolResult]:
    return call.id, await tools.call(call.server_label, call.name, call.arguments)
