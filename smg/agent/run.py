"""Taking a turn to its end: the only place that waits for models and tools.

Decisions are the loop's. Everything that becomes known is published in order, by this coroutine
alone. What can answer a generation or a call is known here only by the protocols below.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from smg.agent.loop import AgentLoop, CallTools, Generate, Progress, Stop
from smg.engines.base import Finish
from smg.errors import EngineError, RequestError, TurnTimeout
from smg.events import Event, ItemFinished, Usage
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


@dataclass(frozen=True, slots=True)
class Start:
    """What a generation starts from, as far as it is worth remembering."""

    prompt_hash: str = ""
    """SHA-256 of what the model reads; equal prompts have equal hashes. Empty: it reads nothing."""
    worker: str = ""
    """The name of the worker that is tried first; empty: none is up."""


class Model(Protocol):
    """Whatever can go on with a conversation."""

    async def prepare(self, turn: Turn, output: Sequence[Item], step: Generate) -> Any:
        """Make what one generation starts from, refusing what cannot be generated.

        Raises:
            RequestError: the conversation does not fit, or cannot be put to this model.
        """
        ...

    def start_of(self, prepared: Any) -> Start:
        """What a generation will start from, and where."""
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


class Journal(Protocol):
    """Whatever remembers how far a turn has come; each returns when it is safe."""

    async def generating(self, step: Generate, start: Callable[[], Start]) -> None:
        """Remember that the model is about to be asked; `start` tells, when asked, with what."""
        ...

    async def calling(self, progress: Progress) -> None:
        """Remember everything so far, the calls that are about to be made among it."""
        ...

    async def answered(self, call: Item) -> None:
        """Remember a call with its result."""
        ...


class NoJournal:
    """For turns that end with their process."""

    async def generating(self, step: Generate, start: Callable[[], Start]) -> None:
        """Forget it."""

    async def calling(self, progress: Progress) -> None:
        """Forget it."""

    async def answered(self, call: Item) -> None:
        """Forget it."""


@dataclass(frozen=True, slots=True)
class Crew:
    """Who takes part in a turn."""

    model: Model
    tools: Tools
    publish: Publish
    journal: Journal = NoJournal()


async def run_turn(loop: AgentLoop, turn: Turn, crew: Crew, *, first: Any = None) -> None:
    """Take a turn to its end, publishing each batch of events as it becomes known.

    `first` is what intake has already prepared for the first generation.
    """
    try:
        async with asyncio.timeout(turn.limits.wall_seconds):
            await _run(loop, turn, crew, first)
    except TimeoutError:
        seconds = turn.limits.wall_seconds
        await crew.publish(loop.fail(TurnTimeout(f"The response took longer than {seconds:g} s.")))
    except (EngineError, RequestError) as error:
        await crew.publish(loop.fail(error))


async def _run(loop: AgentLoop, turn: Turn, crew: Crew, first: Any) -> None:
    while True:
        match loop.action:
            case Generate() as step:
                prepared = first or await crew.model.prepare(turn, loop.output, step)
                first = None
                await crew.journal.generating(step, partial(crew.model.start_of, prepared))
                await _generate(loop, crew, prepared)
            case CallTools(calls):
                first = None  # Made before these calls, which a person has just allowed.
                await crew.journal.calling(loop.progress)
                await _call_tools(loop, crew, calls)
            case Stop():
                return


async def _generate(loop: AgentLoop, crew: Crew, prepared: Any) -> None:
    async with aclosing(crew.model.generate(prepared)) as spoken:
        async for words in spoken:
            events = loop.receive(words.deltas)
            if words.finish is not None:
                events += loop.generation_finished(words.finish, words.usage)
            if events:
                await crew.publish(events)


async def _call_tools(loop: AgentLoop, crew: Crew, calls: Sequence[GatewayCall]) -> None:
    tasks = [asyncio.create_task(_call(crew.tools, call)) for call in calls]
    try:
        for finished in asyncio.as_completed(tasks):
            item_id, result = await finished
            events = loop.tool_finished(item_id, result)
            settled = events[0]
            assert isinstance(settled, ItemFinished)
            await crew.journal.answered(settled.item)
            await crew.publish(events)
    finally:
        # No task group: it would hide the one error of a journal or publisher in a group.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _call(tools: Tools, call: GatewayCall) -> tuple[str, ToolResult]:
    return call.id, await tools.call(call.server_label, call.name, call.arguments)
