"""What POST /v1/chat/completions takes, and what it refuses before the first byte."""

import json
from typing import Any

import openai
import pytest

from tests.chat.flows import WEATHER, Json, user
from tests.e2e.gateway import Served

HELLO: Json = {"model": "scripted", "messages": user("Hello")}
CALLED: Json = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    ],
}
INVALID = "invalid_request_error"

REFUSED: list[tuple[str, Json, int, str | None, str | None]] = [
    # what is wrong, the fields that replace those of HELLO, status, param, code
    ("no model", {"model": None}, 400, "model", "invalid_type"),
    ("an unknown model", {"model": "gpt"}, 404, "model", "model_not_found"),
    ("no messages", {"messages": None}, 400, "messages", "invalid_type"),
    ("an empty list", {"messages": []}, 400, "messages", "array_below_min_length"),
    ("a message that is text", {"messages": ["x"]}, 400, "messages[0]", "invalid_type"),
    (
        "a message without a role",
        {"messages": [{"content": "x"}]},
        400,
        "messages[0].role",
        "missing_required_parameter",
    ),
    (
        "an unknown role",
        {"messages": [{"role": "king", "content": "x"}]},
        400,
        "messages[0].role",
        "invalid_value",
    ),
    (
        "content that is a number",
        {"messages": [{"role": "user", "content": 1}]},
        400,
        "messages[0].content",
        "invalid_type",
    ),
    (
        "an unknown part",
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        400,
        "messages[0].content[0].type",
        "invalid_value",
    ),
    (
        "a tool's message without its call",
        {"messages": [*user("x"), {"role": "tool", "tool_call_id": "call_1", "content": "y"}]},
        400,
        "messages[1].tool_call_id",
        None,
    ),
    (
        "a tool's message without an id",
        {"messages": [{"role": "tool", "content": "y"}]},
        400,
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    (
        "a call without a function",
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]},
        400,
        "messages[0].tool_calls[0].function",
        "invalid_type",
    ),
    ("functions", {"functions": []}, 400, "functions", "unsupported_parameter"),
    ("audio", {"modalities": ["audio"]}, 400, "modalities", "unsupported_parameter"),
    (
        "a chat template",
        {"chat_template": "x"},
        400,
        "chat_template",
        "unsupported_parameter",
    ),
    ("rivals without log-probabilities", {"top_logprobs": 1}, 400, "top_logprobs", None),
    (
        "too many rivals",
        {"logprobs": True, "top_logprobs": 21},
        400,
        "top_logprobs",
        "integer_above_max_value",
    ),
    (
        "stream options without a stream",
        {"stream_options": {"include_usage": True}},
        400,
        "stream_options",
        None,
    ),
    ("no choices", {"n": 0}, 400, "n", "integer_below_min_value"),
    ("no tokens", {"max_tokens": 0}, 400, "max_tokens", "integer_below_min_value"),
    ("an empty stop", {"stop": [""]}, 400, "stop[0]", "string_below_min_length"),
    ("a top_k beyond bounds", {"top_k": 2**31}, 400, "top_k", "integer_above_max_value"),
    (
        "min_tokens beyond bounds",
        {"min_tokens": 2**31},
        400,
        "min_tokens",
        "integer_above_max_value",
    ),
    (
        "a stop token below zero",
        {"stop_token_ids": [7, -1]},
        400,
        "stop_token_ids[1]",
        "integer_below_min_value",
    ),
    (
        "a bias of a token beyond bounds",
        {"logit_bias": {"9999999": 1}},
        400,
        "logit_bias",
        "invalid_prompt",
    ),
    ("a bias of no token", {"logit_bias": {"x": 1}}, 400, "logit_bias", "invalid_value"),
    ("a bias too strong", {"logit_bias": {"1": 101}}, 400, "logit_bias", "invalid_value"),
    (
        "a temperature below zero",
        {"temperature": -0.5},
        400,
        "temperature",
        "decimal_below_min_value",
    ),
    ("a tool without a function", {"tools": [{"type": "function"}]}, 400, "tools[0]", None),
    (
        "a function without a name",
        {"tools": [{"type": "function", "function": {}}]},
        400,
        "tools[0].name",
        "missing_required_parameter",
    ),
    ("an mcp server", {"tools": [{"type": "mcp", "server_label": "x"}]}, 400, "tools[0]", None),
    (
        "a choice of a tool that is not offered",
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        400,
        "tool_choice",
        None,
    ),
    (
        "a schema that is missing",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        400,
        "response_format.json_schema.schema",
        "missing_required_parameter",
    ),
    (
        "a prompt that does not fit",
        {"messages": user("word " * 40_000)},
        400,
        "messages",
        "context_length_exceeded",
    ),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("fields", "status", "param", "code"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
async def test_a_request_is_refused_that_has(
    fields: Json, status: int, param: str | None, code: str | None, streamed: bool, served: Served
) -> None:
    body = {**HELLO, **({"stream": True} if streamed and "stream_options" not in fields else {})}
    answer = await served.http.post("/chat/completions", json={**body, **fields})
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert (error["type"], error["param"], error["code"]) == (INVALID, param, code), error
    assert error["message"]


async def heard(served: Served, messages: list[Json], **fields: Any) -> list[list[str]]:
    """What the model was told: [role, text] of every message."""
    answer = await served.post("/chat/completions", messages=messages, **fields)
    assert answer.status_code == 200, answer.text
    said: list[list[str]] = json.loads(answer.json()["choices"][0]["message"]["content"])
    return said


async def test_a_developers_message_is_the_systems(served: Served) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *user("[[echo]]")]
    assert await heard(served, messages) == [["system", "Be brief."], ["user", "[[echo]]"]]


