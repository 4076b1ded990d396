"""The outermost layer: x-request-id on every answer, and one for a mistake of ours too."""

import logging
import re

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smg.errors import our_mistake
from smg.ids import new_id
from smg.web.errors import response_for

log = logging.getLogger(__name__)

HEADER = "x-request-id"
# Anything else could break a log line.
_PLAIN = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z")


class Edge:
    """Middleware in plain ASGI: nothing is wrapped around the body of a stream."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, name its answer, and answer for what nobody caught."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER.encode(), b"").decode("latin-1")
        request_id = given if _PLAIN.match(given) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id

        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except ClientDisconnect:
            log.debug("%s %s: the client left while it sent", scope["method"], scope["path"])
        except Exception:
            log.exception("%s %s failed (%s)", scope["method"], scope["path"], request_id)
            if started:
                raise  # The status is out; all that is left to do is to close the connection.
            await response_for(our_mistake())(scope, receive, send_named)
