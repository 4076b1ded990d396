"""The guard of streams: what we send passes, and every kind of mistake is caught."""

import copy
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smg.items import Message
from smg.responses import render
from smg.responses.grammar import Grammar
from smg.responses.grammar_items import Violation
from tests.e2e.gateway import Served
from tests.e2e.gateway import served as serve
from tests.golden.transcript import GOLDEN, frames
from tests.responses.flows import FLOWS
from tests.responses.reading import read

Json = dict[str, Any]
Stream = list[Json]

FILES = sorted((GOLDEN / "responses").glob("*.sse"))
WHOLE = [path for path in FILES if path.stem not in ("cancelled", "failure")]
"""Streams in which every item ends: what is missing in the others cannot be known."""
ANYWHERE = {"response.mcp_call.in_progress"}
"""Clients do not care whether it comes before the arguments."""


def stream(name: str) -> Stream:
    """The events of a recorded stream."""
    sent = (GOLDEN / "responses" / f"{name}.sse").read_text()
    lines = [frame.split("\n")[-1] for frame in frames(sent)]
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def feed(events: Stream) -> None:
    grammar = Grammar()
    for event in events:
        grammar.feed(event)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_we_send_passes(path: Path) -> None:
    feed(stream(path.stem))


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_no_event_can_be_left_out(path: Path) -> None:
    events = stream(path.stem)
    for place in range(len(events) - 1):
        rest = copy.deepcopy(events[:place] + events[place + 1 :])
        for number, event in enumerate(rest):
            event["sequence_number"] = number
        with pytest.raises(Violation):
            feed(rest)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_event_can_come_twice(path: Path) -> None:
    events = stream(path.stem)
    for place in range(len(events)):
        doubled = copy.deepcopy([*events[: place + 1], *events[place:]])
        for number, event in enumerate(doubled):
            event["sequence_number"] = number
        with pytest.raises(Violation):
            feed(doubled)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_neighbours_cannot_change_places(path: Path) -> None:
    events = stream(path.stem)
    for place in range(len(events) - 1):
        one, other = events[place], events[place + 1]
        overlap = one.get("output_index", -1) != other.get("output_index", -2)
        equal = "delta" in one and one["delta"] == other.get("delta")
        if overlap or equal or ANYWHERE & {one["type"], other["type"]}:
            continue
        swapped = copy.deepcopy([*events[:place], other, one, *events[place + 2 :]])
        for number, event in enumerate(swapped):
            event["sequence_number"] = number
        with pytest.raises(Violation):
            feed(swapped)


def nth(kind: str, number: int = 0) -> Callable[[Stream], Json]:
    return lambda events: [event for event in events if event["type"] == kind][number]


def change(find: Callable[[Stream], Json], path: str, value: Any) -> Callable[[Stream], object]:
    """Set one field, by its path, of one event."""

    def mutate(events: Stream) -> None:
        target: Any = find(events)
        *way, last = path.split(".")
        for step in way:
            target = target[int(step) if step.isdigit() else step]
        target[int(last) if last.isdigit() else last] = value

    return mutate


def end(events: Stream) -> Json:
    return events[-1]


def drop_output(events: Stream) -> None:
    events[-1]["response"]["output"].pop()


def extra_output(events: Stream) -> None:
    output = events[-1]["response"]["output"]
    output.append({**output[0], "id": "msg_extra"})


def close_with(kind: str) -> Callable[[Stream], None]:
    def mutate(events: Stream) -> None:
        events[-1]["type"] = kind

    return mutate


def reuse_id(events: Stream) -> None:
    added = [event for event in events if event["type"] == "response.output_item.added"]
    added[1]["item"]["id"] = added[0]["item"]["id"]


DONE, ADDED = "response.output_item.done", "response.output_item.added"
PART, PART_DONE = "response.content_part.added", "response.content_part.done"
DELTA, TEXT_DONE = "response.output_text.delta", "response.output_text.done"
ARGUMENTS = "response.function_call_arguments"

