"""x-request-id on every answer: the client's own, or a fresh one."""

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smg.ids import new_id

HEADER = "x-request-id"
# Anything else could break a log line.
_PLAIN = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z")


class RequestIds:
    """Middleware in plain ASGI: nothing is wrapped around the body of a stream."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and name its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER.encode(), b"").decode("latin-1")
        request_id = given if _PLAIN.match(given) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_named)
