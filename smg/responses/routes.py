"""/v1/responses over HTTP: bodies in, objects or streams out. No decisions."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, WebSocket
from fastapi.responses import JSONResponse, Response

from smg.errors import GatewayError, InvalidRequest, NotFound
from smg.item_json import to_wire
from smg.responses.adorn import Adornment
from smg.responses.body import Json, usage_json
from smg.responses.compact import compact, kept_messages
from smg.responses.follow import events_of, finished_record
from smg.responses.intake import accept, find_model, new_turn
from smg.responses.kitchen import Kitchen, Order
from smg.responses.live import Live
from smg.responses.runs import Runs
from smg.responses.schema import CompactRequest, InputRequest, ResponsesRequest
from smg.responses.socket import Session, Visitor
from smg.storage.base import Store
from smg.storage.records import UNFINISHED, Repeated, RepeatKey, ResponseRecord
from smg.web.admission import admitted, entrance_of
from smg.web.auth import OwnerOf
from smg.web.body import body_of, disconnected, read_body
from smg.web.line import Place
from smg.web.pages import item_list, page_of
from smg.web.placing import Placed
from smg.web.sse import DONE, event_stream
from smg.web.websocket import TextSocket, check_origin, refuse

MAX_KEY = 255
"""Longest Idempotency-Key."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The endpoints, and what they work with."""

    kitchen: Kitchen
    runs: Runs
    owner_of: OwnerOf
    max_body_bytes: int
    websocket_seconds: float
    """How old a WebSocket gets."""

    def router(self) -> APIRouter:
        """The table of paths."""
        router = APIRouter(prefix="/v1/responses", tags=["Responses"])
        router.post("", openapi_extra=body_of(ResponsesRequest))(self.create)
        router.post("/input_tokens", openapi_extra=body_of(InputRequest))(self.input_tokens)
        router.post("/compact", openapi_extra=body_of(CompactRequest))(self.compact)
        router.get("/{response_id}")(self.retrieve)
        router.delete("/{response_id}")(self.delete)
        router.post("/{response_id}/cancel")(self.cancel)
        router.get("/{response_id}/input_items")(self.input_items)
        router.websocket("")(self.talk)
        return router

    async def create(self, request: Request) -> Response:
        """Create a response."""
        owner = self.owner_of(request)
        body = await read_body(request, ResponsesRequest, self.max_body_bytes)
        place = await self._let_in(request, body, owner)
        order = await accept(body, self.kitchen, owner)
        key = _repeat_key(request, body) if order.stored else None
        placed = Placed(order.model, order.turn.id, order.first)
        try:
            live = await self.runs.start(order, key, place)
        except Repeated as repeated:
            return await self._same(repeated.response_id, order, owner)
        return await self._answer(live, request, placed)

    async def _let_in(self, request: Request, body: ResponsesRequest, owner: str) -> Place | None:
        """A place for a request; one in the background is promised one, and waits for it later."""
        model = find_model(body, self.kitchen).name
        if body.background is not True or body.context_management:
            return await admitted(request, owner, model)  # Compaction is a model's work already.
        entrance_of(request).doors.promise(owner, model)
        return None

    async def _answer(self, live: Live, request: Request, placed: Placed) -> Response:
        if live.order.streamed:
            return placed.planned(event_stream(_with_done(live.feed.read())))
        if live.order.background:
            return placed.planned(JSONResponse(live.order.head.body("queued")))
        return placed.ended(await _whole(live, request))

    async def _same(self, response_id: str, order: Order, owner: str) -> Response:
        """The response that an idempotency key already has, in the form asked for."""
        if order.streamed:
            frames = await events_of(self._store, self.runs, response_id, owner, -1)
            return event_stream(_with_done(frames))
        if order.background:
            return JSONResponse(stored_body(await self._store.responses.get(response_id, owner)))
        record = await finished_record(self._store, self.runs, response_id, owner)
        return JSONResponse(stored_body(record))

    async def talk(self, websocket: WebSocket) -> None:
        """Create responses one after another over one connection."""
        try:
            check_origin(websocket)
            owner = self.owner_of(websocket)
            with entrance_of(websocket).doors.socket(owner):
                await websocket.accept()
                await self._session(websocket, owner).serve()
        except GatewayError as error:  # A session has none.
            await refuse(websocket, error)

    def _session(self, websocket: WebSocket, owner: str) -> Session:
        return Session(
            TextSocket(websocket),
            self.kitchen,
            self.runs,
            Visitor(owner, entrance_of(websocket)),
            self.websocket_seconds,
        )

    async def input_tokens(self, request: Request) -> Json:
        """Count the tokens that would be sent to the engine."""
        owner = self.owner_of(request)
        body = await read_body(request, InputRequest, self.max_body_bytes)
        model = find_model(body, self.kitchen)
        turn = (await new_turn(body, self.kitchen, model, owner)).turn
        return {"object": "response.input_tokens", "input_tokens": await model.count(turn)}

    async def compact(self, request: Request) -> Json:
        """Replace a conversation by its users' words and one opaque summary."""
        owner, kitchen = self.owner_of(request), self.kitchen
        body = await read_body(request, CompactRequest, self.max_body_bytes)
        model = find_model(body, kitchen)
        await admitted(request, owner, model.name)
        turn = (await new_turn(body, kitchen, model, owner)).turn
        item, usage = await compact(turn, model, kitchen.new_id)
        sealed = Adornment(kitchen.seal, owner, seals_reasoning=False).item(item)
        kept = kept_messages((*turn.history, *turn.input))
        return {
            "id": turn.id,
            "object": "response.compaction",
            "created_at": turn.created_at,
            "output": [to_wire(item) for item in (*kept, sealed)],
            "usage": usage_json(usage),
        }

    async def retrieve(
        self,
        request: Request,
        response_id: str,
        stream: bool = False,
        starting_after: Annotated[int | None, Query()] = None,
    ) -> Response:
        """Get a stored response, as an object or as the stream it was."""
        owner = self.owner_of(request)
        if stream:
            after = -1 if starting_after is None else starting_after
            frames = await events_of(self._store, self.runs, response_id, owner, after)
            return event_stream(_with_done(frames))
        if starting_after is not None:
            raise InvalidRequest("'starting_after' needs stream=true.", param="starting_after")
        return JSONResponse(stored_body(await self._store.responses.get(response_id, owner)))

    async def delete(self, request: Request, response_id: str) -> Json:
        """Delete a stored response."""
        await self._store.responses.delete(response_id, self.owner_of(request))
        return {"id": response_id, "object": "response", "deleted": True}

    async def cancel(self, request: Request, response_id: str) -> Json:
        """Stop a background response; one that has ended is returned as it is."""
        owner = self.owner_of(request)
        record = await self._store.responses.get(response_id, owner)
        if not record.background:
            raise InvalidRequest("Cannot cancel a synchronous response.", param="response_id")
        if self.runs.find(response_id, owner) is not None:
            await self.runs.cancel(response_id, owner)
        elif record.status in UNFINISHED:
            # Another process works on it, and will see this; or it is dead, and this is the end.
            await self._store.responses.request_cancel(response_id, owner)
            await self._store.responses.set_status(response_id, owner, UNFINISHED, "cancelled")
        record = await self._store.responses.get(response_id, owner)
        return stored_body(record)

    async def input_items(self, request: Request, response_id: str) -> Json:
        """List what a response was made from."""
        owner, page = self.owner_of(request), page_of(request)
        return item_list(await self._store.responses.input_items(response_id, owner, page))

    @property
    def _store(self) -> Store:
        return self.kitchen.store


def _repeat_key(request: Request, body: ResponsesRequest) -> RepeatKey | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if len(key) > MAX_KEY:
        raise InvalidRequest(f"Idempotency-Key: at most {MAX_KEY} characters.")
    return RepeatKey(key, hashlib.sha256(body.model_dump_json().encode()).hexdigest())


def stored_body(record: ResponseRecord) -> Json:
    """The response object of a stored record."""
    return {**record.body, "output": [to_wire(item) for item in record.output]}


async def _with_done(frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for batch in frames:
            yield batch
        yield DONE
    finally:
        await frames.aclose()


async def _whole(live: Live, request: Request) -> JSONResponse:
    """The finished response of one that is not streamed."""
    ended = asyncio.create_task(live.feed.wait())
    gone = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        gone.cancel()
    if live.body is None or live.ended is None:
        raise NotFound("The response was cancelled: its client went away.")
    if isinstance(live.ended.error, GatewayError):
        raise live.ended.error
    return JSONResponse(live.body)
