"""The responses worked on in this process: each is a task of its own, whoever listens.

The order of things that must not change: a finished response is stored first, and only then does
any client hear of it.
"""

import asyncio
import logging
from collections.abc import Sequence

from smg.agent.loop import AgentLoop, Progress
from smg.agent.run import Tools, run_turn
from smg.errors import GatewayError, NotFound, StorageError
from smg.events import Event, Outcome, TurnFinished, Usage
from smg.responses.adorn import Adornment
from smg.responses.intake import Order
from smg.responses.live import Live
from smg.responses.record import begun, finished
from smg.responses.render import Renderer, final_body
from smg.seal import Seal
from smg.storage.base import Store
from smg.storage.records import EventBatch, Lease
from smg.turn import NewId, Now

log = logging.getLogger(__name__)

LOCK_MARGIN_SECONDS = 60.0
"""How much longer than its turn a conversation stays reserved, should the process die."""


class Runs:
    """Starts, finds and stops responses."""

    def __init__(self, store: Store, tools: Tools, seal: Seal, new_id: NewId, now: Now) -> None:
        self._store = store
        self._seal = seal
        self._tools = tools
        self._new_id = new_id
        self._now = now
        self._live: dict[str, Live] = {}
        self._holder = new_id("gw")

    async def start(self, order: Order) -> Live:
        """Begin to work on an order.

        Raises:
            Conflict: another turn holds the conversation.
        """
        adornment = Adornment(self._seal, order.turn.owner, seals_reasoning=order.seals_reasoning)
        lease = await self._reserve(order, adornment)
        live = Live(order)
        self._live[order.turn.id] = live
        run = _Run(live, self._store, lease, adornment, self._now)
        live.task = asyncio.create_task(self._work(run), name=order.turn.id)
        live.task.add_done_callback(lambda _: self._ended(live))
        return live

    def _ended(self, live: Live) -> None:
        self._live.pop(live.order.turn.id, None)
        live.feed.close()  # Also when the task was cancelled before it began.

    def find(self, response_id: str, owner: str) -> Live | None:
        """The running response of this id, if it is this owner's."""
        live = self._live.get(response_id)
        return live if live is not None and live.order.turn.owner == owner else None

    async def cancel(self, response_id: str, owner: str) -> None:
        """Stop a running response and wait until it is stored as cancelled.

        Raises:
            NotFound: it is not running here.
        """
        live = self.find(response_id, owner)
        if live is None:
            raise NotFound(f"Response with id '{response_id}' is not running.")
        live.cancel()
        await live.feed.wait()

    async def close(self, grace_seconds: float) -> None:
        """Give running responses time to end, then stop them."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _reserve(self, order: Order, adornment: Adornment) -> Lease | None:
        turn = order.turn
        ttl = turn.limits.wall_seconds + LOCK_MARGIN_SECONDS
        if order.conversation_id is not None:
            await self._store.conversations.lock(order.conversation_id, turn.owner, turn.id, ttl)
        if not order.background:
            return None
        record = begun(order, adornment.items(turn.input))
        return await self._store.responses.begin_claimed(record, self._holder, ttl)

    async def _work(self, run: "_Run") -> None:
        order = run.order
        loop = AgentLoop(order.turn, self._new_id, Progress(usage=order.spent or Usage()))
        try:
            await run.publish(loop.begin())
            await run_turn(
                loop, order.turn, order.model, self._tools, run.publish, first=order.first
            )
        except asyncio.CancelledError:
            await asyncio.shield(run.publish(loop.cancel()))
        except Exception:  # The edge of a turn: a bug must not leave readers waiting.
            log.exception("Response %s failed by a mistake of the gateway", order.turn.id)
            await run.publish(
                loop.fail(GatewayError("The gateway made a mistake; it has been logged."))
            )
        finally:
            await self._release(order)

    async def _release(self, order: Order) -> None:
        if order.conversation_id is not None:
            conversations = self._store.conversations
            await conversations.unlock(order.conversation_id, order.turn.owner, order.turn.id)


class _Run:
    """One turn's way out: frames for readers, rows for the store, in the right order."""

    def __init__(
        self,
        live: Live,
        store: Store,
        lease: Lease | None,
        adornment: Adornment,
        now: Now,
    ) -> None:
        order = live.order
        self.order = order
        self.live = live
        self._adornment = adornment
        self._store = store
        self._lease = lease
        self._now = now
        self._renderer: Renderer | None = None
        if order.streamed or order.background:
            self._renderer = Renderer(order.head, now)
            live.feed.push(self._renderer.opening(queued=order.background))

    async def publish(self, events: Sequence[Event]) -> None:
        """Show events to readers; the last one only when it is stored."""
        if not events:
            return
        events = self._adornment.adorned(events)
        last = events[-1]
        if not isinstance(last, TurnFinished):
            self.live.feed.push(self._frames(events))
            return
        frames = self._frames(events[:-1])
        self.live.feed.push(frames)
        await self._end(last)

    def _frames(self, events: Sequence[Event]) -> list[bytes]:
        if self._renderer is None:
            return []
        return [frame for event in events for frame in self._renderer.render(event)]

    async def _end(self, event: TurnFinished) -> None:
        body = final_body(self.order.head, event, self._now())
        last = self._frames([event])
        if self.order.stored:
            try:
                await self._save(event, body, last)
            except StorageError as error:
                log.exception("Response %s was not saved", self.order.turn.id)
                event = _unsaved(event, error)
                body = final_body(self.order.head, event, self._now())
                last = self._frames([event])
        self.live.end(event, body)
        self.live.feed.push(last)

    async def _save(self, event: TurnFinished, body: dict[str, object], last: list[bytes]) -> None:
        frames = [*self.live.feed.frames, *last]
        await self._store.responses.save(
            finished(self.order, self._adornment.items(self.order.turn.input), event, body),
            lease=self._lease,
            events=EventBatch(0, frames) if frames else None,
        )


def _unsaved(event: TurnFinished, error: StorageError) -> TurnFinished:
    """The truth about a turn whose end could not be stored; what was said is kept in it."""
    told = StorageError(f"The response was not saved: {error.message}")
    return TurnFinished(Outcome.FAILED, event.items, event.usage, error=told)
