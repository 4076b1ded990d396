"""LangChain's ChatOpenAI over the Responses API: https://github.com/langchain-ai/langchain."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.clients.conftest import Served

pytestmark = pytest.mark.clients


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    sky: str


def multiply(a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b


def new_chat(base_url: str, **kwargs: Any) -> Any:
    return ChatOpenAI(
        model="scripted",
        base_url=base_url,
        api_key=SecretStr("none"),
        max_retries=0,
        use_responses_api=True,
        **kwargs,
    )


@pytest.mark.parametrize("by_id", [False, True], ids=["with history", "with previous_response_id"])
def test_calls_tools_and_goes_on(served: Served, by_id: bool) -> None:
    chat = new_chat(served.base_url, use_previous_response_id=by_id)
    offered = tool(multiply)
    chat = chat.bind_tools([offered])
    messages: list[Any] = [HumanMessage("What is 6 times 7?")]
    asked = chat.invoke(messages)
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [
        ("multiply", {"a": 6, "b": 7})
    ]
    messages += [asked, offered.invoke(asked.tool_calls[0])]
    assert chat.invoke(messages).text == "6 times 7 is 42.0."


@pytest.mark.parametrize("by_id", [False, True], ids=["with history", "with previous_response_id"])
def test_remembers_earlier_turns(served: Served, by_id: bool) -> None:
    chat = new_chat(served.base_url, use_previous_response_id=by_id)
    first = chat.invoke("[[think:hm]][[say:blue]] My colour?")
    assert first.response_metadata["id"].startswith("resp_")
    second = chat.invoke([HumanMessage("[[say:blue]] My colour?"), first, HumanMessage("[[echo]]")])
    assert ["assistant", "blue"] in json.loads(second.text)


@pytest.mark.parametrize("by_id", [False, True], ids=["with history", "with previous_response_id"])
def test_streams_text_and_calls(served: Served, by_id: bool) -> None:
    chat = new_chat(served.base_url, use_previous_response_id=by_id)
    offered = tool(multiply)
    chat = chat.bind_tools([offered])
    question = HumanMessage("What is 6 times 7?")
    asked = _joined(chat.stream([question]))
    assert [call["args"] for call in asked.tool_calls] == [{"a": 6, "b": 7}]
    result = ToolMessage("42", tool_call_id=asked.tool_calls[0]["id"])
    pieces = list(chat.stream([question, asked, result]))
    assert len([piece for piece in pieces if piece.text]) > 1
    assert _joined(pieces).text == "6 times 7 is 42."
    assert _joined(pieces).usage_metadata["output_tokens"] > 0


def test_gives_structured_output(served: Served) -> None:
    chat = new_chat(served.base_url).with_structured_output(Weather, method="json_schema")
    found = chat.invoke('[[say:{"city": "Oslo", "sky": "cloudy"}]]')
    assert found == Weather(city="Oslo", sky="cloudy")


def test_replays_messages_without_storage(served: Served) -> None:
    chat = new_chat(served.base_url, store=False, include=["reasoning.encrypted_content"])
    first = chat.invoke("[[think:hm]][[say:blue]] My colour?")
    second = chat.invoke([HumanMessage("My colour?"), first, HumanMessage("[[echo]]")])
    assert ["assistant", "blue"] in json.loads(second.text)


def test_runs_mcp_tools_on_the_server(served: Served) -> None:
    mcp = {"type": "mcp", "server_label": "calculator", "require_approval": "never"}
    chat = new_chat(served.base_url).bind_tools([mcp])
    assert chat.invoke("6 times 7?").text == "6 times 7 is 42."
    assert _joined(chat.stream("6 times 7?")).text == "6 times 7 is 42."


async def test_works_asynchronously(served: Served) -> None:
    chat = new_chat(served.base_url)
    answer = await chat.ainvoke("[[say:Hello]]")
    assert answer.text == "Hello"


def test_failures_are_raised(served: Served) -> None:
    chat = new_chat(served.base_url)
    with pytest.raises(ValueError, match="scripted"):
        list(chat.stream("[[say:a b c]][[fail]]"))


def test_sends_what_was_recorded(session_on_tape: Callable[..., None]) -> None:
    def session(base_url: str) -> None:
        chat = new_chat(base_url, use_previous_response_id=True).bind_tools([tool(multiply)])
        question = HumanMessage("What is 6 times 7?")
        asked = chat.invoke([question])
        assert isinstance(asked, AIMessage)
        result = ToolMessage("42", tool_call_id=asked.tool_calls[0]["id"])
        assert _joined(chat.stream([question, asked, result])).text == "6 times 7 is 42."
        structured = new_chat(base_url).with_structured_output(Weather, method="json_schema")
        found = structured.invoke('[[say:{"city": "Oslo", "sky": "cloudy"}]]')
        assert found == Weather(city="Oslo", sky="cloudy")

    session_on_tape("langchain-openai", session)


def _joined(pieces: Any) -> Any:
    first, *rest = pieces
    return sum(rest, first)
