"""What an HTTP worker is asked: turns to bodies, field by field."""

import json
from typing import Any

import pytest

from smg.agent.loop import Generate
from smg.errors import InvalidRequest
from smg.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FilePart,
    FunctionCall,
    FunctionCallOutput,
    ImagePart,
    Item,
    McpCall,
    Message,
    Reasoning,
    TextPart,
)
from smg.turn import (
    Constraint,
    CustomTool,
    FunctionTool,
    JsonSchema,
    Offer,
    Regex,
    Sampling,
    ServerTool,
    ToolChoice,
    ToolSet,
    Turn,
)
from smg.upstream.request import new_body, new_text_body

FIRST = Generate(0, None)


def said(role: str, text: str) -> Message:
    return Message(id=f"msg_{text}", role=role, parts=(TextPart(text),))


HELLO = (said("user", "Hello"),)
ALWAYS = {"stream": True, "stream_options": {"include_usage": True}}
WEATHER = Offer(
    "weather", FunctionTool(name="weather", parameters={"required": ["city"]}, strict=True)
)
NOTES = Offer("notes", CustomTool(name="notes"))
SEARCH = Offer("search", ServerTool(server="web", name="find", description="Find."))


def turn(*items: Item, **fields: Any) -> Turn:
    return Turn(id="resp_1", model="m", created_at=0, input=items or HELLO, **fields)


def body(of: Turn, output: tuple[Item, ...] = (), step: Generate = FIRST, server: str = "") -> Any:
    return new_body(of, output, step, server)


def test_a_plain_turn_is_its_messages() -> None:
    assert body(turn(said("developer", "Be brief."), *HELLO, instructions="Help.")) == {
        "messages": [
            {"role": "system", "content": "Help."},
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        **ALWAYS,
    }


def test_calls_of_all_kinds_and_their_results_are_told() -> None:
    output = (
        Reasoning(id="rs", text="I must look."),
        FunctionCall(id="fc", call_id="c1", name="weather", arguments='{"city": "Oslo"}'),
        FunctionCallOutput(id="fco", call_id="c1", output="Rain"),
        CustomToolCall(id="ctc", call_id="c2", name="notes", input="hi"),
        CustomToolCallOutput(id="cto", call_id="c2", output="Noted"),
        McpCall(id="mcp_1", server_label="web", name="find", arguments="{}", output="Found"),
    )
    told = body(turn(tools=ToolSet(offers=(WEATHER, NOTES, SEARCH))), output)["messages"]

    def called(call_id: str, name: str, arguments: str) -> Any:
        function = {"name": name, "arguments": arguments}
        return {"id": call_id, "type": "function", "function": function}

    assert told[1:] == [
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "I must look.",
            "tool_calls": [called("c1", "weather", '{"city": "Oslo"}')],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Rain"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [called("c2", "notes", '{"input": "hi"}')],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "Noted"},
        {"role": "assistant", "content": "", "tool_calls": [called("mcp_1", "search", "{}")]},
        {"role": "tool", "tool_call_id": "mcp_1", "content": "Found"},
    ]


def test_thoughts_before_the_users_last_word_are_not_shown_again() -> None:
    items = (*HELLO, Reasoning(id="rs", text="Hm."), said("assistant", "Hi"), said("user", "So?"))
    assert body(turn(*items))["messages"][1] == {"role": "assistant", "content": "Hi"}


def test_pictures_are_shown() -> None:
    url = "data:image/png;base64,AA=="
    item = Message(id="msg", role="user", parts=(TextPart("This?"), ImagePart(url)))
    assert body(turn(item))["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "This?"},
                {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
            ],
        }
    ]


def test_a_file_is_refused() -> None:
    item = Message(id="msg", role="user", parts=(ImagePart("http://x"), FilePart({})))
    with pytest.raises(InvalidRequest, match="input_file"):
        body(turn(item))


def test_tools_are_functions() -> None:
    told = body(turn(tools=ToolSet(offers=(WEATHER, NOTES), parallel=False)))
    assert [tool["function"]["name"] for tool in told["tools"]] == ["weather", "notes"]
    assert told["tools"][0]["function"]["strict"] is True
    assert told["tools"][1]["function"]["parameters"]["required"] == ["input"]
    assert "strict" not in told["tools"][1]["function"]
    assert (told["tool_choice"], told["parallel_tool_calls"]) == ("auto", False)


NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("choice", "told", "tools"),
    [
        (ToolChoice(mode="required"), "required", ["weather", "notes"]),
        (ToolChoice(mode="required", names=frozenset({"weather"})), NAMED, ["weather"]),
        (ToolChoice(names=frozenset({"notes"})), "auto", ["notes"]),
    ],
)
def test_the_choice_of_tools(choice: ToolChoice, told: Any, tools: list[str]) -> None:
    asked = turn(tools=ToolSet(offers=(WEATHER, NOTES), choice=choice))
    first, second = body(asked), body(asked, step=Generate(1, None))
    assert first["tool_choice"] == told
    assert [tool["function"]["name"] for tool in first["tools"]] == tools
    assert second["tool_choice"] == "auto"  # What was forced has been done.


def test_without_tools_there_is_no_choice() -> None:
    asked = turn(tools=ToolSet(offers=(WEATHER,), choice=ToolChoice(mode="none")))
    assert body(asked).keys() == {"messages", *ALWAYS}


FULL = Sampling(
    temperature=0.0,
    top_p=0.5,
    top_k=40,
    min_p=0.125,
    presence_penalty=0.25,
    frequency_penalty=-0.25,
    repetition_penalty=1.5,
    min_tokens=2,
    stop=("END",),
    stop_token_ids=(8,),
    include_stop=True,
    ignore_eos=True,
    seed=11,
    logit_bias={3: -100.0},
    logprobs=2,
    keep_special_tokens=True,
)
TOLD = {
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 40,
    "min_p": 0.125,
    "presence_penalty": 0.25,
    "frequency_penalty": -0.25,
    "repetition_penalty": 1.5,
    "min_tokens": 2,
    "seed": 11,
    "stop": ["END"],
    "stop_token_ids": [8],
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "logit_bias": {"3": -100.0},
    "skip_special_tokens": False,
    "logprobs": True,
    "top_logprobs": 2,
}


def test_every_wish_about_sampling_is_told() -> None:
    told = body(turn(sampling=FULL), step=Generate(0, 7))
    assert told == {
        "messages": [{"role": "user", "content": "Hello"}],
        **ALWAYS,
        **TOLD,
        "max_tokens": 7,
    }


def test_sglang_has_its_own_word_for_keeping_stop_strings() -> None:
    told = body(turn(sampling=Sampling(stop=("x",), include_stop=True)), server="sglang")
    assert "include_stop_str_in_output" not in told
    assert told["no_stop_trim"] is True


def test_openai_has_a_new_name_for_the_limit() -> None:
    told = body(turn(), step=Generate(0, 7), server="openai")
    assert "max_tokens" not in told
    assert told["max_completion_tokens"] == 7


@pytest.mark.parametrize("server", ["openai", "ollama"])
def test_what_a_server_leaves_unread_is_refused_by_name(server: str) -> None:
    with pytest.raises(InvalidRequest, match="top_k") as refused:
        body(turn(sampling=Sampling(top_k=3)), server=server)
    assert refused.value.param == "top_k"


def test_the_effort_has_its_own_field_and_other_keywords_are_the_templates() -> None:
    kwargs = {"reasoning_effort": "low", "enable_thinking": False}
    told = body(turn(template_kwargs=kwargs))
    assert told["reasoning_effort"] == "low"
    assert told["chat_template_kwargs"] == {"enable_thinking": False}


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("constraint", "told"),
    [
        (JsonSchema('{"type": "object"}'), {"type": "json_object"}),
        (
            JsonSchema(json.dumps(SCHEMA)),
            {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            },
        ),
    ],
)
def test_the_form_of_the_answer(constraint: Constraint, told: Any) -> None:
    assert body(turn(output_constraint=constraint))["response_format"] == told


def test_other_forms_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="JSON schema"):
        body(turn(output_constraint=Regex("a+")))


def test_a_text_completion_is_its_prompt() -> None:
    limits = turn().limits
    asked = turn(sampling=Sampling(logprobs=2, temperature=0.0), limits=limits)
    assert new_text_body(asked, "Once", "") == {
        "prompt": "Once",
        **ALWAYS,
        "temperature": 0.0,
        "logprobs": 2,
        "max_tokens": None,
    }
    assert new_text_body(turn(), (1, 2), "")["prompt"] == [1, 2]
