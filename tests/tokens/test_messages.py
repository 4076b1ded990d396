from collections.abc import Sequence

import pytest

from smg.errors import InvalidRequest
from smg.items import (
    Compaction,
    CustomToolCall,
    CustomToolCallOutput,
    FilePart,
    ForeignItem,
    FunctionCall,
    FunctionCallOutput,
    HostedCall,
    ImagePart,
    Item,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpListTools,
    Message,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
    ToolError,
)
from smg.tokens.messages import new_messages
from smg.tokens.template import ChatMessage


def said(role: str, *texts: str) -> Message:
    return Message(id="msg", role=role, parts=tuple(map(TextPart, texts)))


def function(call_id: str, name: str = "add", arguments: str = '{"a": 1}') -> FunctionCall:
    return FunctionCall(id="fc_" + call_id, call_id=call_id, name=name, arguments=arguments)


def output(call_id: str, text: str | tuple[Part, ...] = "3") -> FunctionCallOutput:
    return FunctionCallOutput(id="fco", call_id=call_id, output=text)


def mcp(id: str, **fields: object) -> McpCall:
    values: dict[str, object] = {"output": "done", "arguments": "{}", **fields}
    return McpCall(id=id, server_label="s", name="run", **values)  # type: ignore[arg-type]


def messages(*items: Item, instructions: str | None = None) -> list[ChatMessage]:
    return new_messages(instructions, items)


def called(id: str, name: str, arguments: str) -> dict[str, object]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, object], content: str = "", thought: str = "") -> ChatMessage:
    reasoning = {"reasoning_content": thought} if thought else {}
    return {"role": "assistant", "content": content, **reasoning, "tool_calls": list(calls)}


def result(id: str, name: str, content: str) -> ChatMessage:
    return {"role": "tool", "tool_call_id": id, "name": name, "content": content}


def test_instructions_come_first_and_messages_keep_their_roles() -> None:
    talk = [said("developer", "b"), said("user", "c", "d"), said("assistant", "e")]
    assert messages(*talk, instructions="a") == [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        {"role": "user", "content": "cd"},
        {"role": "assistant", "content": "e"},
    ]


def test_text_and_calls_of_one_step_are_one_message_and_results_follow_in_order() -> None:
    steps: list[Item] = [
        Reasoning(id="rs", text="Hm."),
        said("assistant", "Let me see."),
        function("call_1"),
        mcp("mcp_1"),
        output("call_1"),
        said("user", "and?"),
    ]
    assert messages(*steps) == [
        calling(
            called("call_1", "add", '{"a": 1}'),
            called("mcp_1", "run", "{}"),
            content="Let me see.",
            thought="Hm.",
        ),
        result("call_1", "add", "3"),
        result("mcp_1", "run", "done"),
        {"role": "user", "content": "and?"},
    ]


def test_calls_divided_by_an_output_or_by_thinking_are_steps_of_their_own() -> None:
    one, two, three = ((called(f"call_{n}", "add", '{"a": 1}')) for n in (1, 2, 3))
    steps: list[Item] = [
        function("call_1"),
        output("call_1"),
        function("call_2"),
        Reasoning(id="rs", text="Hm."),
        function("call_3"),
        output("call_3", "5"),
        output("call_2", "4"),
    ]
    assert messages(*steps) == [
        calling(one),
        result("call_1", "add", "3"),
        calling(two),
        result("call_2", "add", "4"),
        calling(three, thought="Hm."),
        result("call_3", "add", "5"),
    ]


def test_calls_divided_by_the_start_of_a_generation_are_steps_of_their_own() -> None:
    steps = [mcp("mcp_1"), mcp("mcp_2")]
    assert len(new_messages(None, steps)) == 3
    assert new_messages(None, steps, starts={"mcp_2"}) == [
        calling(called("mcp_1", "run", "{}")),
        result("mcp_1", "run", "done"),
        calling(called("mcp_2", "run", "{}")),
        result("mcp_2", "run", "done"),
    ]


def test_a_failed_call_tells_the_model_why() -> None:
    error = ToolError(kind="mcp_tool_execution_error", message="no such file")
    [_, failed] = messages(mcp("mcp_1", output=None, error=error))
    assert failed == result("mcp_1", "run", "Error: no such file")


def test_a_call_that_nobody_answered_has_a_result_all_the_same() -> None:
    assert messages(function("call_1", arguments=""), said("user", "stop")) == [
        calling(called("call_1", "add", "{}")),
        result("call_1", "add", "The call has no output."),
        {"role": "user", "content": "stop"},
    ]


