"""The grammar of one item in a response stream: how it begins, grows, and ends.

One row a type, one object an item; the order of items is the grammar of the stream
(smg.responses.grammar). Pure values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


class Violation(Exception):
    """Raised when an event does not fit the stream before it."""


def require(holds: object, rule: str) -> None:
    """Raise unless a rule holds; the message is the rule.

    Raises:
        Violation: it does not.
    """
    if not holds:
        raise Violation(rule)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is particular to items of one type."""

    grows: tuple[str, ...] = ()
    """Fields that are empty at first."""
    late: frozenset[str] = frozenset()
    """Fields that nothing tells before the item is done."""
    parts: frozenset[str] = frozenset()
    """The parts it may have."""
    steps: tuple[frozenset[str], ...] = ()
    """Events of its own, in order; of several, one."""
    whole: str = ""
    """The field that deltas fill, if there are no parts."""


_STATUS = frozenset({"status"})
_SEARCH = tuple(frozenset({step}) for step in ("in_progress", "searching", "completed"))
_ENDS = (frozenset({"in_progress"}), frozenset({"completed", "failed"}))

KINDS: dict[str, Kind] = {
    "message": Kind(("content",), _STATUS, frozenset({"output_text", "refusal"})),
    "reasoning": Kind(
        ("content", "summary"),
        _STATUS | {"encrypted_content"},
        frozenset({"reasoning_text", "summary_text"}),
    ),
    "function_call": Kind(("arguments",), _STATUS, whole="arguments"),
    "custom_tool_call": Kind(("input",), _STATUS, whole="input"),
    "mcp_call": Kind(
        ("arguments", "output", "error", "content"), _STATUS, steps=_ENDS, whole="arguments"
    ),
    "mcp_list_tools": Kind(("tools",), frozenset({"error"}), steps=_ENDS),
    "web_search_call": Kind((), _STATUS | {"action"}, steps=_SEARCH),
    "file_search_call": Kind((), _STATUS | {"queries", "results"}, steps=_SEARCH),
    "code_interpreter_call": Kind(
        ("code",),
        _STATUS | {"container_id", "outputs"},
        steps=(_SEARCH[0], frozenset({"interpreting"}), _SEARCH[2]),
        whole="code",
    ),
    "mcp_approval_request": Kind(),
    "compaction": Kind(),
}


@dataclass(frozen=True, slots=True)
class Texts:
    """A family of delta and done events."""

    key: str
    """Where the done event, and what it fills, have the whole text."""
    fills: str
    """The type of the part or item that is filled."""
    place: str = ""
    """The field that numbers the part; empty: the item itself is filled."""


TEXTS: dict[str, Texts] = {
    "response.output_text": Texts("text", "output_text", "content_index"),
    "response.refusal": Texts("refusal", "refusal", "content_index"),
    "response.reasoning_text": Texts("text", "reasoning_text", "content_index"),
    "response.reasoning_summary_text": Texts("text", "summary_text", "summary_index"),
    "response.function_call_arguments": Texts("arguments", "function_call"),
    "response.mcp_call_arguments": Texts("arguments", "mcp_call"),
    "response.custom_tool_call_input": Texts("input", "custom_tool_call"),
    "response.code_interpreter_call_code": Texts("code", "code_interpreter_call"),
}

PARTS = {
    "response.content_part": "content_index",
    "response.reasoning_summary_part": "summary_index",
}
LISTS = {"content_index": "content", "summary_index": "summary"}
_PART_KEYS = {"refusal": "refusal"}  # Every other part has its words under `text`.


@dataclass(slots=True)
class Told:
    """Text that grows by deltas and is told whole at its end."""

    text: str = ""
    is_whole: bool = False

    def take(self, step: str, event: Json, key: str) -> None:
        """A delta or a done event."""
        require(not self.is_whole, "nothing is added to a text that is done")
        if step == "delta":
            require(isinstance(event.get("delta"), str), "a delta has text")
            self.text += event["delta"]
        else:
            require(event.get(key) == self.text, f"{key} is what the deltas said")
            self.is_whole = True


