"""What POST /v1/responses refuses: always before the first byte, always naming the field."""

import json
from typing import Any

import openai
import pytest

from tests.e2e.gateway import Served
from tests.responses.flows import PATCH, WEATHER, Json, server

HELLO: Json = {"model": "scripted", "input": "Hello"}
CALL: Json = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
OUTPUT: Json = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
ASKED: Json = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "server_label": "guarded",
    "name": "add",
    "arguments": "{}",
}
APPROVED: Json = {
    "type": "mcp_approval_response",
    "approval_request_id": "mcpr_1",
    "approve": True,
}
INVALID = "invalid_request_error"

REFUSED: list[tuple[str, Json, int, str | None, str | None]] = [
    # what is wrong, the fields that replace those of HELLO, status, param, code
    ("no model", {"model": None}, 400, "model", "missing_required_parameter"),
    ("an unknown model", {"model": "gpt"}, 404, "model", "model_not_found"),
    ("a model that is a number", {"model": 4}, 400, "model", "invalid_type"),
    ("no input", {"input": None}, 400, "input", "missing_required_parameter"),
    ("an empty input", {"input": []}, 400, "input", "missing_required_parameter"),
    ("an input that is a number", {"input": 7}, 400, "input", "invalid_type"),
    ("an item that is a string", {"input": ["x"]}, 400, "input[0]", "invalid_type"),
    ("an unknown item", {"input": [{"type": "song"}]}, 400, "input[0]", "invalid_value"),
    (
        "a part of an unknown type",
        {"input": [{"role": "user", "content": [{"type": "smell"}]}]},
        400,
        "input[0].content[0]",
        "invalid_value",
    ),
    (
        "a part without its text",
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        400,
        "input[0].content[0].text",
        "missing_required_parameter",
    ),
    (
        "a call without its id",
        {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
        400,
        "input[0].call_id",
        "missing_required_parameter",
    ),
    ("an output without its call", {"input": [OUTPUT]}, 400, "input", None),
    ("a call without its output", {"input": [CALL]}, 400, "input", None),
    (
        "a reference to nothing",
        {"input": [{"type": "item_reference", "id": "msg_nowhere"}]},
        404,
        "input[0].id",
        None,
    ),
    ("more items than fit", {"input": ["x"] * 2001}, 400, "input", "array_above_max_length"),
    (
        "an unknown parent",
        {"previous_response_id": "resp_nowhere"},
        400,
        "previous_response_id",
        "previous_response_not_found",
    ),
    (
        "a parent and a conversation",
        {"previous_response_id": "resp_1", "conversation": "conv_1"},
        400,
        "previous_response_id",
        "mutually_exclusive_parameters",
    ),
    ("an unknown conversation", {"conversation": "conv_nowhere"}, 404, None, None),
    ("a stored prompt", {"prompt": {"id": "p"}}, 400, "prompt", "unsupported_parameter"),
    (
        "a chat template",
        {"chat_template_kwargs": {"chat_template": "x"}},
        400,
        "chat_template",
        "unsupported_parameter",
    ),
    ("something unknown to include", {"include": ["x"]}, 400, "include", "invalid_value"),
    (
        "stream options without a stream",
        {"stream_options": {"include_obfuscation": False}},
        400,
        "stream_options",
        "invalid_value",
    ),
    (
        "too few output tokens",
        {"max_output_tokens": 15},
        400,
        "max_output_tokens",
        "integer_below_min_value",
    ),
    ("no tool calls", {"max_tool_calls": 0}, 400, "max_tool_calls", "integer_below_min_value"),
    (
        "a temperature too high",
        {"temperature": 2.5},
        400,
        "temperature",
        "decimal_above_max_value",
    ),
    ("a negative top_p", {"top_p": -0.5}, 400, "top_p", "decimal_below_min_value"),
    ("too many rivals", {"top_logprobs": 21}, 400, "top_logprobs", "integer_above_max_value"),
    ("a flag that is text", {"store": "yes"}, 400, "store", "invalid_type"),
    (
        "a long value of metadata",
        {"metadata": {"k": "v" * 513}},
        400,
        "metadata.k",
        "string_above_max_length",
    ),
    (
        "too much metadata",
        {"metadata": {str(n): "v" for n in range(17)}},
        400,
        "metadata",
        "array_above_max_length",
    ),
    ("an unknown effort", {"reasoning": {"effort": "x"}}, 400, "reasoning.effort", "invalid_value"),
    ("an unknown truncation", {"truncation": "x"}, 400, "truncation", "invalid_value"),
    (
        "a schema without a schema",
        {"text": {"format": {"type": "json_schema", "name": "n"}}},
        400,
        "text.format.schema",
        "missing_required_parameter",
    ),
    (
        "a schema without a name",
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
        400,
        "text.format.name",
        "missing_required_parameter",
    ),
    (
        "an unknown format",
        {"text": {"format": {"type": "xml"}}},
        400,
        "text.format.type",
        "invalid_value",
    ),
    (
        "a tool of an unknown type",
        {"tools": [{"type": "x"}]},
        400,
        "tools[0].type",
        "unsupported_parameter",
    ),
    (
        "a tool without a type",
        {"tools": [{"name": "x"}]},
        400,
        "tools[0].type",
        "missing_required_parameter",
    ),
    (
        "a function without a name",
        {"tools": [{"type": "function"}]},
        400,
        "tools[0].name",
        "missing_required_parameter",
    ),
    (
        "a function with a space in its name",
        {"tools": [{"type": "function", "name": "a b"}]},
        400,
        "tools[0].name",
        "invalid_type",
    ),
    (
        "parameters that are no schema",
        {"tools": [{"type": "function", "name": "f", "parameters": []}]},
        400,
        "tools[0].parameters",
        "invalid_type",
    ),
    ("two functions of one name", {"tools": [WEATHER, WEATHER]}, 400, "tools", None),
    (
        "an unknown server",
        {"tools": [server("nowhere")]},
        400,
        "tools[0].server_label",
        None,
    ),
    ("a server twice", {"tools": [server("tools"), server("TOOLS")]}, 400, "tools", None),
    (
        "a connector",
        {"tools": [{"type": "mcp", "server_label": "x", "connector_id": "y"}]},
        400,
        "tools[0].connector_id",
        "unsupported_parameter",
    ),
    (
        "a grammar of an unknown syntax",
        {"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "x"}}]},
        400,
        "tools[0].format.syntax",
        "invalid_type",
    ),
    ("a choice of nothing", {"tool_choice": "required"}, 400, "tool_choice", None),
    ("an unknown choice", {"tool_choice": "perhaps"}, 400, "tool_choice", "invalid_value"),
    (
        "a choice of a tool that is not offered",
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}},
        400,
        "tool_choice",
        None,
    ),
    (
        "an answer to no question",
        {"input": [APPROVED]},
        400,
        "input[0].approval_request_id",
        None,
    ),
    ("an approved tool that is not offered", {"input": [ASKED, APPROVED]}, 400, "tools", None),
    (
        "a prompt that does not fit",
        {"input": "word " * 40_000},
        400,
        "input",
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
    answer = await served.http.post("/responses", json={**body, **fields})
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert (error["type"], error["param"], error["code"]) == (INVALID, param, code), error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


ACCEPTED: list[tuple[str, Json]] = [
    ("nulls everywhere", dict.fromkeys(["instructions", "tools", "metadata", "text", "user"])),
    ("unknown fields", {"client_metadata": {"a": 1}, "brand_new": [1]}),
    ("an empty reasoning", {"reasoning": {}}),
    ("a summary without an effort", {"reasoning": {"summary": "auto"}}),
    ("a web search nobody offers", {"tools": [{"type": "web_search"}]}),
    ("a null in a stream's options", {"stream": False, "stream_options": None}),
    (
        "a call with its output",
        {"input": [CALL, {**OUTPUT, "id": None, "status": None}, {"role": "user", "content": "x"}]},
    ),
    (
        "an assistant's message in input_text",
        {
            "input": [
                {"role": "assistant", "content": [{"type": "input_text", "text": "x"}]},
                {"role": "user", "content": "y"},
            ]
        },
    ),
    (
        "a foreign reasoning",
        {
            "input": [
                {"type": "reasoning", "id": "rs_x", "summary": [], "encrypted_content": "zzz"},
                {"role": "user", "content": "y"},
            ]
        },
    ),
    ("hints that change nothing", {"service_tier": "auto", "prompt_cache_key": "k"}),
]


@pytest.mark.parametrize("fields", [row[1] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
async def test_a_request_is_taken_that_has(fields: Json, served: Served) -> None:
    answer = await served.http.post("/responses", json={**HELLO, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "completed"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"input": ""}, openai.BadRequestError),
        ({"model": "nowhere"}, openai.NotFoundError),
        ({"input": "[[http500]]"}, openai.InternalServerError),
    ],
)
async def test_the_official_client_raises_the_right_error(
    fields: Any, error: type[openai.APIStatusError], served: Served
) -> None:
    with pytest.raises(error) as raised:
        await served.openai.responses.create(**{**HELLO, **fields})
    assert raised.value.request_id
    assert isinstance(raised.value.body, dict)
    assert {"message", "type", "param", "code"} <= set(raised.value.body)


async def test_a_body_is_refused_in_whole_when_the_last_item_of_its_input_is_wrong(
    served: Served,
) -> None:
    fine = {"role": "user", "content": "x"}
    answer = await served.post("/responses", input=[fine, fine, {"type": "song"}])
    assert answer.json()["error"]["param"] == "input[2]"
    assert json.loads(answer.text)["error"]["message"].startswith("Invalid 'input[2].type'")
