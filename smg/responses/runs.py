"""The responses worked on in this process: each is a task of its own, whoever listens."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from smg.agent.loop import AgentLoop, Progress
from smg.agent.run import Crew, Journal, NoJournal, Tools, run_turn
from smg.errors import Conflict, GatewayError, NotFound, StorageDamaged, our_mistake
from smg.events import Usage
from smg.faults import reached
from smg.responses.adorn import Adornment
from smg.responses.body import Json
from smg.responses.event_log import EventLog
from smg.responses.kitchen import Order
from smg.responses.live import Live
from smg.responses.outlet import Fenced, Outlet, StepJournal, Ways
from smg.responses.record import begun
from smg.responses.render import Place
from smg.responses.saved_order import order_to_json
from smg.seal import Seal
from smg.storage.base import Store
from smg.storage.records import UNFINISHED, Lease, RepeatKey, Step
from smg.turn import NewId, Now, ServerTool, ToolResult
from smg.web.doors import Doors
from smg.web.gate import ShuttingDown
from smg.web.line import Place as DoorPlace

log = logging.getLogger(__name__)

LOCK_MARGIN_SECONDS = 60.0
"""How much longer than its turn a conversation stays reserved, should the process die."""
RENEWALS = 3
"""How often a lease is renewed before it would run out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """How hard a response holds on to life."""

    lease_seconds: float = 15.0
    """After this time without a sign of life another process may take a response over."""
    on_disconnect: Literal["continue", "cancel"] = "continue"
    """What a stored response does when its client goes away."""
    on_restart: Literal["fail", "continue"] = "fail"
    """What becomes of a foreground response whose process died; background ones go on."""
    on_unknown_outcome: Literal["error", "ask"] = "error"
    """What a call becomes that may or may not have run when its process died."""
    max_attempts: int = 3
    """How many processes may die over one response before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Where an earlier process left a turn."""

    progress: Progress
    place: Place
    next_step: int
    last: Json | None
    """The last generation that it has written down."""
    prelude: Callable[[AgentLoop, Outlet, Journal], Awaitable[None]]
    """What is to be published before the turn goes on."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the task of one response works with."""

    outlet: Outlet
    loop: AgentLoop
    journal: Journal
    restart: Restart | None = None


