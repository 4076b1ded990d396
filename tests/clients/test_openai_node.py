"""The official Node client: https://github.com/openai/openai-node."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.clients.conftest import Served
from tests.clients.node_flows import run_flow
from tests.clients.relay import relay

pytestmark = pytest.mark.clients

PRODUCT = ["multiply", {"a": 6, "b": 7}]


@pytest.fixture
def run(served: Served) -> Any:
    return partial(run_flow, "openai.mjs", served=served)


def test_creates_and_retrieves_a_response(run: Any) -> None:
    assert run("create") == {
        "text": "Hello",
        "same": "Hello",
        "types": ["reasoning", "message"],
    }


def test_function_calls_are_answered_by_the_client(run: Any) -> None:
    assert run("tools") == {"call": PRODUCT, "text": "6 times 7 is 42."}


def test_streams_raw_events_in_order(run: Any) -> None:
    found = run("events")
    assert found["numbers"] == list(range(len(found["numbers"])))
    assert (found["first"], found["last"]) == ("response.created", "response.completed")


def test_stream_helper_gives_the_final_response(run: Any) -> None:
    found = run("helper")
    assert found["call"] == PRODUCT
    assert found["ids"] == found["stored"]
    assert "response.reasoning_text.delta" in found["kinds"]


def test_hosted_mcp_tools_run_on_the_server(run: Any) -> None:
    found = run("mcp")
    assert found["text"] == "6 times 7 is 42."
    assert [kind for kind in found["types"] if kind != "reasoning"] == [
        "mcp_list_tools",
        "mcp_call",
        "message",
    ]


def test_stream_helper_resumes_a_background_response(run: Any) -> None:
    found = run("resume")
    assert found["first"] == 6
    assert found["text"].split() == [f"w{number}" for number in range(30)]


def test_background_responses_are_cancelled(run: Any) -> None:
    assert run("cancel") == {"status": "cancelled"}


def test_engine_failures_end_the_stream_as_failed(run: Any) -> None:
    assert run("failure") == {"status": "failed"}


def test_parses_structured_output(run: Any) -> None:
    assert run("parse") == {"city": "Oslo", "sky": "cloudy"}


def test_pages_through_input_items(run: Any) -> None:
    assert run("items") == ["a", "b", "c"]


def test_conversations_carry_turns(run: Any) -> None:
    assert run("conversation") == {
        "topic": "colours",
        "roles": ["user", "assistant"],
        "deleted": True,
    }


def test_chat_stream_helper_accumulates_calls(run: Any) -> None:
    assert run("chat") == {"call": PRODUCT, "text": "Hello", "counted": True}


def test_mistakes_are_errors_of_the_right_class(run: Any) -> None:
    assert run("errors") == {
        "class": "NotFoundError",
        "code": "model_not_found",
        "param": "model",
        "id": True,
    }


def test_sends_what_was_recorded(session_on_tape: Callable[..., None]) -> None:
    def session(base_url: str) -> None:
        with relay(base_url) as relayed:
            at_relay = Served(base_url=relayed, mcp_url="")
            assert run_flow("openai.mjs", "tools", at_relay)["text"] == "6 times 7 is 42."
            assert run_flow("openai.mjs", "helper", at_relay)["call"] == PRODUCT

    session_on_tape("openai-node", session)
