"""/v1/chat/completions over HTTP: a body in, an object or a stream out."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smg.agent.loop import AgentLoop
from smg.agent.run import Crew, Publish, Tools, run_turn
from smg.chat.intake import ChatOrder, Models, accept
from smg.chat.render import ChunkRenderer, Completion, error_chunk, total, usage_chunk
from smg.chat.schema import ChatRequest
from smg.errors import GatewayError
from smg.events import Event, TurnFinished
from smg.turn import Limits, NewId, Now
from smg.web.auth import OwnerOf
from smg.web.body import body_of, disconnected, read_body
from smg.web.feed import Feed
from smg.web.sse import DONE, event_stream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The endpoint, and what it works with."""

    models: Models
    tools: Tools
    limits: Limits
    new_id: NewId
    now: Now
    owner_of: OwnerOf
    max_body_bytes: int

    def router(self) -> APIRouter:
        """The table of paths."""
        router = APIRouter(prefix="/v1/chat", tags=["Chat"])
        router.post("/completions", openapi_extra=body_of(ChatRequest))(self.create)
        return router

    async def create(self, request: Request) -> Response:
        """Create a chat completion."""
        self.owner_of(request)
        body = await read_body(request, ChatRequest, self.max_body_bytes)
        order = await accept(body, self.models, self.limits, self.new_id, self.now)
        if order.streamed:
            return event_stream(self._stream(order))
        return await self._whole(order, request)

    async def _whole(self, order: ChatOrder, request: Request) -> JSONResponse:
        work = asyncio.create_task(self._run(order, [_nothing] * order.choices))
        gone = asyncio.create_task(disconnected(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
        ends = await work
        for end in ends:
            if end.error is not None:
                raise end.error
        return JSONResponse(Completion(order, ends).body())

    async def _stream(self, order: ChatOrder) -> AsyncGenerator[bytes, None]:
        feed = Feed(lambda: work.cancel())  # noqa: PLW0108 - made just below
        work = asyncio.create_task(self._feed(order, feed))
        try:
            async for frames in feed.read():
                yield frames
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    async def _feed(self, order: ChatOrder, feed: Feed) -> None:
        """Run the order into a feed; a mistake of ours is told like any other failure."""
        try:
            ends = await self._run(
                order, [_publish_to(feed, ChunkRenderer(order, n)) for n in range(order.choices)]
            )
            if all(end.error is None for end in ends):
                if order.include_usage:
                    feed.push([usage_chunk(order, total(ends))])
                feed.push([DONE])
        finally:
            feed.close()

    async def _run(self, order: ChatOrder, publishers: Sequence[Publish]) -> list[TurnFinished]:
        """Run all choices at once; each is a turn of its own over the same prompt."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._choose(order, publish)) for publish in publishers]
        return [task.result() for task in tasks]

    async def _choose(self, order: ChatOrder, publish: Publish) -> TurnFinished:
        loop = AgentLoop(order.turn, self.new_id)
        ended: list[TurnFinished] = []

        async def watch(events: Sequence[Event]) -> None:
            ended.extend(event for event in events if isinstance(event, TurnFinished))
            await publish(events)

        try:
            crew = Crew(order.model, self.tools, watch)
            await run_turn(loop, order.turn, crew, first=order.first)
        except Exception:  # The edge of a turn: a bug is told to the client, once.
            log.exception("Chat completion %s failed by a mistake of ours", order.turn.id)
            failure = GatewayError("The gateway made a mistake; it has been logged.")
            await watch(loop.fail(failure))
        return ended[-1]


async def _nothing(_events: Sequence[Event]) -> None:
    """Publish to nobody: the answer is made from the last event."""


def _publish_to(feed: Feed, renderer: ChunkRenderer) -> Publish:
    feed.push([renderer.opening()])

    async def publish(events: Sequence[Event]) -> None:
        feed.push([_render(renderer, event) for event in events])

    return publish


def _render(renderer: ChunkRenderer, event: Event) -> bytes:
    if isinstance(event, TurnFinished) and event.error is not None:
        return error_chunk(event)
    return renderer.render(event)