MISTAKES: list[tuple[str, str, Callable[[Stream], object]]] = [
    ("a gap in the numbers", "text", change(end, "sequence_number", 99)),
    (
        "a stream that does not begin at 0",
        "text",
        lambda e: [x.update(sequence_number=x["sequence_number"] + 1) for x in e],
    ),
    ("another response id", "text", change(end, "response.id", "resp_other")),
    ("another model", "text", change(nth("response.in_progress"), "response.model", "x")),
    (
        "output before anything was said",
        "text",
        change(nth("response.created"), "response.output", [{}]),
    ),
    ("usage at the start", "text", change(nth("response.in_progress"), "response.usage", {})),
    (
        "a wrong status at the start",
        "text",
        change(nth("response.created"), "response.status", "completed"),
    ),
    ("a wrong status at the end", "text", change(end, "response.status", "in_progress")),
    ("an end of the wrong kind", "text", close_with("response.incomplete")),
    ("a cancelled event", "text", close_with("response.cancelled")),
    ("an unknown event", "text", close_with("smg:trace")),
    ("no usage at the end", "text", change(end, "response.usage", None)),
    ("no time at the end", "text", change(end, "response.completed_at", None)),
    ("an error in what is completed", "text", change(end, "response.error", {"code": "x"})),
    ("no error in what failed", "failure", change(end, "response.error", None)),
    (
        "no reason in what is incomplete",
        "incomplete",
        change(end, "response.incomplete_details", None),
    ),
    ("an item that the output lacks", "text", drop_output),
    ("an item that only the output has", "text", extra_output),
    ("output unlike what was said", "text", change(end, "response.output.0.content.0.text", "x")),
    ("a hole in the item numbers", "text", change(nth(ADDED), "output_index", 1)),
    ("an item that was never added", "text", change(nth(DELTA), "output_index", 1)),
    ("a negative index", "text", change(nth(DELTA), "output_index", -1)),
    ("an event for another item", "text", change(nth(DELTA), "item_id", "msg_other")),
    ("an item without an id", "text", change(nth(ADDED), "item.id", "")),
    ("two items with one id", "parallel_calls", reuse_id),
    ("an unknown item", "text", change(nth(ADDED), "item.type", "song")),
    ("an item that begins full", "function_call", change(nth(ADDED), "item.arguments", "{}")),
    ("an item that changes its id", "text", change(nth(DONE), "item.id", "msg_other")),
    ("an item that changes its type", "text", change(nth(DONE), "item.type", "reasoning")),
    ("a call that changes its name", "function_call", change(nth(DONE), "item.name", "other")),
    ("a call that changes its call id", "function_call", change(nth(DONE), "item.call_id", "x")),
    (
        "an item that is done and in progress",
        "text",
        change(nth(DONE), "item.status", "in_progress"),
    ),
    ("a part that begins full", "text", change(nth(PART), "part.text", "It")),
    ("a part of the wrong kind", "text", change(nth(PART), "part.type", "reasoning_text")),
    ("a hole in the part numbers", "text", change(nth(PART), "content_index", 1)),
    ("a part that was never added", "text", change(nth(DELTA), "content_index", 1)),
    ("a part that ends otherwise", "text", change(nth(PART_DONE), "part.text", "x")),
    ("a part that is an array", "text", change(nth(PART), "part", [])),
    ("a text unlike its deltas", "text", change(nth(TEXT_DONE), "text", "x")),
    ("a delta without text", "text", change(nth(DELTA), "delta", None)),
    ("a delta of another kind", "text", change(nth(DELTA), "type", "response.refusal.delta")),
    ("a content unlike its parts", "text", change(nth(DONE), "item.content", [])),
    (
        "arguments unlike their deltas",
        "function_call",
        change(nth(f"{ARGUMENTS}.done"), "arguments", "{}"),
    ),
    ("an item with other arguments", "function_call", change(nth(DONE), "item.arguments", "{}")),
    (
        "arguments of the wrong kind",
        "function_call",
        change(nth(f"{ARGUMENTS}.delta"), "type", "response.mcp_call_arguments.delta"),
    ),
    ("a tool list that begins full", "mcp_call", change(nth(ADDED), "item.tools", [{}])),
    (
        "a step of another kind",
        "mcp_call",
        change(nth("response.mcp_call.in_progress"), "type", "response.mcp_list_tools.completed"),
    ),
    (
        "a failed call without an error",
        "mcp_call",
        change(nth("response.mcp_call.completed"), "type", "response.mcp_call.failed"),
    ),
    (
        "a completed call with an error",
        "tool_error",
        change(nth("response.mcp_call.failed"), "type", "response.mcp_call.completed"),
    ),
    ("an approval that changes", "approval", change(nth(DONE, -1), "item.arguments", "{}")),
    ("a custom call with other input", "custom_tool", change(nth(DONE), "item.input", "x")),
]


