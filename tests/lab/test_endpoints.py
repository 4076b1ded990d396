"""POST /parse/function_call and /parse/reasoning."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from smg.errors import GatewayError
from smg.lab.routes import Routes
from smg.web.auth import owner_check
from smg.web.errors import on_gateway_error
from smg.web.weight import Scales, Weighed

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
CODED = "<tool_call><function=add><parameter=a>7</parameter></function></tool_call>"
FUNCTION = {
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


@pytest.fixture
async def lab() -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.include_router(Routes(owner_of=owner_check(["sesame"]), max_body_bytes=10_000).router())
    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_middleware(Weighed, scales=Scales(10_000))
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app),
        base_url="http://lab",
        headers={"authorization": "Bearer sesame"},
    ) as client:
        yield client


async def test_calls_are_taken_out_of_a_text(lab: httpx2.AsyncClient) -> None:
    body = {"text": f"One moment. {CALL}", "tool_call_parser": "qwen", "tools": []}
    answer = await lab.post("/parse/function_call", json=body)
    assert answer.json() == {
        "remaining_text": "One moment.",
        "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}],
        "success": True,
    }


async def test_a_text_without_calls_comes_back(lab: httpx2.AsyncClient) -> None:
    body = {"text": "No call.", "tool_call_parser": "qwen"}
    answer = await lab.post("/parse/function_call", json=body)
    assert answer.json() == {"remaining_text": "No call.", "tool_calls": [], "success": True}


@pytest.mark.parametrize(
    ("tools", "arguments"),
    [
        ([{"type": "function", "function": FUNCTION}], '{"a": 7}'),
        ([{"type": "function", **FUNCTION}], '{"a": 7}'),
        ([FUNCTION], '{"a": 7}'),
        ([{"name": "add"}], '{"a": "7"}'),
        ([], '{"a": "7"}'),
    ],
)
async def test_tools_in_any_form_say_what_type_arguments_have(
    lab: httpx2.AsyncClient, tools: list[Any], arguments: str
) -> None:
    body = {"text": CODED, "tool_call_parser": "qwen-coder", "tools": tools}
    answer = await lab.post("/parse/function_call", json=body)
    assert answer.json()["tool_calls"] == [{"function": {"name": "add", "arguments": arguments}}]


@pytest.mark.parametrize(
    ("fields", "normal", "reasoning"),
    [
        ({"reasoning_parser": "deepseek_r1"}, "because", "why"),
        ({"reasoning_parser": "qwen3"}, "why</think>because", ""),
        ({"reasoning_parser": "qwen3", "starts_in_reasoning": True}, "because", "why"),
        (
            {"reasoning_parser": "deepseek_r1", "starts_in_reasoning": False},
            "why</think>because",
            "",
        ),
    ],
)
async def test_reasoning_is_told_from_the_answer(
    lab: httpx2.AsyncClient, fields: dict[str, Any], normal: str, reasoning: str
) -> None:
    answer = await lab.post("/parse/reasoning", json={"text": "why</think>because", **fields})
    assert answer.json() == {
        "normal_text": normal,
        "reasoning_text": reasoning,
        "success": True,
    }


@pytest.mark.parametrize(
    ("path", "body", "param", "named"),
    [
        ("function_call", {"tool_call_parser": "no_such"}, "tool_call_parser", "qwen_coder"),
        ("reasoning", {"reasoning_parser": "no_such"}, "reasoning_parser", "deepseek_r1"),
        ("function_call", {}, "tool_call_parser", "Missing"),
        ("reasoning", {}, "reasoning_parser", "Missing"),
        ("function_call", {"tool_call_parser": "qwen", "text": 1}, "text", "string"),
        ("function_call", {"tool_call_parser": "qwen", "tools": [{}]}, "tools[0].name", "name"),
        (
            "function_call",
            {"tool_call_parser": "qwen", "tools": [{"function": "x"}]},
            "tools[0].function",
            "object",
        ),
        (
            "function_call",
            {"tool_call_parser": "qwen", "tools": [{"name": "f", "parameters": []}]},
            "tools[0].parameters",
            "object",
        ),
    ],
)
async def test_what_cannot_be_parsed_is_refused_by_name(
    lab: httpx2.AsyncClient, path: str, body: dict[str, Any], param: str, named: str
) -> None:
    answer = await lab.post(f"/parse/{path}", json={"text": "x", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert named in error["message"]


async def test_the_lab_asks_for_a_key_and_has_a_limit(lab: httpx2.AsyncClient) -> None:
    body = {"text": "x" * 10_000, "reasoning_parser": "qwen3"}
    assert (await lab.post("/parse/reasoning", json=body)).status_code == 413
    unknown = {"authorization": "Bearer guess"}
    assert (await lab.post("/parse/reasoning", json=body, headers=unknown)).status_code == 401
