"""Turns that nobody stores, several at once: the choices of chat and text completions.

Turns over prepared prompts in; their last events, or one stream of frames, out. All of them end
when their client leaves.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from smg.agent.loop import AgentLoop
from smg.agent.run import Crew, Model, Tools, run_turn
from smg.errors import our_mistake
from smg.events import Event, TurnFinished
from smg.turn import NewId, Turn
from smg.web.feed import Feed
from smg.web.sse import DONE

log = logging.getLogger(__name__)

Show = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """One turn and what its generation starts from."""

    turn: Turn
    first: Any
    """What the model has prepared."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The choices of one request."""

    model: Model
    tools: Tools
    new_id: NewId
    choices: Sequence[Choice]

    async def ends(self, gone: Awaitable[None]) -> list[TurnFinished]:
        """Run all to their ends, unless `gone` comes first.

        Raises:
            GatewayError: one of them failed.
        """
        work = asyncio.create_task(self._run([_nothing] * len(self.choices)))
        leaving = asyncio.ensure_future(gone)
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not work.done():
                work.cancel()
        ends = await work
        for end in ends:
            if end.error is not None:
                raise end.error
        return ends

    async def frames(
        self,
        render: Sequence[Callable[[Event], bytes]],
        last: Callable[[Sequence[TurnFinished]], Sequence[bytes]],
        first: Sequence[bytes] = (),
    ) -> AsyncGenerator[bytes, None]:
        """Run all; give `first`, each one's events as its function renders them, `last`, [DONE].

        A stream in which a choice failed ends with that one's last frame instead.
        """
        feed = Feed(lambda: work.cancel())  # noqa: PLW0108 - made just below
        feed.push(first)
        work = asyncio.create_task(self._feed(feed, render, last))
        try:
            async for frames in feed.read():
                yield frames
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    async def _feed(
        self,
        feed: Feed,
        render: Sequence[Callable[[Event], bytes]],
        last: Callable[[Sequence[TurnFinished]], Sequence[bytes]],
    ) -> None:
        try:
            ends = await self._run([_shown_in(feed, one) for one in render])
            if all(end.error is None for end in ends):
                feed.push([*last(ends), DONE])
        finally:
            feed.close()

    async def _run(self, shows: Sequence[Show]) -> list[TurnFinished]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._choose(choice, show))
                for choice, show in zip(self.choices, shows, strict=True)
            ]
        return [task.result() for task in tasks]

    async def _choose(self, choice: Choice, show: Show) -> TurnFinished:
        loop = AgentLoop(choice.turn, self.new_id)
        ended: list[TurnFinished] = []

        async def publish(events: Sequence[Event]) -> None:
            ended.extend(event for event in events if isinstance(event, TurnFinished))
            for event in events:
                show(event)

        try:
            crew = Crew(self.model, self.tools, publish)
            await run_turn(loop, choice.turn, crew, first=choice.first)
        except Exception:  # The edge of a turn: a bug is told to the client, once.
            log.exception("Completion %s failed by a mistake of ours", choice.turn.id)
            await publish(loop.fail(our_mistake()))
        return ended[-1]


def _nothing(_event: Event) -> None:
    """Show nothing: the answer is made from the last event."""


def _shown_in(feed: Feed, render: Callable[[Event], bytes]) -> Show:
    def show(event: Event) -> None:
        if frame := render(event):
            feed.push([frame])

    return show
