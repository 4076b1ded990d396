"""The Vercel AI SDK with `openai.responses(model)`: https://github.com/vercel/ai."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.clients.conftest import Served
from tests.clients.node_flows import run_flow
from tests.clients.relay import relay

pytestmark = pytest.mark.clients

CALLED = [["multiply", {"a": 6, "b": 7}]]
ANSWER = "6 times 7 is 42."


@pytest.fixture
def run(served: Served) -> Any:
    return partial(run_flow, "ai-sdk.mjs", served=served)


def test_generates_text(run: Any) -> None:
    assert run("generate") == {"text": "Hello", "finish": "stop", "tokens": True}


def test_generates_text_with_tools(run: Any) -> None:
    assert run("generateWithTools") == {"text": ANSWER, "calls": CALLED, "steps": 2}


def test_streams_text_with_tools(run: Any) -> None:
    found = run("streamWithTools")
    assert (found["text"], found["calls"], found["errors"]) == (ANSWER, CALLED, [])
    assert {"tool-input-delta", "tool-call", "tool-result", "text-delta"} <= set(found["kinds"])


def test_refers_to_earlier_items_by_id(run: Any) -> None:
    found = run("references")
    assert "item_reference" in found["sent"]
    assert ["assistant", "blue"] in found["said"]


def test_replays_encrypted_reasoning_without_storage(run: Any) -> None:
    assert ["assistant", "blue"] in run("withoutStorage")["said"]


def test_chains_turns_with_previous_response_id(run: Any) -> None:
    assert ["assistant", "blue"] in run("chain")["said"]


def test_gives_structured_output(run: Any) -> None:
    assert run("structured") == {"city": "Oslo", "sky": "cloudy"}


def test_hosted_mcp_tools_run_on_the_server(run: Any) -> None:
    assert run("mcp") == {"whole": ANSWER, "streamed": ANSWER, "errors": []}


def test_engine_failures_are_errors_of_the_api(run: Any) -> None:
    found = run("failure")
    assert found["status"] >= 500
    assert "Invalid JSON response" not in found["message"]


def test_engine_failures_end_the_stream_with_an_error(run: Any) -> None:
    found = run("brokenStream")
    assert "error" in found["kinds"]
    assert found["errors"] == 1


def test_speaks_chat_completions_too(run: Any) -> None:
    assert run("chat") == {"text": ANSWER, "calls": CALLED}


def test_sends_what_was_recorded(session_on_tape: Callable[..., None]) -> None:
    def session(base_url: str) -> None:
        with relay(base_url) as relayed:
            at_relay = Served(base_url=relayed, mcp_url="")
            assert run_flow("ai-sdk.mjs", "streamWithTools", at_relay)["text"] == "6 times 7 is 42."
            assert run_flow("ai-sdk.mjs", "structured", at_relay)["city"] == "Oslo"

    session_on_tape("ai-sdk", session)
