"""One turn's way out: frames to readers, rows to the store, in the order that must not change.

Nothing of a durable stream is shown that is not stored, and a finished response is stored before
anybody hears of its end.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smg.agent.loop import Generate, Progress
from smg.agent.run import Start
from smg.errors import Conflict, StorageError
from smg.events import Event, Outcome, TurnFinished
from smg.faults import reached
from smg.item_json import to_json
from smg.items import Item
from smg.responses.adorn import Adornment
from smg.responses.body import Json
from smg.responses.event_log import EventLog, LoggedStream
from smg.responses.grammar import Grammar
from smg.responses.grammar_items import Violation
from smg.responses.live import Live
from smg.responses.record import finished
from smg.responses.render import Place, Renderer, final_body
from smg.responses.saved import progress_to_json, start_to_json
from smg.storage.base import JournalStore, Store
from smg.storage.records import EventBatch, Lease, Step
from smg.turn import Now

log = logging.getLogger(__name__)


class Fenced(Exception):
    """Raised when the response is not ours to write any more: it ended, or moved, elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What all outlets share."""

    store: Store
    events: EventLog
    now: Now
    strict: bool = False
    """Whether every event is checked before it leaves."""


class Outlet:
    """Where one turn publishes."""

    def __init__(
        self,
        live: Live,
        ways: Ways,
        adornment: Adornment,
        lease: Lease | None,
        place: Place | None = None,
    ) -> None:
        order = live.order
        self._live = live
        self._ways = ways
        self._adornment = adornment
        self._lease = lease
        self._renderer: Renderer | None = None
        self._stream: LoggedStream | None = None
        if order.streamed or order.background:
            self._renderer = Renderer(order.head, ways.now, place)
        # What another process has sent is not known here.
        self._grammar = Grammar() if ways.strict and place is None else None
        if self._renderer is not None and lease is not None:
            number = place.number if place else 0
            self._stream = LoggedStream(lease, live.feed, number)

    @property
    def lease(self) -> Lease | None:
        """The right to write the response, when it has one."""
        return self._lease

    @property
    def is_queued(self) -> bool:
        """Whether readers have been told of the response, but not that it is worked on."""
        renderer = self._renderer
        return renderer is not None and 0 < renderer.number <= len(renderer.QUEUED)

    def queue(self) -> None:
        """Say that the response waits to be worked on."""
        if self._renderer is not None:
            frames = self._renderer.queued()
            if self._grammar is not None:
                self._grammar.check(frames)
            self._show(frames)

    def open(self) -> None:
        """Say that the response begins, as far as that has not been said."""
        if self._renderer is not None:
            frames = self._renderer.opening(queued=self._live.order.background)
            if self._grammar is not None:
                self._grammar.check(frames)
            self._show(frames)

    def close_superseded(self, items: Sequence[tuple[int, Item]]) -> None:
        """End items that an earlier process began and nobody will finish: (place, item)."""
        if self._renderer is not None:
            for place, item in items:
                self._show(self._renderer.close_at(place, item))

    async def publish(self, events: Sequence[Event]) -> None:
        """Show events to readers; the last one only when it is stored.

        Raises:
            Fenced: the response is not ours any more.
            StorageError: what was said before could not be stored.
        """
        if not events:
            return
        self._check()
        events = self._adornment.adorned(events)
        last = events[-1]
        if not isinstance(last, TurnFinished):
            self._show(self._frames(events))
            return
        self._show(self._frames(events[:-1]))
        await self._end(last)

    def _check(self) -> None:
        if self._stream is not None and self._stream.lost:
            raise Fenced(self._live.order.turn.id)
        if self._stream is not None and self._stream.error is not None:
            error, self._stream.error = self._stream.error, None
            raise error

    def _show(self, frames: Sequence[bytes]) -> None:
        if self._stream is not None:
            self._ways.events.add(self._stream, frames)
        else:
            self._live.feed.push(frames)

    def _frames(self, events: Sequence[Event]) -> list[bytes]:
        if self._renderer is None:
            return []
        number = self._number
        frames = [frame for event in events for frame in self._renderer.render(event)]
        if self._grammar is not None:
            try:
                self._grammar.check(frames)
            except Violation:
                self._rewind(number)
                raise
        return frames

    @property
    def _number(self) -> int:
        return 0 if self._renderer is None else self._renderer.number

    def _rewind(self, number: int) -> None:
        """Take back frames that were not shown, so that their numbers are used again."""
        if self._renderer is not None:
            self._renderer.number = number
        if self._grammar is not None:
            self._grammar.rewind(number)

    async def _end(self, event: TurnFinished) -> None:
        body = final_body(self._live.order.head, event, self._ways.now())
        number = self._number
        last = self._frames([event])
        frames = await self._unwritten()
        rest = [*frames, *last]
        if self._live.order.stored:
            try:
                await self._save(event, body, rest)
            except Conflict as error:
                raise Fenced(error.message) from error
            except StorageError as error:
                log.exception("Response %s was not saved", self._live.order.turn.id)
                event = _unsaved(event, error)
                body = final_body(self._live.order.head, event, self._ways.now())
                self._rewind(number)
                rest = [*frames, *self._frames([event])]
        self._live.end(event, body)
        self._live.feed.push(rest)
        reached("end-shown")

    async def _unwritten(self) -> list[bytes]:
        """The frames that still wait for the log: they go with the end."""
        if self._stream is None:
            return []
        await self._ways.events.settled(self._stream)
        waiting, self._stream.waiting = self._stream.waiting, []
        return waiting

    async def _save(self, event: TurnFinished, body: Json, rest: Sequence[bytes]) -> None:
        order = self._live.order
        first = self._stream.next_sequence if self._stream else 0
        frames = rest if self._stream else [*self._live.feed.frames, *rest]
        given = self._adornment.items(order.turn.input)
        reached("save-before")
        await self._ways.store.responses.save(
            finished(order, given, event, body),
            lease=self._lease,
            events=EventBatch(first, frames) if frames else None,
        )
        reached("save-after")


def _unsaved(event: TurnFinished, error: StorageError) -> TurnFinished:
    """The truth about a turn whose end could not be stored; what was said is kept in it."""
    told = StorageError(f"The response was not saved: {error.message}")
    return TurnFinished(Outcome.FAILED, event.items, event.usage, error=told)


class StepJournal:
    """The journal of one turn: what is about to happen is stored before it does."""

    def __init__(
        self, journal: JournalStore, lease: Lease, next_step: int, last: Json | None = None
    ) -> None:
        """`last` is the last generation that is in the journal, as `start_to_json` makes it."""
        self._journal = journal
        self._lease = lease
        self._next = next_step
        self._last = last

    async def generating(self, step: Generate, start: Callable[[], Start]) -> None:
        """Store where a generation starts from, unless that is the last thing stored.

        What the generation says needs no entry: it changes nothing outside, and is made anew from
        the state before it.
        """
        begun, last = start_to_json(step.number, start()), self._last
        if begun == last:
            return
        if last and last["number"] == step.number and last["prompt"] != begun["prompt"]:
            log.warning(
                "Response %s: generation %d reads another prompt than before the restart: "
                "the template, the tools or the model has changed",
                self._lease.response_id,
                step.number,
            )
        self._last = begun
        reached("generation-before")
        await self._append("generation", begun)
        reached("generation-after")

    async def calling(self, progress: Progress) -> None:
        """Store the state with the calls that are about to be made."""
        reached("calls-before")
        await self._append("calls", progress_to_json(progress))
        reached("calls-after")

    async def answered(self, call: Item) -> None:
        """Store a call's result."""
        reached("result-before")
        await self._append("result", to_json(call))
        reached("result-after")

    async def _append(self, kind: str, state: Json) -> None:
        step = Step(number=self._next, kind=kind, state=state)
        self._next += 1
        try:
            await self._journal.append_step(self._lease, step)
        except Conflict as error:
            raise Fenced(error.message) from error