@pytest.mark.parametrize(
    ("name", "mutate"), [(m[1], m[2]) for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_a_mistake_is_caught(name: str, mutate: Callable[[Stream], object]) -> None:
    events = stream(name)
    mutate(events)
    with pytest.raises(Violation):
        feed(events)


def test_an_item_that_was_left_open_is_caught_at_the_end() -> None:
    events = stream("text")
    kept = [event for event in events if event["type"] != DONE]
    for number, event in enumerate(kept):
        event["sequence_number"] = number
    with pytest.raises(Violation, match="every item ends"):
        feed(kept)


def test_a_queued_stream_says_so_before_it_begins() -> None:
    created, running, *_ = stream("text")
    first = {**created["response"], "status": "queued"}
    queued = {"type": "response.queued", "sequence_number": 1, "response": first}
    feed([{**created, "response": first}, queued, {**running, "sequence_number": 2}])
    with pytest.raises(Violation):
        feed([{**created, "response": first}, running])
    with pytest.raises(Violation):
        feed([created, {**queued, "response": created["response"]}])


def test_a_broken_stream_can_only_fail() -> None:
    created, running, *_ = stream("text")
    for event, fits in (
        ({"type": "response.completed", "response": running["response"]}, False),
        ({"type": "response.failed", "response": running["response"]}, True),
    ):
        grammar = Grammar()
        grammar.feed(created)
        with pytest.raises(Violation):
            grammar.feed({**running, "response": {}})
        if fits:
            grammar.feed({**event, "sequence_number": 1})
        with pytest.raises(Violation):
            grammar.feed({**event, "sequence_number": 1})


# ---- in the gateway


@pytest.fixture(scope="module")
async def broken(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(tmp_path_factory.mktemp("strict"), tools=False) as running:
        yield running


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("place", ["opening", "closing"])
async def test_a_mistake_fails_the_response_and_is_not_sent(
    broken: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    store: bool,
    place: str,
) -> None:
    usual = render.KINDS[Message]
    wrong = {
        "opening": replace(usual, opening=lambda item: iter([(DELTA, {"delta": 7})])),
        "closing": replace(usual, closing=lambda item: iter([(DELTA, {"delta": 7})])),
    }[place]
    monkeypatch.setitem(render.KINDS, Message, wrong)
    answer = await broken.post("/responses", stream=True, store=store, **FLOWS["text"])
    events = read(answer.text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert not [event for event in events if event.get("delta") == 7]
    assert "Violation" in caplog.text
    if store:
        kept = await broken.http.get(f"/responses/{events[-1]['response']['id']}")
        assert kept.json() == events[-1]["response"]


async def test_without_the_flag_nothing_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(render.KINDS[Message], closing=lambda item: iter([]))
    monkeypatch.setitem(render.KINDS, Message, wrong)
    async with serve(tmp_path, tools=False, strict_streams=False) as served:
        answer = await served.post("/responses", stream=True, **FLOWS["text"])
    assert read(answer.text)[-1]["type"] == "response.completed"