async def test_content_may_come_in_parts(served: Served) -> None:
    parts = [{"type": "text", "text": "[[echo]]"}, {"type": "text", "text": " you"}]
    assert await heard(served, [{"role": "user", "content": parts}]) == [["user", "[[echo]] you"]]


async def test_a_round_of_tools_reaches_the_model(served: Served) -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    messages = [*user("How is it?"), CALLED, result, *user("[[echo]]")]
    roles = [role for role, _ in await heard(served, messages, tools=[WEATHER])]
    assert [role for role in roles if role != "system"] == ["user", "assistant", "tool", "user"]


async def test_a_result_is_answered(served: Served) -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    answer = await served.post(
        "/chat/completions", messages=[*user("[[call:weather]]"), CALLED, result], tools=[WEATHER]
    )
    assert answer.json()["choices"][0]["message"]["content"] == "tool result: sunny"


async def test_a_named_tool_must_be_called(served: Served) -> None:
    answer = await served.post(
        "/chat/completions",
        messages=user("Hello"),
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    [choice] = answer.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert call["id"].startswith("call_")


async def test_no_tool_may_be_called_when_none_is_chosen(served: Served) -> None:
    answer = await served.post(
        "/chat/completions",
        messages=user("[[call:weather {}]]"),
        tools=[WEATHER],
        tool_choice="none",
    )
    [choice] = answer.json()["choices"]
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


async def test_sampling_reaches_the_engine(served: Served) -> None:
    question = "Which sampling is this?"
    await served.post(
        "/chat/completions",
        messages=user(question),
        temperature=0.25,
        top_p=0.5,
        top_k=7,
        min_p=0.125,
        seed=11,
        stop=["END"],
        max_tokens=9,
        max_completion_tokens=8,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"5": 2},
    )
    received = served.engine.requests[-1]
    assert question in received.conversation.question
    sampling = received.message.sampling_params
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
    assert (sampling.min_p, sampling.seed, sampling.max_tokens) == (0.125, 11, 8)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert dict(sampling.logit_bias) == {5: 2.0}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"messages": []}, openai.BadRequestError),
        ({"model": "nowhere"}, openai.NotFoundError),
        ({"messages": user("[[http500]]")}, openai.InternalServerError),
    ],
)
async def test_the_official_client_raises_the_right_error(
    fields: Any, error: type[openai.APIStatusError], served: Served
) -> None:
    with pytest.raises(error) as raised:
        await served.openai.chat.completions.create(**{**HELLO, **fields})
    assert raised.value.request_id


async def test_a_seed_that_the_engine_cannot_carry_is_refused_by_its_name(served: Served) -> None:
    answer = await served.post("/chat/completions", messages=user("Hello"), seed=2**70)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "seed"


@pytest.mark.parametrize("stop", [None, "", []])
async def test_a_stop_that_is_empty_stops_nothing(stop: Any, served: Served) -> None:
    answer = await served.post("/chat/completions", messages=user("[[say:Yes.]]"), stop=stop)
    assert answer.json()["choices"][0]["message"]["content"] == "Yes."


async def test_nothing_of_a_chat_is_stored(served: Served) -> None:
    answer = await served.post("/chat/completions", messages=user("Hello"), store=True)
    completion_id = answer.json()["id"]
    assert completion_id.startswith("chatcmpl-")
    assert (await served.http.get(f"/chat/completions/{completion_id}")).status_code == 404
    assert (await served.http.get(f"/responses/{completion_id}")).status_code == 404
