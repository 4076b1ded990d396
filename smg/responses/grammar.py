"""The grammar of a response stream: each event is checked against everything before it.

Fed with the events of one stream in the form clients get them; raises at the first one that no
client should see. Written from the contract alone: it knows neither the agent loop nor the
renderer, whose mistakes it is there to find.
"""

import json
from collections.abc import Collection, Mapping, Sequence

from smg.responses.grammar_items import KINDS, PARTS, TEXTS, Json, Shown, Violation, require
from smg.web.sse import payload

_LATE_IN_RESPONSE = frozenset(
    {"status", "output", "usage", "error", "incomplete_details", "completed_at"}
)
_TERMINAL = {"completed", "incomplete", "failed"}


class Grammar:
    """One stream. Feed it every event, in order."""

    def __init__(self) -> None:
        self._number = 0
        self._first: Json | None = None
        self._awaited: tuple[str, ...] = ("response.created",)
        """Events of which the next must be one; empty: any."""
        self._items: list[Shown] = []
        self._ended = False
        self._broken = False

    def feed(self, event: Json) -> None:
        """Take the next event.

        Raises:
            Violation: it does not fit; from then on only a failure of the response does.
        """
        try:
            self._take(event)
        except Violation:
            self._broken = True
            raise
        self._number += 1

    def check(self, frames: Sequence[bytes]) -> None:
        """Take the next events as they are about to be sent.

        Raises:
            Violation: one does not fit; none of them may be sent.
        """
        for frame in frames:
            self.feed(json.loads(payload(frame)))

    def rewind(self, number: int) -> None:
        """Go on from this number: what was fed from there on was not sent after all."""
        self._number = number
        self._ended = False

    def _take(self, event: Json) -> None:
        kind = str(event.get("type"))
        require(not self._ended, "nothing comes after the end")
        require(event.get("sequence_number") == self._number, "events are numbered without a gap")
        if self._broken:
            require(kind == "response.failed", "a broken stream only fails")
            self._ended = True
            return
        require(not self._awaited or kind in self._awaited, "a stream begins in order")
        name, _, step = kind.rpartition(".")
        if name == "response":
            self._take_response(step, event)
        else:
            require(not self._awaited, "a stream begins in order")
            self._take_item_event(name, step, event)

    # ---- the response

    def _take_response(self, step: str, event: Json) -> None:
        body = event.get("response")
        require(isinstance(body, Mapping), "the event has the response")
        assert isinstance(body, Mapping)
        self._check_echo(body)
        match step:
            case "created":
                queued = body.get("status") == "queued"
                self._check_snapshot(body, ("queued", "in_progress"))
                self._awaited = ("response.queued",) if queued else ("response.in_progress",)
            case "queued":
                self._check_snapshot(body, ("queued",))
                # It may also end without ever having been worked on.
                ends = (f"response.{end}" for end in _TERMINAL)
                self._awaited = ("response.in_progress", *ends)
            case "in_progress":
                require(self._awaited, "a response begins once")
                self._check_snapshot(body, ("in_progress",))
                self._awaited = ()
            case _:
                require(step in _TERMINAL, "the event is known")
                require(body.get("status") == step, "the status is that of the event")
                self._check_end(step, body)
                self._ended = True

    def _check_echo(self, body: Json) -> None:
        if self._first is None:
            self._first = body
        before = {k: v for k, v in self._first.items() if k not in _LATE_IN_RESPONSE}
        after = {k: v for k, v in body.items() if k not in _LATE_IN_RESPONSE}
        require(before == after, "a response keeps its id and what it was asked")

    def _check_snapshot(self, body: Json, statuses: Collection[str]) -> None:
        require(body.get("status") in statuses, "the status is that of the event")
        require(body.get("output") == [], "nothing was said yet")
        empty = all(body.get(name) is None for name in ("usage", "error", "completed_at"))
        require(empty, "nothing is known of the end yet")

    def _check_end(self, step: str, body: Json) -> None:
        error, reason = body.get("error"), body.get("incomplete_details")
        require((error is not None) == (step == "failed"), "a failure, and only it, has an error")
        require((reason is not None) == (step == "incomplete"), "what is incomplete, has a reason")
        require(
            (body.get("completed_at") is not None) == (step == "completed"),
            "what is completed, has a time",
        )
        output = body.get("output")
        require(isinstance(output, list), "the output is a list")
        assert isinstance(output, list)
        require(len(output) >= len(self._items), "the output holds all that was shown")
        for shown, item in zip(self._items, output, strict=False):
            if shown.done is not None:
                require(item == shown.done, "the output is what the events said")
            else:
                require(step == "failed", "every item ends before its response")
                require(item.get("id") == shown.added.get("id"), "an item keeps its id")
        if step != "failed":
            require(len(output) == len(self._items), "nothing in the output is new")
            require(isinstance(body.get("usage"), Mapping), "the tokens are counted")

    # ---- its items

    def _take_item_event(self, name: str, step: str, event: Json) -> None:
        if name == "response.output_item" and step == "added":
            self._add(event)
        elif name == "response.output_item" and step == "done":
            item = event.get("item")
            require(isinstance(item, Mapping), "the event has the item")
            assert isinstance(item, Mapping)
            self._item(event).finish(item)
        elif name in PARTS and step in ("added", "done"):
            self._named(event).take_part(step, PARTS[name], event)
        elif name in TEXTS and step in ("delta", "done"):
            self._named(event).take_text(step, TEXTS[name], event)
        else:
            kind = name.removeprefix("response.")
            require(kind in KINDS and KINDS[kind].steps, "the event is known")
            shown = self._named(event)
            require(shown.added["type"] == kind, "a step belongs to an item of its type")
            shown.take_step(step)

    def _add(self, event: Json) -> None:
        item = event.get("item")
        require(isinstance(item, Mapping), "the event has the item")
        assert isinstance(item, Mapping)
        require(
            event.get("output_index") == len(self._items), "items are numbered from 0 without a gap"
        )
        kind = KINDS.get(str(item.get("type")))
        require(kind is not None, "the item's type is known")
        assert kind is not None
        require(item.get("id"), "an item has an id")
        taken = any(shown.added["id"] == item["id"] for shown in self._items)
        require(not taken, "no two items have one id")
        require(not any(item.get(name) for name in kind.grows), "an item is empty at first")
        self._items.append(Shown(item, kind))

    def _item(self, event: Json) -> Shown:
        index = event.get("output_index")
        known = isinstance(index, int) and 0 <= index < len(self._items)
        require(known, "the item has begun")
        assert isinstance(index, int)
        shown = self._items[index]
        require(shown.done is None, "nothing comes after an item is done")
        return shown

    def _named(self, event: Json) -> Shown:
        shown = self._item(event)
        require(event.get("item_id") == shown.added["id"], "the event names its item")
        return shown
