"""Taking a turn to its end: what is waited for, in which order things are published."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from smg.agent.loop import AgentLoop, Generate, Progress
from smg.agent.run import Crew, Journal, NoJournal, Spoken, Start, run_turn
from smg.engines.base import Finish
from smg.errors import (
    ContextLengthExceeded,
    LeaseLost,
    StorageError,
    TurnTimeout,
    WorkerUnavailable,
)
from smg.events import CallReady, Event, ItemDelta, ItemFinished, ItemStarted, Outcome, TurnFinished
from smg.items import Item, McpCall, Message, Status
from smg.turn import Limits, Offer, ServerTool, ToolResult, ToolSet, Turn
from tests.doubles import (
    PATIENCE_SECONDS,
    FakeModel,
    FakeTools,
    Ids,
    Published,
    call,
    ends,
    says,
    tokens,
)

RESULTS = {"add": ToolResult(output="3"), "slow": ToolResult(output="late")}


def new_turn(*, seconds: float = 30.0, approved: tuple[McpCall, ...] = ()) -> Turn:
    offers = [Offer(name, ServerTool(server="math", name=name)) for name in RESULTS]
    return Turn(
        id="resp_1",
        model="m",
        created_at=0,
        tools=ToolSet(offers=tuple(offers)),
        limits=Limits(wall_seconds=seconds),
        approved=approved,
    )


async def run(
    model: FakeModel,
    tools: FakeTools | None = None,
    publish: Any = None,
    turn: Turn | None = None,
    first: Any = None,
    journal: Journal | None = None,
) -> Published:
    """Run a turn to its end; what it published."""
    turn, published = turn or new_turn(), Published()
    loop = AgentLoop(turn, Ids())
    publish = publish or published
    async with asyncio.timeout(PATIENCE_SECONDS):
        await publish(loop.begin())
        crew = Crew(model, tools or FakeTools(), publish, journal or NoJournal())
        await run_turn(loop, turn, crew, first=first)
    return published


def outcome(published: Published) -> TurnFinished:
    """The last event, which is the only one of its kind."""
    ended = [event for event in published.events if isinstance(event, TurnFinished)]
    assert ended == [published.events[-1]]
    return ended[0]


def kinds(events: Sequence[Event]) -> list[type]:
    return [type(event) for event in events]


async def test_each_of_the_engines_words_is_published_as_it_comes() -> None:
    model = FakeModel([Spoken(says("It ")), Spoken(says("is.")), Spoken([]), ends(2)])
    published = await run(model)
    assert [kinds(batch) for batch in published.batches[1:]] == [
        [ItemStarted, ItemDelta],
        [ItemDelta],
        [ItemFinished, TurnFinished],
    ]
    assert outcome(published).outcome is Outcome.COMPLETED
    assert model.steps == [Generate(0)]
    model.check_finished()


async def test_the_last_words_may_carry_the_finish() -> None:
    model = FakeModel([Spoken(says("Hi."), Finish.STOP, tokens(1))])
    published = await run(model)
    assert kinds(published.batches[1]) == [ItemStarted, ItemDelta, ItemFinished, TurnFinished]


async def test_what_intake_prepared_is_used_for_the_first_generation_only() -> None:
    model = FakeModel([Spoken(call("add", "{}")), ends()], [ends()])
    await run(model, FakeTools(RESULTS), first="from intake")
    assert model.prepared == ["from intake", "prompt 1"]
    assert model.steps == [Generate(1, None, frozenset({"mcp_1"}))]
    model.check_finished()


async def test_the_model_sees_the_result_of_an_approved_call_in_its_first_prompt() -> None:
    approved = McpCall(
        id="mcp_9", server_label="math", name="add", arguments="{}", status=Status.IN_PROGRESS
    )
    model = FakeModel([ends()])
    turn = new_turn(approved=(approved,))
    await run(model, FakeTools(RESULTS), turn=turn, first="from intake, without the result")
    assert model.prepared == ["prompt 0"]
    [[item]] = model.outputs
    assert isinstance(item, McpCall)
    assert item.output == "3"


async def test_tools_run_at_once_and_the_model_goes_on_with_their_results() -> None:
    model = FakeModel(
        [Spoken([*call("add", '{"a": 1}'), *call("add", '{"a": 2}')]), ends()],
        [Spoken(says("3 and 3")), ends()],
    )
    tools = FakeTools(RESULTS, together=2)
    published = await run(model, tools)
    assert sorted(tools.calls) == [("math", "add", '{"a": 1}'), ("math", "add", '{"a": 2}')]
    texts = [item.text for item in outcome(published).items if isinstance(item, Message)]
    assert texts == ["3 and 3"]
    assert len(model.outputs[1]) == 2
    model.check_finished()


async def test_a_result_is_published_when_it_is_there_not_when_all_are() -> None:
    model = FakeModel([Spoken([*call("slow", "{}"), *call("add", "{}")]), ends()], [ends()])
    tools = FakeTools(RESULTS)
    tools.hold["slow"] = asyncio.Event()
    published = Published()
    running = asyncio.create_task(run(model, tools, published))
    await published.saw(CallReady, 2)
    await published.saw(ItemFinished)
    assert [e.index for e in published.events if isinstance(e, ItemFinished)] == [1]
    tools.hold["slow"].set()
    await running
    assert [e.index for e in published.events if isinstance(e, ItemFinished)] == [1, 0]
    items = outcome(published).items
    assert [item.output for item in items if isinstance(item, McpCall)] == ["late", "3"]


async def test_an_engine_that_breaks_fails_the_turn_and_keeps_what_it_said() -> None:
    error = WorkerUnavailable("gone")
    model = FakeModel([Spoken(says("It ")), error])
    published = await run(model)
    part = outcome(published)
    assert (part.outcome, part.error) == (Outcome.FAILED, error)
    [item] = part.items
    assert isinstance(item, Message)
    assert (item.text, item.status) == ("It ", Status.INCOMPLETE)
    model.check_finished()


async def test_a_prompt_that_grew_too_long_fails_the_turn() -> None:
    error = ContextLengthExceeded("too long")
    model = FakeModel([Spoken(call("add", "{}")), ends()], refusal=error)
    published = await run(model, FakeTools(RESULTS), first="from intake")
    assert outcome(published).error is error
    model.check_finished()


async def test_a_turn_that_takes_too_long_fails_and_frees_the_worker() -> None:
    model = FakeModel([Spoken(says("It ")), asyncio.Event()])
    published = await run(model, turn=new_turn(seconds=0.05))
    error = outcome(published).error
    assert isinstance(error, TurnTimeout)
    assert error.message == "The response took longer than 0.05 s."
    model.check_finished()


async def test_a_tool_that_outlasts_the_turn_is_stopped() -> None:
    model = FakeModel([Spoken(call("slow", "{}")), ends()])
    tools = FakeTools(RESULTS)
    tools.hold["slow"] = asyncio.Event()
    published = await run(model, tools, turn=new_turn(seconds=0.05))
    assert isinstance(outcome(published).error, TurnTimeout)
    assert tools.cancelled == ["slow"]
    [item] = outcome(published).items
    assert isinstance(item, McpCall)
    assert item.status is Status.INCOMPLETE


async def test_cancelling_closes_the_models_generation_and_publishes_no_more() -> None:
    model = FakeModel([Spoken(says("It ")), asyncio.Event()])
    published = Published()
    running = asyncio.create_task(run(model, publish=published))
    await published.saw(ItemDelta)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert kinds(published.events) == [ItemStarted, ItemDelta]
    model.check_finished()


async def test_cancelling_stops_the_tools() -> None:
    model = FakeModel([Spoken(call("slow", "{}")), ends()])
    tools, published = FakeTools(RESULTS), Published()
    tools.hold["slow"] = asyncio.Event()
    running = asyncio.create_task(run(model, tools, published))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await tools.called.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert tools.cancelled == ["slow"]


async def test_an_error_of_a_publisher_while_the_model_speaks_is_not_hidden() -> None:
    model = FakeModel([Spoken(says("Hi.")), ends()])
    with pytest.raises(StorageError):
        await run(model, publish=failing_on(ItemDelta, StorageError("full")))
    model.check_finished()


@pytest.mark.parametrize("error", [StorageError("full"), LeaseLost("taken over")])
async def test_an_error_of_a_publisher_while_tools_run_is_not_hidden(error: Exception) -> None:
    model = FakeModel([Spoken(call("add", "{}")), ends()])
    with pytest.raises(type(error)):
        await run(model, FakeTools(RESULTS), publish=failing_on(ItemFinished | TurnFinished, error))
    model.check_finished()


async def test_a_tool_that_breaks_its_promise_stops_the_others_and_is_not_hidden() -> None:
    model = FakeModel([Spoken([*call("slow", "{}"), *call("add", "{}")]), ends()])
    tools = FakeTools({"add": LookupError("a bug")})
    tools.hold["slow"] = asyncio.Event()
    with pytest.raises(LookupError):
        await run(model, tools)
    assert tools.cancelled == ["slow"]


class Diary:
    """A journal in memory, which may be told to refuse an entry."""

    def __init__(self, refuse: type | None = None) -> None:
        self.entries: list[str] = []
        self._refuse = refuse

    async def generating(self, step: Generate, start: Callable[[], Start]) -> None:
        told = start()
        self._write(step, f"generation {step.number} from {told.prompt_hash} on {told.worker}")

    async def calling(self, progress: Progress) -> None:
        self._write(progress, f"calls after {len(progress.items)} items")

    async def answered(self, call: Item) -> None:
        self._write(call, f"answered {call.id}")

    def _write(self, about: object, entry: str) -> None:
        if self._refuse is not None and isinstance(about, self._refuse):
            raise StorageError("full")
        self.entries.append(entry)


async def test_each_step_is_in_the_journal_before_it_is_taken() -> None:
    model = FakeModel([Spoken(call("add", "{}")), ends()], [Spoken(says("3")), ends()])
    journal = Diary()
    await run(model, FakeTools(RESULTS), journal=journal)
    assert journal.entries == [
        "generation 0 from hash of prompt 0 on w1",
        "calls after 1 items",
        "answered mcp_1",
        "generation 1 from hash of prompt 1 on w1",
    ]


@pytest.mark.parametrize(
    ("refused", "spoken", "called"), [(Generate, 0, 0), (Progress, 1, 0), (McpCall, 1, 1)]
)
async def test_what_the_journal_does_not_take_is_not_done(
    refused: type, spoken: int, called: int
) -> None:
    model, tools = FakeModel([Spoken(call("add", "{}")), ends()]), FakeTools(RESULTS)
    published = Published()
    with pytest.raises(StorageError):
        await run(model, tools, published, journal=Diary(refused))
    assert (len(model.prepared), len(tools.calls)) == (spoken, called)
    assert not any(isinstance(event, ItemFinished) for event in published.events)


def failing_on(kind: Any, error: Exception) -> Any:
    async def publish(events: Sequence[Event]) -> None:
        if any(isinstance(event, kind) for event in events):
            raise error

    return publish
