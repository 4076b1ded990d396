"""A WebSocket as text frames: who may open one, what comes in, what goes out."""

from urllib.parse import urlsplit

from starlette.websockets import WebSocket, WebSocketDisconnect

from smg.errors import Forbidden, GatewayError
from smg.web.errors import response_for


class ClientGone(Exception):
    """Raised when there is nobody to send to any more."""


class TextSocket:
    """An open WebSocket."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | None:
        """The next text frame; `None`: a binary one.

        Raises:
            ClientGone: the client has closed the connection, or it broke.
        """
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientGone
        text: str | None = message.get("text")
        return text

    async def send(self, text: str) -> None:
        """Send a text frame.

        Raises:
            ClientGone: the client has closed the connection, or it broke.
        """
        try:
            await self._websocket.send_text(text)
        except (WebSocketDisconnect, OSError) as error:
            raise ClientGone from error

    async def close(self, code: int) -> None:
        """Close the connection in order."""
        await self._websocket.close(code)


async def refuse(websocket: WebSocket, error: GatewayError) -> None:
    """Answer the upgrade as any other request is refused: with a status and an envelope."""
    await websocket.send_denial_response(response_for(error))


def check_origin(websocket: WebSocket) -> None:
    """Refuse the pages of other sites: browsers let any page open a WebSocket to any host.

    Raises:
        Forbidden: a browser says that a foreign page wants the connection.
    """
    origin = websocket.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != websocket.headers.get("host"):
        raise Forbidden("WebSockets are not open to the pages of other sites.")
