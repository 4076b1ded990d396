"""/v1/completions over HTTP: a body in, an object or a stream out."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from smg.agent.run import Tools
from smg.choices import Choice, Choices
from smg.completions.intake import Models, accept
from smg.completions.render import TextRenderer, completion, usage_frame
from smg.completions.schema import CompletionRequest
from smg.events import TurnFinished
from smg.turn import Limits, NewId, Now
from smg.web.admission import admitted
from smg.web.auth import OwnerOf
from smg.web.body import body_of, disconnected, read_body
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
        router = APIRouter(prefix="/v1", tags=["Completions"])
        router.post("/completions", openapi_extra=body_of(CompletionRequest))(self.create)
        return router

    async def create(self, request: Request) -> Response:
        """Go on with a text."""
        owner = self.owner_of(request)
        body = await read_body(request, CompletionRequest, self.max_body_bytes)
        await admitted(request, owner, self.models.find(body.model).name)
        order = await accept(body, self.models, self.limits, self.new_id, self.now)
        choices = [
            Choice(order.turn, start.first) for start in order.starts for _ in range(order.each)
        ]
        running = Choices(order.model, self.tools, self.new_id, choices)
        if not order.streamed:
            return JSONResponse(completion(order, await running.ends(disconnected(request))))
        renderers = [TextRenderer(order, index) for index in range(len(choices))]

        def last(ends: Sequence[TurnFinished]) -> list[bytes]:
            return [usage_frame(order, ends)] if order.include_usage else []

        first = [frame for renderer in renderers for frame in renderer.opening()]
        return event_stream(running.frames([r.render for r in renderers], last, first))
