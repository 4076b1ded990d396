"""Server-sent events: frames of bytes to a response that stays open."""

import math
from collections.abc import AsyncIterator

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse

PING_SECONDS = 15
DONE = b"data: [DONE]\n\n"
_DATA, _END = b"data: ", b"\n\n"


def event_stream(frames: AsyncIterator[bytes]) -> EventSourceResponse:
    """Send frames as they come; a comment line keeps idle connections open.

    Lines end in LF and each batch is one write: some clients split on LF alone, and lose an
    event that arrives in two pieces.
    """
    return EventSourceResponse(
        frames,
        ping=PING_SECONDS,
        sep="\n",
        ping_message_factory=_ping,
        # At shutdown a stream may go on: the server knows for how long, and cuts it then.
        shutdown_grace_period=math.inf,
    )


def payload(frame: bytes) -> str:
    """The JSON of a frame, for a transport that needs no dressing."""
    return frame[frame.index(_DATA) + len(_DATA) : -len(_END)].decode()


def _ping() -> ServerSentEvent:
    return ServerSentEvent(comment="ping", sep="\n")
