"""One response while it is worked on."""

import asyncio

from smg.events import TurnFinished
from smg.responses.body import Json
from smg.responses.kitchen import Order
from smg.storage.records import Lease
from smg.web.feed import Feed
from smg.web.line import Place


class Live:
    """A running response: its order, its stream, its task, and what became of it."""

    def __init__(self, order: Order, *, outlives_client: bool, first_frame: int = 0) -> None:
        self.order = order
        self.feed = Feed(self._abandoned, first_frame)
        self.lease: Lease | None = None
        self.place: Place | None = None
        """Its place among those that are worked on; `None`: it waits for one."""
        self.is_handed_over = False
        """Whether another process goes on with it."""
        self.is_lost = False
        """Whether the lease was gone when it was to be renewed."""
        self._outlives_client = outlives_client
        self.task: asyncio.Task[None] | None = None
        self.ended: TurnFinished | None = None
        self.body: Json | None = None
        """The response as it will stay, once it has ended."""

    def end(self, event: TurnFinished, body: Json) -> None:
        """Set what became of the response."""
        self.ended, self.body = event, body

    def cancel(self) -> None:
        """Ask the turn to stop."""
        if self.task is not None:
            self.task.cancel()

    def _abandoned(self) -> None:
        """Stop working for a client that went away, unless the response is kept for later."""
        if not self._outlives_client:
            self.cancel()