def test_an_output_without_its_call_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="call_9") as refusal:
        messages(output("call_9"))
    assert refusal.value.param == "input"


def test_custom_and_hosted_calls_are_calls_like_any_other() -> None:
    hosted = HostedCall(
        id="ws_1", type="web_search_call", server_label="web", name="search", output="found"
    )
    custom = CustomToolCall(id="ctc", call_id="call_1", name="patch", input='say "é"')
    answer = CustomToolCallOutput(id="ctco", call_id="call_1", output=(TextPart("ok"),))
    assert messages(hosted, custom, answer) == [
        calling(
            called("ws_1", "search", "{}"), called("call_1", "patch", '{"input": "say \\"é\\""}')
        ),
        result("ws_1", "search", "found"),
        result("call_1", "patch", "ok"),
    ]


def test_a_denied_call_is_a_call_with_the_denial_as_its_result() -> None:
    asked = McpApprovalRequest(id="mcpr_1", server_label="s", name="run", arguments="{}")
    answer = McpApprovalResponse(
        id="x", approval_request_id="mcpr_1", approve=False, reason="too risky"
    )
    assert messages(asked, answer) == [
        calling(called("mcpr_1", "run", "{}")),
        result("mcpr_1", "run", "The user denied this call. Reason: too risky"),
    ]


def test_an_approval_that_was_given_or_awaited_is_not_said() -> None:
    asked = McpApprovalRequest(id="mcpr_1", server_label="s", name="run")
    granted = McpApprovalResponse(id="x", approval_request_id="mcpr_1", approve=True)
    assert messages(asked, said("user", "hm")) == [{"role": "user", "content": "hm"}]
    assert messages(asked, granted, mcp("mcp_1")) == messages(mcp("mcp_1"))


def test_what_the_model_need_not_know_is_not_said() -> None:
    items: list[Item] = [
        McpListTools(id="mcpl", server_label="s"),
        ForeignItem(id="x", type="shell_call", fields={}),
        Reasoning(id="rs", text="alone"),
        said("user", "hm"),
        Reasoning(id="rs", text="at the end"),
    ]
    assert messages(*items) == [{"role": "user", "content": "hm"}]


def test_a_summary_stands_for_everything_before_it_but_the_users_own_words() -> None:
    items: list[Item] = [
        said("user", "old"),
        function("call_1"),
        said("assistant", "also old"),
        Compaction(id="cmp", encrypted="sealed"),
        said("user", "new"),
    ]
    assert new_messages("Rule.", items, open_sealed=str.upper) == [
        {"role": "system", "content": "Rule."},
        {"role": "system", "content": "Summary of the conversation so far:\n\nSEALED"},
        {"role": "user", "content": "old"},
        {"role": "user", "content": "new"},
    ]


def test_a_summary_that_nobody_can_open_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        messages(Compaction(id="cmp", encrypted="sealed"))


def test_a_family_names_its_calls_by_their_place_in_the_conversation() -> None:
    steps: list[Item] = [
        function("call_1"),
        mcp("mcp_1"),
        output("call_1"),
        function("call_2", "sub"),
    ]
    [_, _, _, last, _] = new_messages(None, steps, lambda name, n, _: f"functions.{name}:{n}")
    assert last == calling(called("functions.sub:2", "sub", '{"a": 1}'))


def test_calls_carry_the_names_under_which_the_tools_are_offered() -> None:
    [call, answer] = new_messages(None, [mcp("mcp_1")], names={("s", "run"): "s__run"})
    assert call["tool_calls"][0]["function"]["name"] == answer["name"] == "s__run"


@pytest.mark.parametrize(
    ("part", "named"),
    [(ImagePart(image_url="data:"), "input_image"), (FilePart({}), "input_file")],
)
def test_what_is_no_text_is_refused_by_its_name(part: Part, named: str) -> None:
    heard: Sequence[Item] = [Message(id="m", role="user", parts=(TextPart("a"), part))]
    with pytest.raises(InvalidRequest, match=named):
        new_messages(None, heard)
    with pytest.raises(InvalidRequest, match=named):
        messages(function("call_1"), output("call_1", (part,)))


def test_a_refusal_is_something_said() -> None:
    refused = Message(id="m", role="assistant", parts=(RefusalPart("No."),))
    assert messages(refused) == [{"role": "assistant", "content": "No."}]
