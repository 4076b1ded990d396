"""Responses whose process died: taken over, gone on with, or ended with the truth.

A call that was about to run and has no result is never silently run again: nobody knows whether
it ran. Only tools that the operator declared idempotent are.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from smg.agent.loop import AgentLoop, Progress
from smg.agent.run import Journal
from smg.errors import Conflict, GatewayError
from smg.events import (
    CallReady,
    Event,
    ItemDelta,
    ItemFinished,
    ItemStarted,
    Outcome,
    TurnFinished,
    Usage,
)
from smg.items import (
    CustomToolCall,
    FunctionCall,
    HostedCall,
    Item,
    McpCall,
    Message,
    Reasoning,
    Status,
    ToolError,
)
from smg.responses.adorn import Adornment
from smg.responses.body import Head, Json
from smg.responses.kitchen import Kitchen, Order
from smg.responses.outlet import Outlet
from smg.responses.render import Place, Renderer, final_body
from smg.responses.replayed import Replayed, replayed, so_far
from smg.responses.runs import Restart, Runs
from smg.responses.saved import items_from_json, progress_from_json, with_results
from smg.responses.saved_order import order_from_json
from smg.storage.records import EventBatch, Lease, Step, UnfinishedResponse
from smg.turn import ToolResult

log = logging.getLogger(__name__)

IsIdempotent = Callable[[str, str], bool]  # Server label and tool name.

RESTARTED = "gateway_restarted"
GIVEN_UP = "recovery_limit"


class Recovery:
    """Looks for orphaned responses, at start and ever after."""

    def __init__(self, runs: Runs, kitchen: Kitchen, is_idempotent: IsIdempotent) -> None:
        self._runs = runs
        self._kitchen = kitchen
        self._is_idempotent = is_idempotent
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take over what is orphaned now, and go on looking in the background."""
        await self.sweep()
        self._watch = asyncio.create_task(self._watching(), name="recovery")

    async def close(self) -> None:
        """Stop looking."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    async def sweep(self) -> int:
        """Take over every orphaned response; how many there were."""
        found = await self._kitchen.store.journal.unfinished()
        orphans = [orphan for orphan in found if not self._is_ours(orphan)]
        for orphan in orphans:
            await self._take_over(orphan)
        return len(orphans)

    def _is_ours(self, orphan: UnfinishedResponse) -> bool:
        """Whether this very process works on it.

        Its lease could not be renewed in time: the process slept, or the database was away. As long
        as nobody else took it, it is renewed at the next beat.
        """
        live = self._runs.find(orphan.id, orphan.owner)
        return live is not None and not live.is_lost

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(self._runs.durability.lease_seconds)
            try:
                await self.sweep()
            except GatewayError as error:
                log.warning("Looking for orphaned responses failed: %s", error)

    async def _take_over(self, orphan: UnfinishedResponse) -> None:
        seconds = self._runs.durability.lease_seconds
        journal = self._kitchen.store.journal
        lease = await journal.claim(orphan.id, orphan.owner, self._runs.holder, seconds)
        if lease is None:
            return  # Somebody else was quicker.
        try:
            await self._decide(orphan, lease)
        except GatewayError as error:
            log.exception("Response %s could not be taken up again", orphan.id)
            await self._end(lease, Outcome.FAILED, GatewayError(error.message, code=RESTARTED))
        except Exception:
            # One response must not keep the gateway from starting, nor the others from going on:
            # its lease runs out, and after some attempts it is given up.
            log.exception("Taking up response %s failed by a mistake of the gateway", orphan.id)

    async def _decide(self, orphan: UnfinishedResponse, lease: Lease) -> None:
        durability = self._runs.durability
        if orphan.cancel_requested:
            await self._end(lease, Outcome.CANCELLED, None)
        elif lease.attempt > durability.max_attempts:
            message = f"The gateway died {durability.max_attempts} times over this response."
            await self._end(lease, Outcome.FAILED, GatewayError(message, code=GIVEN_UP))
        elif orphan.background or durability.on_restart == "continue":
            await self._resume(lease)
        else:
            message = "The gateway was restarted while it worked on this response."
            await self._end(lease, Outcome.FAILED, GatewayError(message, code=RESTARTED))

    async def _resume(self, lease: Lease) -> None:
        written = await self._kitchen.store.journal.steps(lease.response_id, lease.owner)
        if not written:
            raise GatewayError("It was accepted, but what was asked was not written down.")
        steps = [step for step in written if step.kind != "generation"]
        order = await order_from_json(steps[0].state, self._kitchen, lease.owner)
        if steps[0].state["own_servers"]:
            raise GatewayError("It used tool servers whose credentials are not kept.")
        seen = await self._replayed(lease)
        if len(steps) == 1 and order.turn.approved:
            order = self._with_new_ids(order)
        progress = _progress(order, steps, seen)
        if seen.next_number == 0:
            progress = replace(progress, items=progress.items if len(steps) > 1 else ())
        restart = Restart(
            progress=progress,
            place=_place(progress, seen),
            next_step=written[-1].number + 1,
            last=_last_start(written),
            prelude=self._prelude(steps, seen),
        )
        log.info("Response %s goes on from step %d", lease.response_id, written[-1].number)
        self._runs.resume(order, lease, restart)

    def _with_new_ids(self, order: Order) -> Order:
        """The order with its approved calls under other ids: the stream may have shown the old."""
        new_id = self._kitchen.new_id
        approved = tuple(replace(call, id=new_id("mcp")) for call in order.turn.approved)
        return replace(order, turn=replace(order.turn, approved=approved))

    async def _replayed(self, lease: Lease) -> Replayed:
        frames: list[bytes] = []
        journal = self._kitchen.store.journal
        while batch := await journal.events(lease.response_id, lease.owner, after=len(frames) - 1):
            frames += (frame for _, frame in batch)
        return replayed(frames)

    def _prelude(
        self, steps: Sequence[Step], seen: Replayed
    ) -> Callable[[AgentLoop, Outlet, Journal], Awaitable[None]]:
        """What is published first: what was cut short is closed, lost calls get their results."""

        async def publish(loop: AgentLoop, outlet: Outlet, journal: Journal) -> None:
            if seen.next_number == 0:
                outlet.open()
            known = {item.id for item in loop.output}
            outlet.close_superseded([(n, i) for n, i in seen.open_items if i.id not in known])
            if len(steps) == 1:
                await outlet.publish(loop.begin())
            else:
                await outlet.publish(_unseen(loop.output, seen))
            for call in [item for item in loop.output if _is_pending(item)]:
                assert isinstance(call, McpCall | HostedCall)
                if not self._is_idempotent(call.server_label, call.name):
                    await outlet.publish(await self._settle(loop, journal, call))

        return publish

    async def _settle(
        self, loop: AgentLoop, journal: Journal, call: McpCall | HostedCall
    ) -> list[Event]:
        message = (
            "The gateway was restarted while this tool was called: nobody knows whether it ran. "
            "Do not assume either."
        )
        result = ToolResult(error=ToolError(kind="mcp_protocol_error", message=message))
        if self._runs.durability.on_unknown_outcome == "ask" and isinstance(call, McpCall):
            return loop.ask_again(call.id, result)
        events = loop.tool_finished(call.id, result)
        settled = events[0]
        assert isinstance(settled, ItemFinished)
        await journal.answered(settled.item)  # Or the next process would settle it again.
        return events

    async def _end(self, lease: Lease, outcome: Outcome, error: GatewayError | None) -> None:
        """Store the end of a response that nobody goes on with; its stream says so too."""
        store = self._kitchen.store
        record = await store.responses.get(lease.response_id, lease.owner)
        steps = await store.journal.steps(lease.response_id, lease.owner)
        head = Head(steps[0].state["head"] if steps else record.body)
        progress = _written(steps)
        seen = await self._replayed(lease)
        wants_sealed = bool(steps) and steps[0].state["seals_reasoning"]
        adornment = Adornment(self._kitchen.seal, lease.owner, seals_reasoning=wants_sealed)
        items = adornment.items(_told(progress.items, seen))
        event = TurnFinished(outcome, items, progress.usage, error=error)
        body = final_body(head, event, self._kitchen.now())
        frames: list[bytes] = []
        if seen.next_number:
            renderer = Renderer(head, self._kitchen.now, _place(progress, seen))
            last = adornment.adorned([*_unseen(progress.items, seen), event])
            frames = [frame for told in last for frame in renderer.render(told)]
        try:
            await store.responses.save(
                replace(
                    record,
                    status=body["status"],
                    body={key: value for key, value in body.items() if key != "output"},
                    output=items,
                ),
                lease=lease,
                events=EventBatch(seen.next_number, frames) if frames else None,
            )
        except Conflict as conflict:
            log.warning("Response %s ended elsewhere: %s", lease.response_id, conflict)


def _written(steps: Sequence[Step]) -> Progress:
    """The state that the journal tells of: the last entry of calls, and the results since."""
    at = max((n for n, step in enumerate(steps) if step.kind == "calls"), default=None)
    if at is None:
        return Progress()
    results = items_from_json([step.state for step in steps[at + 1 :] if step.kind == "result"])
    return with_results(progress_from_json(steps[at].state), results)


def _last_start(steps: Sequence[Step]) -> Json | None:
    """Where the last generation of a journal started from."""
    begun = [dict(step.state) for step in steps if step.kind == "generation"]
    return begun[-1] if begun else steps[0].state["first"]


def _progress(order: Order, steps: Sequence[Step], seen: Replayed) -> Progress:
    if len(steps) > 1:
        return _written(steps)
    # Nothing was called yet: from the beginning, less what the stream has shown to the end.
    shown = tuple(item for item in order.turn.opening if item.id in seen.done)
    return Progress(items=shown, usage=order.spent or Usage())


def _place(progress: Progress, seen: Replayed) -> Place:
    """Where the stream goes on: items keep their places, new ones come after all that was shown."""
    indexes = {
        n: seen.indexes[item.id] for n, item in enumerate(progress.items) if item.id in seen.indexes
    }
    return Place(
        number=seen.next_number,
        indexes=indexes,
        shift=seen.items - len(indexes),
    )


def _unseen(items: Sequence[Item], seen: Replayed) -> list[Event]:
    """What was written down of these items and not shown any more."""
    events: list[Event] = []
    for n, item in enumerate(items):
        if item.id not in seen.indexes:
            text = _text(item)
            events.append(ItemStarted(n, so_far(item, "")))
            events += [ItemDelta(n, text)] if text else []
        if isinstance(item, McpCall | HostedCall) and item.id not in seen.ready:
            events.append(CallReady(n, item))
        if item.id not in seen.done and not _is_pending(item):
            events.append(ItemFinished(n, item))
    return events


def _text(item: Item) -> str:
    match item:
        case Message() | Reasoning():
            return item.text
        case FunctionCall() | McpCall() | HostedCall():
            return item.arguments
        case CustomToolCall():
            return item.input
        case _:
            return ""


def _told(written: Sequence[Item], seen: Replayed) -> tuple[Item, ...]:
    """All that readers know of, in their order; then what was only written down.

    Items that were superseded are not told.
    """
    known = {item.id: _cut(item) for item in written}
    shown = {place: known.get(item.id, item) for place, item in seen.open_items}
    for item_id, (place, item) in seen.done.items():
        if item_id in known or not _is_cut(item):
            shown[place] = item  # As it was shown: the journal's is not sealed.
    told = [item for _, item in sorted(shown.items())]
    ids = {item.id for item in told}
    return (*told, *(item for item in known.values() if item.id not in ids))


def _is_pending(item: Item) -> bool:
    return isinstance(item, McpCall | HostedCall) and item.status is Status.IN_PROGRESS


def _is_cut(item: Item) -> bool:
    return getattr(item, "status", None) is Status.INCOMPLETE


def _cut(item: Item) -> Item:
    if isinstance(item, McpCall | HostedCall) and item.status is Status.IN_PROGRESS:
        return replace(item, status=Status.INCOMPLETE)
    return item