class Runs:
    """Starts, finds and stops responses."""

    def __init__(  # noqa: PLR0913 - one of each thing it works with
        self,
        *,
        store: Store,
        tools: Tools,
        seal: Seal,
        new_id: NewId,
        now: Now,
        doors: Doors,
        durability: Durability | None = None,
        strict: bool = False,
    ) -> None:
        self.durability = durability or Durability()
        self.holder = new_id("gw")
        self._store = store
        self._tools = tools
        self._seal = seal
        self._new_id = new_id
        self._doors = doors
        self._live: dict[str, Live] = {}
        self._events = EventLog(store.journal)
        self._ways = Ways(store=store, events=self._events, now=now, strict=strict)
        self._heart: asyncio.Task[None] | None = None
        self._handing_over = False

    async def start(
        self, order: Order, key: RepeatKey | None = None, place: DoorPlace | None = None
    ) -> Live:
        """Begin to work on an order; `key` marks it as one that its client may send again.

        Without a place it waits for one, as it has been promised, and is queued until then.

        Raises:
            Conflict: another turn holds the conversation, or the key is another request's.
            Repeated: the key already has a response.
            StorageDamaged: it is to be stored, and nothing can be.
        """
        if order.stored and (damage := self._store.damage) is not None:
            raise StorageDamaged(damage)
        adornment = self._adornment(order)
        lease, journal = None, None
        if _is_durable(order, key):
            entry = order_to_json(order)
            lease = await self._store.responses.begin_claimed(
                begun(order, adornment.items(order.turn.input)),
                self.holder,
                self.durability.lease_seconds,
                Step(number=0, kind="order", state=entry),
                key,
            )
            reached("order-begun")
            journal = StepJournal(self._store.journal, lease, 1, entry["first"])
        await self._reserve(order, key)
        outlives = order.stored and self.durability.on_disconnect == "continue"
        live = Live(order, outlives_client=outlives or order.background)
        live.place = place.hold() if place is not None else None
        outlet = Outlet(live, self._ways, adornment, lease)
        outlet.queue() if order.background else outlet.open()
        progress = Progress(usage=order.spent or Usage())
        work = Work(outlet, AgentLoop(order.turn, self._new_id, progress), journal or NoJournal())
        self._begin(live, work)
        return live

    async def _reserve(self, order: Order, key: RepeatKey | None) -> None:
        """Take the conversation for this order, or leave no trace of it."""
        try:
            if order.turn.approved or order.denied:
                await self._answer(order)
            if order.conversation_id is not None:
                turn = order.turn
                ttl = turn.limits.wall_seconds + LOCK_MARGIN_SECONDS
                conversations = self._store.conversations
                await conversations.lock(order.conversation_id, turn.owner, turn.id, ttl)
                reached("conversation-locked")
        except GatewayError:
            await self._withdraw(order, key)
            raise

    async def _answer(self, order: Order) -> None:
        turn = order.turn
        approved = [call.approval_request_id or "" for call in turn.approved]
        await self._store.approvals.answer(
            turn.owner, turn.id, approved=approved, denied=order.denied
        )

    async def _withdraw(self, order: Order, key: RepeatKey | None) -> None:
        """Undo what `start` has stored."""
        turn, responses = order.turn, self._store.responses
        if key is not None:
            await self._store.journal.forget_key(turn.owner, key.key, turn.id)
        if turn.approved or order.denied:
            await self._store.approvals.take_back(turn.owner, turn.id)
        if _is_durable(order, key):
            await responses.set_status(turn.id, turn.owner, UNFINISHED, "cancelled")
            await responses.delete(turn.id, turn.owner)

    def resume(self, order: Order, lease: Lease, restart: Restart) -> Live:
        """Go on with a turn whose process died, as soon as there is a place for it."""
        live = Live(order, outlives_client=True, first_frame=restart.place.number)
        outlet = Outlet(live, self._ways, self._adornment(order), lease, restart.place)
        journal = StepJournal(self._store.journal, lease, restart.next_step, restart.last)
        loop = AgentLoop(order.turn, self._new_id, restart.progress)
        self._begin(live, Work(outlet, loop, journal, restart))
        return live

    def states(self) -> Mapping[str, int]:
        """How many responses wait here for a place, and how many are worked on."""
        waiting = sum(live.place is None for live in self._live.values())
        return {"queued": waiting, "in_progress": len(self._live) - waiting}

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
        """Give running responses time to end; background ones are left to another process."""
        self._doors.close()  # Who waits for a place is left to it at once.
        tasks = {live.task: live for live in self._live.values() if live.task is not None}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            self._handing_over = True
            for task in late:
                if not tasks[task].is_handed_over:  # Else its lease is just being given back.
                    task.cancel()
            if late:
                await asyncio.wait(late)
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        await self._events.close()

    def _adornment(self, order: Order) -> Adornment:
        return Adornment(self._seal, order.turn.owner, seals_reasoning=order.seals_reasoning)

    def _begin(self, live: Live, work: Work) -> None:
        response_id = live.order.turn.id
        live.lease = work.outlet.lease
        self._live[response_id] = live
        live.task = asyncio.create_task(self._work(live, work), name=response_id)
        live.task.add_done_callback(lambda _: self._ended(live))
        if live.lease is not None and self._heart is None:
            self._heart = asyncio.create_task(self._beat(), name="lease-renewal")

    def _ended(self, live: Live) -> None:
        self._live.pop(live.order.turn.id, None)
        if live.place is not None:
            live.place.leave()
        live.feed.close()  # Also when the task was cancelled before it began.

    async def _work(self, live: Live, work: Work) -> None:
        order = live.order
        try:
            await self._wait(live)
            await self._run(live, work)
        except asyncio.CancelledError:
            await asyncio.shield(self._stopped(live, work.outlet, work.loop))
        except ShuttingDown:
            await asyncio.shield(self._hand_over(live, work.outlet, work.loop))
        except Fenced:
            log.warning("Response %s ended elsewhere; this process lets it go", order.turn.id)
        finally:
            if order.conversation_id is not None and not live.is_handed_over:
                reached("unlock-before")
                await self._store.conversations.unlock(
                    order.conversation_id, order.turn.owner, order.turn.id
                )

    async def _wait(self, live: Live) -> None:
        """Wait for a place, unless it came with one."""
        if live.place is not None:
            return
        turn = live.order.turn
        if not self._doors.has_room(turn.owner, turn.model):
            # It may take long, and many may wait: the prompt's tokens are made again then.
            live.order = replace(live.order, first=None)
        live.place = await self._doors.enter_at_last(turn.owner, turn.model)

    async def _run(self, live: Live, work: Work) -> None:
        order, outlet, loop = live.order, work.outlet, work.loop
        tools = _Perilous(order.tools or self._tools)
        try:
            if order.background:
                await self._say_it_runs(live, outlet)
            if work.restart is not None:
                await work.restart.prelude(loop, outlet, work.journal)
            else:
                await outlet.publish(loop.begin())
            crew = Crew(order.model, tools, outlet.publish, work.journal)
            await run_turn(loop, order.turn, crew, first=order.first)
        except Fenced:
            raise
        except GatewayError as error:
            await outlet.publish(loop.fail(error))
        except Exception:  # The edge of a turn: a bug must not leave readers waiting.
            log.exception("Response %s failed by a mistake of the gateway", order.turn.id)
            await outlet.publish(loop.fail(our_mistake()))

    async def _say_it_runs(self, live: Live, outlet: Outlet) -> None:
        turn = live.order.turn
        if live.lease is not None:
            await self._store.responses.set_status(turn.id, turn.owner, {"queued"}, "in_progress")
        if outlet.is_queued:
            outlet.open()

    async def _stopped(self, live: Live, outlet: Outlet, loop: AgentLoop) -> None:
        """What a cancelled task leaves behind: a cancelled response, or one to be taken over."""
        if self._handing_over:
            await self._hand_over(live, outlet, loop)
        else:
            await self._publish_last(outlet, loop.cancel())

    async def _hand_over(self, live: Live, outlet: Outlet, loop: AgentLoop) -> None:
        if live.lease is not None and live.order.background:
            live.is_handed_over = True
            await self._store.journal.release(live.lease)
        else:
            error = GatewayError("The gateway was shut down.", code="gateway_restarted")
            await self._publish_last(outlet, loop.fail(error))

    async def _publish_last(self, outlet: Outlet, events: Any) -> None:
        try:
            await outlet.publish(events)
        except (Fenced, GatewayError) as error:
            log.warning("The end of a response was not stored: %s", error)

    async def _beat(self) -> None:
        """Renew the leases of running responses; stop those that were cancelled or lost."""
        seconds = self.durability.lease_seconds
        while True:
            await asyncio.sleep(seconds / RENEWALS)
            for live in list(self._live.values()):
                if live.lease is not None:
                    await self._renew(live, live.lease)

    async def _renew(self, live: Live, lease: Lease) -> None:
        try:
            if await self._store.journal.renew(lease, self.durability.lease_seconds):
                live.cancel()
        except Conflict:
            # Perhaps it ended in this very moment. Who is still here at the next beat was ended, or
            # taken over, elsewhere, and may wait for a tool that nobody wants any more.
            log.debug("The lease of %s is gone", lease.response_id)
            if live.is_lost:
                live.cancel()
            live.is_lost = True
        except GatewayError as error:
            log.warning("The lease of %s was not renewed: %s", lease.response_id, error)


class _Perilous:
    """Tools whose calls can be the last thing that this process does."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def call(self, server: str, name: str, arguments: str) -> ToolResult:
        reached("call-before")
        result = await self._tools.call(server, name, arguments)
        reached("call-after")
        return result


def _is_durable(order: Order, key: RepeatKey | None) -> bool:
    """Whether a response must be known before its end: somebody could ask for it again."""
    calls_tools = any(isinstance(offer.tool, ServerTool) for offer in order.turn.tools.offers)
    seen_by_others = order.background or order.streamed or order.conversation_id is not None
    return order.stored and (seen_by_others or calls_tools or key is not None)