@dataclass(slots=True)
class Part:
    """A part of an item."""

    type: str
    told: Told = field(default_factory=Told)
    done: Json | None = None


@dataclass(slots=True)
class Shown:
    """An item as the stream has told it so far."""

    added: Json
    kind: Kind
    parts: dict[str, list[Part]] = field(default_factory=lambda: {"content": [], "summary": []})
    told: Told = field(default_factory=Told)
    steps: list[str] = field(default_factory=list)
    done: Json | None = None

    def take_part(self, step: str, place: str, event: Json) -> None:
        """A part begins or ends."""
        parts, part = self.parts[LISTS[place]], event.get("part")
        require(isinstance(part, Mapping), "a part is an object")
        assert isinstance(part, Mapping)
        kind = str(part.get("type"))
        key = _PART_KEYS.get(kind, "text")
        if step == "added":
            require(event.get(place) == len(parts), "parts are numbered from 0 without a gap")
            require(kind in self.kind.parts, "the item can have such a part")
            require((kind == "summary_text") == (place == "summary_index"), "the part is in place")
            require(all(before.done for before in parts), "one part ends before the next begins")
            require(part.get(key) == "", "a part is empty at first")
            parts.append(Part(kind))
            return
        open_part = self._part(event, place)
        require(open_part.told.is_whole, "a part ends after its text")
        require(kind == open_part.type, "a part keeps its type")
        require(part.get(key) == open_part.told.text, "a part ends with the text it was told")
        open_part.done = part

    def take_text(self, step: str, texts: Texts, event: Json) -> None:
        """More text, or its end."""
        if texts.place:
            part = self._part(event, texts.place)
            require(part.type == texts.fills, "text goes to a part of its kind")
            part.told.take(step, event, texts.key)
        else:
            require(self.added["type"] == texts.fills, "text goes to an item of its kind")
            self.told.take(step, event, texts.key)

    def take_step(self, step: str) -> None:
        """An event of the item's own."""
        number = len(self.steps)
        require(number < len(self.kind.steps), "no step follows the last one")
        require(step in self.kind.steps[number], "steps come in order")
        if self.kind.whole and number:
            require(self.told.is_whole, "a call runs when it is complete")
        self.steps.append(step)

    def finish(self, item: Json) -> None:
        """The item is done."""
        cut = item.get("status") == "incomplete"
        require(item.get("status") != "in_progress", "an item that is done is not in progress")
        self._check_fields(item)
        # The content of a call is what its tool answered, and not told in parts.
        for name, parts in self.parts.items() if self.kind.parts else ():
            told = [part.done for part in parts]
            require(None not in told, "an item ends after its parts")
            require(list(item.get(name) or ()) == told, f"{name} is what the events said")
        if self.kind.whole and (self.told.text or not cut):
            # A call that was cut may not have been told at all.
            require(item.get(self.kind.whole) == self.told.text, "a call ends as it was told")
        if self.kind.whole and not (cut and self.kind.steps):
            require(self.told.is_whole, "an item ends after its text")
        if not cut:
            require(len(self.steps) == len(self.kind.steps), "an item ends after its last step")
        if self.steps and "failed" in self.kind.steps[len(self.steps) - 1]:
            failed = item.get("error") is not None
            require(failed == (self.steps[-1] == "failed"), "a failed step has an error")
        self.done = item

    def _check_fields(self, item: Json) -> None:
        free = {*self.kind.grows, *self.kind.late}
        names = {*item, *self.added} - free
        same = all(item.get(name) == self.added.get(name) for name in names)
        require(same, "an item keeps its id, its type and its names")

    def _part(self, event: Json, place: str) -> Part:
        parts, number = self.parts[LISTS[place]], event.get(place)
        known = isinstance(number, int) and 0 <= number < len(parts)
        require(known, "the part has begun")
        assert isinstance(number, int)
        require(parts[number].done is None, "nothing comes after a part is done")
        return parts[number]
