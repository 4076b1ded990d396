"""/v1/chat/completions over HTTP: a body in, an object or a stream out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smg.agent.run import Tools
from smg.chat.intake import Models, accept
from smg.chat.render import ChunkRenderer, Completion, error_chunk, total, usage_chunk
from smg.chat.schema import ChatRequest
from smg.choices import Choice, Choices
from smg.events import Event, TurnFinished
from smg.turn import Limits, NewId, Now
from smg.web.admission import admitted
from smg.web.auth import OwnerOf
from smg.web.body import body_of, disconnected, read_body
from smg.web.placing import Placed
from smg.web.sse import event_stream


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
        owner = self.owner_of(request)
        body = await read_body(request, ChatRequest, self.max_body_bytes)
        await admitted(request, owner, self.models.find(body.model).name)
        order = await accept(body, self.models, self.limits, self.new_id, self.now)
        choices = [Choice(order.turn, order.first)] * order.choices
        running = Choices(order.model, self.tools, self.new_id, choices)
        placed = Placed(order.model, order.turn.id, order.first)
        if not order.streamed:
            ends = await running.ends(disconnected(request))
            return placed.ended(JSONResponse(Completion(order, ends).body()))
        renderers = [ChunkRenderer(order, index) for index in range(order.choices)]

        def last(ends: Sequence[TurnFinished]) -> list[bytes]:
            return [usage_chunk(order, total(ends))] if order.include_usage else []

        frames = running.frames(
            [_rendered_by(renderer) for renderer in renderers],
            last,
            [renderer.opening() for renderer in renderers],
        )
        return placed.planned(event_stream(frames))


def _rendered_by(renderer: ChunkRenderer) -> Callable[[Event], bytes]:
    def render(event: Event) -> bytes:
        if isinstance(event, TurnFinished) and event.error is not None:
            return error_chunk(event)
        return renderer.render(event)

    return render
