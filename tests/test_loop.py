"""The specification of the agent loop: what is said in, which events and which action come out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smg.agent.approval import approval_id
from smg.agent.loop import Action, AgentLoop, CallTools, Generate, Progress, Stop
from smg.engines.base import Finish
from smg.errors import WorkerUnavailable
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
    Logprob,
    McpApprovalRequest,
    McpCall,
    McpListTools,
    McpTool,
    Message,
    Reasoning,
    Status,
    TextPart,
    ToolError,
)
from smg.parsers.base import ParsedDelta, Text, ToolCallArguments, ToolCallEnd, ToolCallStart
from smg.turn import (
    CustomTool,
    FunctionTool,
    Limits,
    Offer,
    ServerTool,
    ToolChoice,
    ToolResult,
    ToolSet,
    Turn,
)
from tests.doubles import Ids, call, says, thinks, tokens

ADD = ServerTool(server="math", name="add")
DELETE = ServerTool(server="files", name="delete", needs_approval=True)
TOOLS = (
    FunctionTool(name="weather"),
    ADD,
    DELETE,
    CustomTool(name="patch"),
    ServerTool(server="web", name="search", shown_as="web_search_call"),
)
DONE, OPEN, CUT = Status.COMPLETED, Status.IN_PROGRESS, Status.INCOMPLETE
THREE = ToolResult(output="3")


def new_turn(
    *,
    choice: ToolChoice | None = None,
    parallel: bool = True,
    limits: Limits | None = None,
    listings: tuple[McpListTools, ...] = (),
    approved: tuple[McpCall, ...] = (),
) -> Turn:
    offers = tuple(Offer(tool.name, tool) for tool in TOOLS)
    return Turn(
        id="resp_1",
        model="m",
        created_at=0,
        tools=ToolSet(offers=offers, choice=choice or ToolChoice(), parallel=parallel),
        limits=limits or Limits(),
        opening=listings,
        approved=approved,
    )


def new_loop(turn: Turn | None = None) -> AgentLoop:
    return AgentLoop(turn or new_turn(), Ids())


def todo(loop: AgentLoop) -> Action:
    """What the loop wants; asked by a function, because a type checker takes it to stay."""
    return loop.action


def message(text: str | None, status: Status = DONE, number: int = 1) -> Message:
    parts = () if text is None else (TextPart(text),)
    return Message(id=f"msg_{number}", role="assistant", parts=parts, status=status)


def thought(text: str, status: Status = DONE, number: int = 1) -> Reasoning:
    return Reasoning(id=f"rs_{number}", text=text, status=status)


def weather(arguments: str, status: Status = DONE, number: int = 1) -> FunctionCall:
    return FunctionCall(
        id=f"fc_{number}",
        call_id=f"call_{number}",
        name="weather",
        arguments=arguments,
        status=status,
    )


def add(arguments: str, status: Status = OPEN, number: int = 1) -> McpCall:
    return McpCall(
        id=f"mcp_{number}", server_label="math", name="add", arguments=arguments, status=status
    )


def added(arguments: str, output: str = "3", number: int = 1) -> McpCall:
    return replace(add(arguments, DONE, number), output=output)


# ---- one generation


def test_text_becomes_one_message() -> None:
    loop = new_loop()
    assert todo(loop) == Generate(0)
    events = [
        *loop.receive(says("It is ")),
        *loop.receive(says("42.")),
        *loop.generation_finished(Finish.STOP, tokens(2)),
    ]
    assert events == [
        ItemStarted(0, message(None, OPEN)),
        ItemDelta(0, "It is "),
        ItemDelta(0, "42."),
        ItemFinished(0, message("It is 42.")),
        TurnFinished(Outcome.COMPLETED, (message("It is 42."),), tokens(2)),
    ]
    assert todo(loop) == Stop()


def test_log_probabilities_go_out_with_their_text_and_stay_in_the_message() -> None:
    loop = new_loop()
    first, second = Logprob("a", -0.5, b"a"), Logprob("b", -1.0, b"b")
    events = loop.receive([Text("a", (first,)), Text("b", (second,))])
    events += loop.generation_finished(Finish.STOP, Usage())
    whole = replace(message("ab"), parts=(TextPart("ab", logprobs=(first, second)),))
    assert events[1:4] == [
        ItemDelta(0, "a", (first,)),
        ItemDelta(0, "b", (second,)),
        ItemFinished(0, whole),
    ]


def test_reasoning_is_an_item_of_its_own_before_the_message() -> None:
    loop = new_loop()
    events = [
        *loop.receive([*thinks("Let me ", "see."), *says("Done.")]),
        *loop.generation_finished(Finish.STOP, tokens(5)),
    ]
    items = (thought("Let me see."), message("Done."))
    assert events == [
        ItemStarted(0, thought("", OPEN)),
        ItemDelta(0, "Let me "),
        ItemDelta(0, "see."),
        ItemFinished(0, items[0]),
        ItemStarted(1, message(None, OPEN)),
        ItemDelta(1, "Done."),
        ItemFinished(1, items[1]),
        TurnFinished(Outcome.COMPLETED, items, tokens(5)),
    ]


def test_a_function_call_is_left_to_the_client() -> None:
    loop = new_loop()
    events = [
        *loop.receive(call("weather", '{"city": ', '"Oslo"}')),
        *loop.generation_finished(Finish.STOP, tokens(7)),
    ]
    done = weather('{"city": "Oslo"}')
    assert events == [
        ItemStarted(0, weather("", OPEN)),
        ItemDelta(0, '{"city": '),
        ItemDelta(0, '"Oslo"}'),
        ItemFinished(0, done),
        TurnFinished(Outcome.COMPLETED, (done,), tokens(7)),
    ]
    assert todo(loop) == Stop()


def test_parallel_calls_follow_one_another() -> None:
    loop = new_loop()
    events = [
        *loop.receive([*says("Two calls."), *call("weather", "{}"), *call("weather", "[]")]),
        *loop.generation_finished(Finish.STOP, tokens(9)),
    ]
    items = (message("Two calls."), weather("{}"), weather("[]", number=2))
    assert events == [
        ItemStarted(0, message(None, OPEN)),
        ItemDelta(0, "Two calls."),
        ItemFinished(0, items[0]),
        ItemStarted(1, weather("", OPEN)),
        ItemDelta(1, "{}"),
        ItemFinished(1, items[1]),
        ItemStarted(2, weather("", OPEN, 2)),
        ItemDelta(2, "[]"),
        ItemFinished(2, items[2]),
        TurnFinished(Outcome.COMPLETED, items, tokens(9)),
    ]


def test_without_parallel_calls_the_rest_of_the_generation_is_not_heard() -> None:
    loop = new_loop(new_turn(parallel=False))
    events = [
        *loop.receive([*call("weather", "{}"), *says("And "), *call("weather", "[]")]),
        *loop.receive(says("so on.")),
        *loop.generation_finished(Finish.STOP, tokens(9)),
    ]
    assert events == [
        ItemStarted(0, weather("", OPEN)),
        ItemDelta(0, "{}"),
        ItemFinished(0, weather("{}")),
        TurnFinished(Outcome.COMPLETED, (weather("{}"),), tokens(9)),
    ]


def test_without_parallel_calls_the_next_generation_is_heard_again() -> None:
    loop = new_loop(new_turn(parallel=False))
    loop.receive([*call("add", "{}"), *call("add", "[]")])
    loop.generation_finished(Finish.STOP, tokens(1))
    loop.tool_finished("mcp_1", THREE)
    assert loop.receive(says("3")) == [
        ItemStarted(1, message(None, OPEN)),
        ItemDelta(1, "3"),
    ]


def test_a_custom_tool_gets_the_text_out_of_its_arguments_at_once() -> None:
    loop = new_loop()
    events = [
        *loop.receive(call("patch", '{"input": "one\\n', 'two"}')),
        *loop.generation_finished(Finish.STOP, tokens(4)),
    ]
    empty = CustomToolCall(id="ctc_1", call_id="call_1", name="patch", status=OPEN)
    done = replace(empty, input="one\ntwo", status=DONE)
    assert events == [
        ItemStarted(0, empty),
        ItemDelta(0, "one\ntwo"),
        ItemFinished(0, done),
        TurnFinished(Outcome.COMPLETED, (done,), tokens(4)),
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "', '{"input": "'),
        ('{"input": 7}', '{"input": 7}'),
        ('["input"]', '["input"]'),
        ('{"input": "a\\ud800b"}', "a?b"),
        ('{"input": ""}', ""),
    ],
)
def test_a_custom_tool_shows_other_arguments_as_they_are(arguments: str, text: str) -> None:
    loop = new_loop()
    events = loop.receive(call("patch", arguments))
    shown = [event.text for event in events if isinstance(event, ItemDelta)]
    assert shown == ([text] if text else [])
    assert isinstance(events[-1], ItemFinished)
    assert isinstance(events[-1].item, CustomToolCall)
    assert events[-1].item.input == text


def test_a_call_of_an_unknown_tool_is_a_function_call() -> None:
    loop = new_loop()
    loop.receive(call("nowhere", "{}"))
    loop.generation_finished(Finish.STOP, tokens(1))
    assert loop.output == (replace(weather("{}"), name="nowhere"),)


def test_a_tool_in_a_namespace_is_named_by_both() -> None:
    tool = FunctionTool(name="read", namespace="files")
    turn = replace(new_turn(), tools=ToolSet(offers=(Offer("files__read", tool),)))
    loop = new_loop(turn)
    loop.receive(call("files__read", "{}"))
    assert loop.output == (replace(weather("{}"), name="read", namespace="files"),)


@pytest.mark.parametrize(
    "choice",
    [ToolChoice(mode="none"), ToolChoice(names=frozenset({"add"}))],
    ids=["none", "another tool"],
)
def test_a_call_that_tool_choice_forbids_is_shown_as_text(choice: ToolChoice) -> None:
    loop = new_loop(new_turn(choice=choice))
    events = [
        *loop.receive(call("weather", '{"city": 1}')),
        *loop.generation_finished(Finish.STOP, tokens(3)),
    ]
    text = message('{"name": "weather", "arguments": {"city": 1}}')
    assert events == [
        ItemStarted(0, message(None, OPEN)),
        ItemDelta(0, '{"name": "weather", "arguments": '),
        ItemDelta(0, '{"city": 1}'),
        ItemDelta(0, "}"),
        ItemFinished(0, text),
        TurnFinished(Outcome.COMPLETED, (text,), tokens(3)),
    ]


def test_a_forbidden_call_that_never_ends_does_not_reach_into_the_next_generation() -> None:
    loop = new_loop(new_turn(choice=ToolChoice(names=frozenset({"add"}))))
    loop.receive([*call("add", "{}"), ToolCallStart("weather"), ToolCallArguments("{")])
    loop.generation_finished(Finish.STOP, tokens(1))
    loop.tool_finished("mcp_1", THREE)
    assert loop.receive(call("add", "[]"))[-1] == CallReady(2, add("[]", number=2))


def test_an_empty_generation_completes_the_turn_with_nothing() -> None:
    loop = new_loop()
    assert loop.generation_finished(Finish.STOP, tokens(0)) == [
        TurnFinished(Outcome.COMPLETED, (), tokens(0))
    ]


# ---- tools that run here


def test_an_mcp_call_is_run_and_the_model_goes_on() -> None:
    loop = new_loop()
    events = [
        *loop.receive([*thinks("Add."), *call("add", '{"a"', ": 1}")]),
        *loop.generation_finished(Finish.STOP, tokens(6)),
    ]
    pending = add('{"a": 1}')
    assert todo(loop) == CallTools((pending,))
    events += loop.tool_finished("mcp_1", THREE)
    assert todo(loop) == Generate(1, None, frozenset({"rs_1"}))
    events += [
        *loop.receive(says("3.")),
        *loop.generation_finished(Finish.STOP, tokens(2)),
    ]
    items = (thought("Add."), added('{"a": 1}'), message("3."))
    assert events == [
        ItemStarted(0, thought("", OPEN)),
        ItemDelta(0, "Add."),
        ItemFinished(0, items[0]),
        ItemStarted(1, add("")),
        ItemDelta(1, '{"a"'),
        ItemDelta(1, ": 1}"),
        CallReady(1, pending),
        ItemFinished(1, items[1]),
        ItemStarted(2, message(None, OPEN)),
        ItemDelta(2, "3."),
        ItemFinished(2, items[2]),
        TurnFinished(Outcome.COMPLETED, items, tokens(6) + tokens(2)),
    ]
    assert loop.progress.starts == {"rs_1", "msg_1"}


def test_results_may_come_in_any_order() -> None:
    loop = new_loop()
    loop.receive([*call("add", "1"), *call("add", "2")])
    loop.generation_finished(Finish.STOP, tokens(1))
    first, second = add("1"), add("2", number=2)
    assert todo(loop) == CallTools((first, second))
    assert loop.tool_finished("mcp_2", THREE) == [ItemFinished(1, added("2", number=2))]
    assert todo(loop) == CallTools((first, second))
    assert loop.tool_finished("mcp_1", THREE) == [ItemFinished(0, added("1"))]
    assert todo(loop) == Generate(1, None, frozenset({"mcp_1"}))


def test_a_failed_call_is_an_item_and_the_model_goes_on() -> None:
    loop = new_loop()
    loop.receive(call("add", "{}"))
    loop.generation_finished(Finish.STOP, tokens(1))
    error = ToolError(kind="mcp_tool_execution_error", message="boom")
    failed = replace(add("{}", Status.FAILED), error=error)
    assert loop.tool_finished("mcp_1", ToolResult(error=error)) == [ItemFinished(0, failed)]
    assert isinstance(todo(loop), Generate)


def test_calls_for_both_sides_are_run_here_and_then_left_to_the_client() -> None:
    loop = new_loop()
    loop.receive([*call("weather", "{}"), *call("add", "{}")])
    assert loop.generation_finished(Finish.STOP, tokens(1)) == []
    assert todo(loop) == CallTools((add("{}"),))
    items = (weather("{}"), added("{}"))
    assert loop.tool_finished("mcp_1", THREE) == [
        ItemFinished(1, items[1]),
        TurnFinished(Outcome.COMPLETED, items, tokens(1)),
    ]
    assert todo(loop) == Stop()


def test_an_empty_answer_after_tools_ends_the_turn() -> None:
    loop = new_loop()
    loop.receive(call("add", "{}"))
    loop.generation_finished(Finish.STOP, tokens(1))
    loop.tool_finished("mcp_1", THREE)
    events = loop.generation_finished(Finish.STOP, tokens(0))
    assert events == [TurnFinished(Outcome.COMPLETED, (added("{}"),), tokens(1) + tokens(0))]


def test_a_tool_that_stands_for_a_hosted_one_has_its_items() -> None:
    loop = new_loop()
    events = loop.receive(call("search", "{}"))
    begun = HostedCall(
        id="ws_1", type="web_search_call", server_label="web", name="search", status=OPEN
    )
    ready = replace(begun, arguments="{}")
    assert events == [ItemStarted(0, begun), ItemDelta(0, "{}"), CallReady(0, ready)]
    loop.generation_finished(Finish.STOP, tokens(1))
    done = replace(ready, output="3", status=DONE)
    assert loop.tool_finished("ws_1", THREE) == [ItemFinished(0, done)]


def test_tool_lists_open_the_output() -> None:
    tool = McpTool(name="add", input_schema={})
    listing = McpListTools(id="mcpl_1", server_label="math", tools=(tool,))
    loop = new_loop(new_turn(listings=(listing,)))
    assert loop.begin() == [
        ItemStarted(0, replace(listing, tools=())),
        ItemFinished(0, listing),
    ]
    assert todo(loop) == Generate(0)
    assert loop.receive(says("Hi."))[0] == ItemStarted(1, message(None, OPEN))


# ---- approval


def test_a_call_that_needs_approval_is_asked_for_whole_and_ends_the_turn() -> None:
    loop = new_loop()
    events = [
        *loop.receive(call("delete", '{"path"', ': "/"}')),
        *loop.generation_finished(Finish.STOP, tokens(4)),
    ]
    asked = McpApprovalRequest(
        id=approval_id("mcpr_1", DELETE, 0),
        server_label="files",
        name="delete",
        arguments='{"path": "/"}',
    )
    assert events == [
        ItemStarted(0, asked),
        ItemFinished(0, asked),
        TurnFinished(Outcome.COMPLETED, (asked,), tokens(4)),
    ]


def test_a_call_just_approved_is_run_before_the_model_speaks() -> None:
    approved = replace(add('{"a": 1}', number=9), approval_request_id="mcpr_1")
    loop = new_loop(new_turn(approved=(approved,)))
    assert loop.begin() == [
        ItemStarted(0, replace(approved, arguments="")),
        ItemDelta(0, '{"a": 1}'),
        CallReady(0, approved),
    ]
    assert todo(loop) == CallTools((approved,))
    done = replace(approved, output="3", status=DONE)
    assert loop.tool_finished("mcp_9", THREE) == [ItemFinished(0, done)]
    assert todo(loop) == Generate(0)


def test_a_call_of_which_nobody_knows_whether_it_ran_can_become_a_question() -> None:
    loop = new_loop()
    loop.receive([*call("add", "1"), *call("add", "2")])
    loop.generation_finished(Finish.STOP, tokens(1))
    unknown = ToolError(kind="mcp_protocol_error", message="Nobody knows.")
    failed = replace(add("1", Status.FAILED), error=unknown)
    asked = McpApprovalRequest(
        id=approval_id("mcpr_1", ADD, 0), server_label="math", name="add", arguments="1"
    )
    assert loop.ask_again("mcp_1", ToolResult(error=unknown)) == [
        ItemFinished(0, failed),
        ItemStarted(2, asked),
        ItemFinished(2, asked),
    ]
    items = (failed, added("2", number=2), asked)
    assert loop.tool_finished("mcp_2", THREE) == [
        ItemFinished(1, items[1]),
        TurnFinished(Outcome.COMPLETED, items, tokens(1)),
    ]


# ---- limits


def test_calls_beyond_max_tool_calls_get_an_error_and_the_model_goes_on() -> None:
    loop = new_loop(new_turn(limits=Limits(max_tool_calls=1)))
    loop.receive([*call("add", "1"), *call("add", "2")])
    error = ToolError(
        kind="mcp_protocol_error",
        message="Not run: this response allows 1 tool calls (max_tool_calls).",
    )
    refused = replace(add("2", Status.FAILED, 2), error=error)
    assert loop.generation_finished(Finish.STOP, tokens(1)) == [ItemFinished(1, refused)]
    assert todo(loop) == CallTools((add("1"),))
    loop.tool_finished("mcp_1", THREE)
    loop.receive(call("add", "3"))
    again = replace(add("3", Status.FAILED, 3), error=error)
    assert loop.generation_finished(Finish.STOP, tokens(1)) == [ItemFinished(2, again)]
    assert isinstance(todo(loop), Generate)


def test_after_max_generations_the_turn_is_incomplete() -> None:
    loop = new_loop(new_turn(limits=Limits(max_generations=1)))
    loop.receive(call("add", "{}"))
    loop.generation_finished(Finish.STOP, tokens(1))
    done = added("{}")
    assert loop.tool_finished("mcp_1", THREE) == [
        ItemFinished(0, done),
        TurnFinished(Outcome.INCOMPLETE, (done,), tokens(1), "max_messages"),
    ]


def test_the_last_allowed_generation_may_complete_the_turn() -> None:
    loop = new_loop(new_turn(limits=Limits(max_generations=1)))
    loop.receive(says("Hi."))
    [*_, end] = loop.generation_finished(Finish.STOP, tokens(1))
    assert end == TurnFinished(Outcome.COMPLETED, (message("Hi."),), tokens(1))


def test_max_output_tokens_counts_over_all_generations() -> None:
    loop = new_loop(new_turn(limits=Limits(max_output_tokens=20)))
    assert todo(loop) == Generate(0, 20)
    loop.receive(call("add", "{}"))
    loop.generation_finished(Finish.STOP, tokens(15))
    loop.tool_finished("mcp_1", THREE)
    assert todo(loop) == Generate(1, 5, frozenset({"mcp_1"}))
    loop.receive(says("It"))
    items = (added("{}"), message("It", CUT))
    assert loop.generation_finished(Finish.LENGTH, tokens(5)) == [
        ItemFinished(1, items[1]),
        TurnFinished(Outcome.INCOMPLETE, items, tokens(15) + tokens(5), "max_output_tokens"),
    ]


def test_a_turn_whose_tokens_are_used_up_by_calls_is_incomplete() -> None:
    loop = new_loop(new_turn(limits=Limits(max_output_tokens=20)))
    loop.receive(call("add", "{}"))
    loop.generation_finished(Finish.STOP, tokens(20))
    done = added("{}")
    assert loop.tool_finished("mcp_1", THREE) == [
        ItemFinished(0, done),
        TurnFinished(Outcome.INCOMPLETE, (done,), tokens(20), "max_output_tokens"),
    ]


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.ABORT])
def test_a_generation_cut_inside_a_call_leaves_it_as_it_is(finish: Finish) -> None:
    loop = new_loop()
    loop.receive([*call("add", "{}"), ToolCallStart("weather"), ToolCallArguments('{"ci')])
    half, unheard = weather('{"ci', CUT), add("{}", CUT)
    assert loop.generation_finished(finish, tokens(8)) == [
        ItemFinished(1, half),
        ItemFinished(0, unheard),
        TurnFinished(Outcome.INCOMPLETE, (unheard, half), tokens(8), "max_output_tokens"),
    ]
    assert todo(loop) == Stop()


def test_a_call_that_the_model_itself_leaves_open_is_not_run() -> None:
    loop = new_loop()
    loop.receive([ToolCallStart("add"), ToolCallArguments("{")])
    half = add("{", CUT)
    assert loop.generation_finished(Finish.STOP, tokens(3)) == [
        ItemFinished(0, half),
        TurnFinished(Outcome.COMPLETED, (half,), tokens(3)),
    ]


# ---- early ends


def test_a_failure_keeps_what_was_half_said() -> None:
    loop = new_loop()
    loop.receive([*call("add", "{}"), *says("It ", "is")])
    error = WorkerUnavailable("gone")
    items = (add("{}", CUT), message("It is", CUT))
    assert loop.fail(error) == [TurnFinished(Outcome.FAILED, items, Usage(), error=error)]
    assert todo(loop) == Stop()


def test_a_cancelled_turn_keeps_what_was_said_and_used() -> None:
    loop = new_loop()
    loop.receive(call("add", "{}"))
    loop.generation_finished(Finish.STOP, tokens(4))
    items = (add("{}", CUT),)
    assert loop.cancel() == [TurnFinished(Outcome.CANCELLED, items, tokens(4))]
    assert todo(loop) == Stop()


def test_arguments_outside_a_call_are_a_mistake_of_the_parser() -> None:
    with pytest.raises(AssertionError):
        new_loop().receive([ToolCallArguments("{")])


# ---- properties over whole turns


@dataclass(frozen=True, slots=True)
class Played:
    """A generation of a made-up turn."""

    deltas: tuple[ParsedDelta, ...]
    finish: Finish
    usage: Usage


def play(turn: Turn, script: Sequence[Played], *, rebuilt: bool) -> tuple[list[Event], Progress]:
    """Take a turn to its end; `rebuilt`: by a new loop at every edge of a step."""
    ids, left = Ids(), list(script)
    loop = AgentLoop(turn, ids)
    events = loop.begin()
    while not isinstance(loop.action, Stop):
        if rebuilt:
            action: Action = loop.action
            loop = AgentLoop(turn, ids, loop.progress)
            assert todo(loop) == action
        match loop.action:
            case Generate():
                generation = left.pop(0) if left else Played((), Finish.STOP, Usage())
                events += loop.receive(generation.deltas)
                events += loop.generation_finished(generation.finish, generation.usage)
            case CallTools(calls):
                for pending in reversed(calls):
                    result = RESULTS[len(pending.arguments) % len(RESULTS)]
                    events += loop.tool_finished(pending.id, result)
    return events, loop.progress


RESULTS = (
    THREE,
    ToolResult(error=ToolError(kind="mcp_tool_execution_error", message="boom")),
)

NAMES = st.sampled_from(["weather", "add", "delete", "patch", "search", "nowhere"])
ARGUMENTS = st.sampled_from(["{}", '{"input": "x"}', "{", ""])
CALLS = st.builds(lambda name, text: tuple(call(name, text)), NAMES, ARGUMENTS)
WORDS = st.sampled_from([tuple(says("a", "b")), tuple(thinks("c"))])
GENERATIONS = st.builds(
    lambda pieces, open_call, finish, written: Played(
        tuple(delta for piece in pieces for delta in piece) + open_call, finish, tokens(written)
    ),
    st.lists(CALLS | WORDS, max_size=4),
    st.sampled_from([(), (ToolCallStart("add"),), (ToolCallStart("weather"),)]),
    st.sampled_from([Finish.STOP] * 4 + [Finish.LENGTH]),
    st.integers(0, 5),
)
TURNS = st.builds(
    lambda names, parallel, limits: new_turn(
        choice=ToolChoice(names=names), parallel=parallel, limits=limits
    ),
    st.none() | st.frozensets(st.sampled_from(["weather", "add", "delete"])),
    st.booleans(),
    st.builds(
        lambda output, calls: Limits(
            max_output_tokens=output, max_tool_calls=calls, max_generations=5
        ),
        st.none() | st.integers(1, 12),
        st.none() | st.integers(1, 3),
    ),
)


@given(TURNS, st.lists(GENERATIONS, max_size=6))
def test_a_turn_taken_up_from_its_progress_goes_on_as_if_never_interrupted(
    turn: Turn, script: list[Played]
) -> None:
    assert play(turn, script, rebuilt=True) == play(turn, script, rebuilt=False)


@given(TURNS, st.lists(GENERATIONS, max_size=6))
def test_every_item_starts_once_finishes_once_and_is_what_its_deltas_said(
    turn: Turn, script: list[Played]
) -> None:
    events, _ = play(turn, script, rebuilt=False)
    end = events[-1]
    assert isinstance(end, TurnFinished)
    finished = {e.index: e.item for e in events if isinstance(e, ItemFinished)}
    assert [e.index for e in events if isinstance(e, ItemStarted)] == list(range(len(end.items)))
    assert sum(isinstance(e, ItemFinished) for e in events) == len(end.items)
    assert sum(isinstance(e, TurnFinished) for e in events) == 1
    assert tuple(finished[n] for n in range(len(end.items))) == end.items
    texts = said(events)
    for index, item in enumerate(end.items):
        assert texts.get(index, "") == text_of(item)
        assert getattr(item, "status", DONE) is not OPEN


def said(events: Sequence[Event]) -> Mapping[int, str]:
    texts: dict[int, str] = {}
    for event in events:
        if isinstance(event, ItemDelta):
            texts[event.index] = texts.get(event.index, "") + event.text
    return texts


def text_of(item: Item) -> str:
    match item:
        case Message() | Reasoning():
            return item.text
        case CustomToolCall():
            return item.input
        case FunctionCall() | McpCall() | HostedCall():
            return item.arguments
        case _:
            return ""  # Shown whole when it starts.


def test_the_end_of_a_call_belongs_to_the_call_that_is_open() -> None:
    loop = new_loop()
    assert loop.receive([ToolCallStart("weather"), ToolCallEnd()])[-1] == ItemFinished(
        0, weather("")
    )
