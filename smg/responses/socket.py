"""/v1/responses over a WebSocket: one response after another, the same events without dressing.

Text frames in: each is a create body with a type. Out go the frames that a stream would have had,
and error frames instead of HTTP errors. Responses that nobody stores are remembered while the
connection lasts, so that its next turn can continue them. Does not know how a turn is run.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from smg.agent.silence import Silence
from smg.errors import Conflict, GatewayError, InvalidRequest, our_mistake
from smg.events import Outcome
from smg.items import Item
from smg.responses.intake import accept, find_model
from smg.responses.kitchen import Kitchen
from smg.responses.live import Live
from smg.responses.runs import Runs
from smg.responses.schema import ResponsesRequest
from smg.web.admission import Entrance
from smg.web.body import parse_object, validated
from smg.web.errors import retry_after
from smg.web.gate import ShuttingDown
from smg.web.sse import payload
from smg.web.websocket import ClientGone, TextSocket

log = logging.getLogger(__name__)

REMEMBERED = 8
"""Responses a connection remembers; the oldest is forgotten first."""

NORMAL: Final = 1000
RESTARTING: Final = 1012
"""Close codes: RFC 6455, and IANA's registry for the second."""

_IMPLIED = ("stream", "stream_options", "background")
_UNFINISHED = (Outcome.FAILED, Outcome.CANCELLED)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who talks, and through which entrance each of his turns comes."""

    owner: str
    entrance: Entrance


class Session:
    """One connection: at most one response at a time, and what was said in the last few."""

    def __init__(
        self, socket: TextSocket, kitchen: Kitchen, runs: Runs, visitor: Visitor, seconds: float
    ) -> None:
        self._socket = socket
        self._memory: dict[str, tuple[Item, ...]] = {}
        self._kitchen = replace(kitchen, remembered=self._memory)
        self._runs = runs
        self._visitor = visitor
        self._seconds = seconds
        self._turn: asyncio.Task[None] | None = None
        self._busy = False
        """Whether the client has not been told the end of its last turn."""

    async def serve(self) -> None:
        """Answer frames until the client leaves, the time is over, or the gateway stops."""
        closing = self._visitor.entrance.doors.closing
        listening = asyncio.create_task(self._listen())
        stopping = asyncio.create_task(closing.wait())
        try:
            await asyncio.wait(
                {listening, stopping},
                timeout=self._seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if listening.done():
                listening.result()
            listening.cancel()
            await self._bow_out(self._stopping() if closing.is_set() else self._too_old())
        except ClientGone:
            return
        finally:
            tasks = [task for task in (listening, stopping, self._turn) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> NoReturn:
        while True:
            await self._take(await self._socket.receive())

    async def _take(self, frame: str | None) -> None:
        if self._busy:
            await self._tell(
                Conflict(
                    "A response is in progress on this WebSocket; wait for its last event, or "
                    "open another connection.",
                    code="response_in_progress",
                )
            )
            return
        await self._rest()
        self._busy = True
        self._turn = asyncio.create_task(self._answer(frame))

    async def _rest(self) -> None:
        """Wait until the last turn has put away what it worked with."""
        if self._turn is not None:
            await asyncio.wait([self._turn])

    async def _bow_out(self, error: GatewayError) -> None:
        """Let a turn under way end, say why, and close."""
        await self._rest()
        await self._tell(error)
        await self._socket.close(RESTARTING if isinstance(error, ShuttingDown) else NORMAL)

    def _too_old(self) -> GatewayError:
        return InvalidRequest(
            f"This WebSocket has been open for {self._seconds / 60:g} minutes, the limit; "
            "open a new one to go on.",
            code="websocket_connection_limit_reached",
        )

    def _stopping(self) -> GatewayError:
        return ShuttingDown("The gateway is shutting down; open a new WebSocket to go on.")

    async def _answer(self, frame: str | None) -> None:
        """Answer one frame: with the events of a response, or with an error."""
        fields: Mapping[str, Any] = {}
        try:
            fields = _fields(frame)
            await self._respond(fields)
        except ClientGone:
            return  # Whoever receives hears of it too, and ends the session.
        except GatewayError as error:
            await self._fail(fields, error)
        except Exception:  # The edge of a frame: a bug must not leave the client waiting.
            log.exception("A WebSocket frame failed by a mistake of the gateway")
            await self._fail(fields, our_mistake())

    async def _respond(self, fields: Mapping[str, Any]) -> None:
        request = self._request(fields)
        owner, entrance = self._visitor.owner, self._visitor.entrance
        place = await entrance.enter(owner, find_model(request, self._kitchen).name)
        try:
            order = await accept(request, self._kitchen, owner)
            if fields.get("generate") is False:
                order = replace(order, model=Silence(), first=None)
            await self._stream(await self._runs.start(order, place=place))
        finally:
            entrance.leave()

    async def _stream(self, live: Live) -> None:
        async with aclosing(live.feed.follow()) as batches:
            async for batch in batches:
                self._settle(live)
                for frame in batch:
                    await self._socket.send(payload(frame))
        if live.ended is None or live.ended.outcome is Outcome.CANCELLED:
            raise GatewayError("The response was cancelled.", code="response_cancelled")

    def _request(self, fields: Mapping[str, Any]) -> ResponsesRequest:
        if fields.get("type") != "response.create":
            raise InvalidRequest(
                f"Invalid 'type': {fields.get('type')!r}; known is 'response.create'.",
                param="type",
                code="invalid_value",
            )
        for name in (*_IMPLIED, "stream_id"):
            if fields.get(name) is not None:
                raise InvalidRequest(
                    f"'{name}' cannot be set on a WebSocket: every response is streamed, one "
                    "after another.",
                    param=name,
                    code="unsupported_parameter",
                )
        request = validated({**fields, "stream": True}, ResponsesRequest)
        if request.store is not False and request.previous_response_id in self._memory:
            raise InvalidRequest(
                "A response that is stored cannot continue one that is not; send 'store': false.",
                param="store",
            )
        return request

    def _settle(self, live: Live) -> None:
        """Once a response has ended: remember or forget, before the client can go on."""
        if live.ended is None or not self._busy:
            return
        order = live.order
        if live.ended.outcome in _UNFINISHED:
            self._memory.pop(order.previous_response_id or "", None)
        elif not order.stored:
            said = (*order.turn.history, *order.turn.input, *live.ended.items)
            self._memory[order.turn.id] = said
            if len(self._memory) > REMEMBERED:
                del self._memory[next(iter(self._memory))]
        self._busy = False

    async def _fail(self, fields: Mapping[str, Any], error: GatewayError) -> None:
        """Say that a frame failed; what it wanted to continue is forgotten with it."""
        self._memory.pop(str(fields.get("previous_response_id")), None)
        self._busy = False
        try:
            await self._tell(error)
        except ClientGone:
            return

    async def _tell(self, error: GatewayError) -> None:
        about = error.envelope()["error"]
        shown: dict[str, Any] = {
            **about,
            "code": error.code or error.type,
        }  # Clients insist on a code.
        frame: dict[str, Any] = {"type": "error", "status": error.status, "error": shown}
        if seconds := retry_after(error):
            shown["retry_after"] = seconds
            frame["headers"] = {"retry-after": str(seconds)}  # Where Codex looks for it.
        await self._socket.send(json.dumps(frame))


def _fields(frame: str | None) -> Mapping[str, Any]:
    if frame is None:
        raise InvalidRequest("Frames are text, not binary.", code="invalid_type")
    return parse_object(frame.encode())
