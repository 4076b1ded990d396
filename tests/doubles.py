"""What stands in for engines and tools where a turn alone is tested: small, scripted, strict."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from smg.agent.loop import Generate
from smg.agent.run import Spoken, Start
from smg.engines.base import Finish
from smg.events import Event, Usage
from smg.items import Item
from smg.parsers.base import (
    ParsedDelta,
    ReasoningText,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from smg.turn import ToolResult, Turn

PATIENCE_SECONDS = 5.0


class Ids:
    """Ids that count: msg_1, msg_2, fc_1, ..."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __call__(self, prefix: str) -> str:
        self._counts[prefix] = self._counts.get(prefix, 0) + 1
        return f"{prefix}_{self._counts[prefix]}"


def call(name: str, *arguments: str) -> list[ParsedDelta]:
    """A whole call as a parser gives it."""
    return [ToolCallStart(name), *map(ToolCallArguments, arguments), ToolCallEnd()]


def says(*texts: str) -> list[ParsedDelta]:
    return [Text(text) for text in texts]


def thinks(*texts: str) -> list[ParsedDelta]:
    return [ReasoningText(text) for text in texts]


def tokens(written: int) -> Usage:
    return Usage(input_tokens=10, output_tokens=written)


def ends(written: int = 1, finish: Finish = Finish.STOP) -> Spoken:
    """The last words of a generation."""
    return Spoken([], finish, tokens(written))


Script = Sequence[Spoken | Exception | asyncio.Event]


class FakeModel:
    """Plays one script a generation. An event in a script is waited for; an error is raised.

    Strict: a generation without a script, and a script that nobody asked for, are mistakes.
    """

    def __init__(self, *scripts: Script, refusal: Exception | None = None) -> None:
        self._scripts = list(scripts)
        self._refusal = refusal
        self.steps: list[Generate] = []
        """What was asked for, without what was prepared by somebody else."""
        self.outputs: list[tuple[Item, ...]] = []
        self.prepared: list[Any] = []
        """What each generation started from."""
        self.open = 0
        """Generations that have not been closed."""
        self.speaking = asyncio.Event()
        """Set when a generation has begun."""

    async def prepare(self, turn: Turn, output: Sequence[Item], step: Generate) -> Any:
        if self._refusal is not None:
            raise self._refusal
        self.steps.append(step)
        self.outputs.append(tuple(output))
        return f"prompt {step.number}"

    def start_of(self, prepared: Any) -> Start:
        return Start(prompt_hash=f"hash of {prepared}", worker="w1")

    async def generate(self, prepared: Any) -> AsyncGenerator[Spoken, None]:
        self.prepared.append(prepared)
        self.open += 1
        self.speaking.set()
        try:
            for step in self._scripts.pop(0):
                match step:
                    case Exception():
                        raise step
                    case asyncio.Event():
                        async with asyncio.timeout(PATIENCE_SECONDS):
                            await step.wait()
                    case Spoken():
                        yield step
        finally:
            self.open -= 1

    def check_finished(self) -> None:
        """Fail if something of the script is left, or a generation is still open."""
        assert not self._scripts
        assert not self.open


class FakeTools:
    """Answers calls by tool name; a call it was not told of is a mistake.

    All calls of a name listed in `together` wait for one another, which proves that they overlap.
    """

    def __init__(
        self, results: Mapping[str, ToolResult | Exception] | None = None, *, together: int = 1
    ) -> None:
        self._results = results or {}
        self._barrier = asyncio.Barrier(together)
        self.calls: list[tuple[str, str, str]] = []
        self.hold: dict[str, asyncio.Event] = {}
        """Calls of these names wait for their event."""
        self.cancelled: list[str] = []
        self.called = asyncio.Event()
        """Set when a call has begun."""

    async def call(self, server: str, name: str, arguments: str) -> ToolResult:
        self.calls.append((server, name, arguments))
        self.called.set()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._barrier.wait()
                if name in self.hold:
                    await self.hold[name].wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        result = self._results[name]
        if isinstance(result, Exception):
            raise result
        return result


class Published:
    """Keeps what a turn publishes, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self._changed = asyncio.Condition()

    async def __call__(self, events: Sequence[Event]) -> None:
        async with self._changed:
            self.batches.append(list(events))
            self._changed.notify_all()

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    async def saw(self, kind: type, count: int = 1) -> None:
        """Return when so many events of a kind were published."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(
                lambda: sum(isinstance(event, kind) for event in self.events) >= count
            )
