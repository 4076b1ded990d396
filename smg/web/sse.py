"""Server-sent events: frames of bytes to a response that stays open."""

from collections.abc import AsyncIterator

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse

PING_SECONDS = 15
DONE = b"data: [DONE]\n\n"


def event_stream(frames: AsyncIterator[bytes]) -> EventSourceResponse:
    """Send frames as they come; a comment line keeps idle connections open.

    Lines end in LF and each batch is one write: some clients split on LF alone, and lose an
    event that arrives in two pieces.
    """
    return EventSourceResponse(frames, ping=PING_SECONDS, sep="\n", ping_message_factory=_ping)


def _ping() -> ServerSentEvent:
    return ServerSentEvent(comment="ping", sep="\n")
