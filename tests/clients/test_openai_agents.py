"""The OpenAI Agents SDK for Python: https://github.com/openai/openai-agents-python."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from agents import (
    Agent,
    HostedMCPTool,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.clients.conftest import Served

pytestmark = pytest.mark.clients

UNTRACED = RunConfig(tracing_disabled=True)  # Traces go to OpenAI.


class Weather(BaseModel):
    city: str
    sky: str


def multiply(a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b


def new_agent(client: AsyncOpenAI, *tools: Any, **kwargs: Any) -> Any:
    model = OpenAIResponsesModel(model="scripted", openai_client=client)
    return Agent(name="Assistant", model=model, tools=list(tools), **kwargs)


def approved_tool(server: dict[str, str], asked: list[Any]) -> Any:
    """A hosted tool whose every call is approved, and noted."""

    def approve(request: Any) -> dict[str, bool]:
        arguments = json.loads(request.data.arguments)
        asked.append((request.data.server_label, request.data.name, arguments))
        return {"approve": True}

    config: Any = {"type": "mcp", "require_approval": "always", **server}
    return HostedMCPTool(tool_config=config, on_approval_request=approve)


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=served.base_url, api_key="none", max_retries=0) as client:
        yield client


async def test_runs_function_tools(client: AsyncOpenAI) -> None:
    agent = new_agent(client, function_tool(multiply), instructions="Use the calculator.")
    result = await Runner.run(agent, "What is 6 times 7?", run_config=UNTRACED)
    assert result.final_output == "6 times 7 is 42.0."
    assert [item.type for item in result.new_items] == [
        "reasoning_item",
        "tool_call_item",
        "tool_call_output_item",
        "message_output_item",
    ]


async def test_runs_function_tools_in_a_stream(client: AsyncOpenAI) -> None:
    agent = new_agent(client, function_tool(multiply))
    result = Runner.run_streamed(agent, "What is 6 times 7?", run_config=UNTRACED)
    kinds = [event.type async for event in result.stream_events()]
    assert {"raw_response_event", "run_item_stream_event"} <= set(kinds)
    assert result.final_output == "6 times 7 is 42.0."


async def test_goes_on_from_the_previous_response(client: AsyncOpenAI) -> None:
    agent = new_agent(client)
    first = await Runner.run(agent, "[[say:blue]] My colour?", run_config=UNTRACED)
    second = await Runner.run(
        agent, "[[echo]]", previous_response_id=first.last_response_id, run_config=UNTRACED
    )
    assert ["assistant", "blue"] in json.loads(second.final_output)


async def test_replays_a_run_as_input(client: AsyncOpenAI) -> None:
    agent = new_agent(client, function_tool(multiply))
    first = await Runner.run(agent, "What is 6 times 7?", run_config=UNTRACED)
    history = [*first.to_input_list(), {"role": "user", "content": "[[echo]]"}]
    second = await Runner.run(agent, history, run_config=UNTRACED)
    assert ["tool", "42.0"] in json.loads(second.final_output)


async def test_gives_typed_output(client: AsyncOpenAI) -> None:
    agent = new_agent(client, output_type=Weather)
    question = '[[say:{"city": "Oslo", "sky": "cloudy"}]]'
    result = await Runner.run(agent, question, run_config=UNTRACED)
    assert result.final_output == Weather(city="Oslo", sky="cloudy")


async def test_replays_encrypted_reasoning_without_storage(client: AsyncOpenAI) -> None:
    settings = ModelSettings(store=False, response_include=["reasoning.encrypted_content"])
    agent = new_agent(client, function_tool(multiply), model_settings=settings)
    result = await Runner.run(agent, "What is 6 times 7?", run_config=UNTRACED)
    assert result.final_output == "6 times 7 is 42.0."


async def test_hosted_mcp_tools_run_on_the_server(client: AsyncOpenAI) -> None:
    tool = HostedMCPTool(
        tool_config={
            "type": "mcp",
            "server_label": "calculator",
            "require_approval": "never",
        }
    )
    result = await Runner.run(new_agent(client, tool), "6 times 7?", run_config=UNTRACED)
    assert result.final_output == "6 times 7 is 42."


async def test_hosted_mcp_tools_wait_for_approval(client: AsyncOpenAI) -> None:
    asked: list[Any] = []
    tool = approved_tool({"server_label": "calculator"}, asked)
    result = await Runner.run(new_agent(client, tool), "6 times 7?", run_config=UNTRACED)
    assert asked == [("calculator", "multiply", {"a": 6, "b": 7})]
    assert result.final_output == "6 times 7 is 42."


async def test_hosted_mcp_tools_wait_for_approval_in_a_stream(client: AsyncOpenAI) -> None:
    asked: list[Any] = []
    tool = approved_tool({"server_label": "calculator"}, asked)
    result = Runner.run_streamed(new_agent(client, tool), "6 times 7?", run_config=UNTRACED)
    async for _event in result.stream_events():
        pass
    assert asked == [("calculator", "multiply", {"a": 6, "b": 7})]
    assert result.final_output == "6 times 7 is 42."


async def test_hosted_mcp_servers_may_be_named_by_the_request(
    client: AsyncOpenAI, served: Served
) -> None:
    asked: list[Any] = []
    tool = approved_tool({"server_label": "mine", "server_url": served.mcp_url}, asked)
    result = await Runner.run(new_agent(client, tool), "6 times 7?", run_config=UNTRACED)
    assert asked == [("mine", "multiply", {"a": 6, "b": 7})]
    assert result.final_output == "6 times 7 is 42."


async def test_refused_approvals_reach_the_model(client: AsyncOpenAI) -> None:
    tool = HostedMCPTool(
        tool_config={"type": "mcp", "server_label": "calculator", "require_approval": "always"},
        on_approval_request=lambda _request: {"approve": False, "reason": "not today"},
    )
    result = await Runner.run(new_agent(client, tool), "6 times 7?", run_config=UNTRACED)
    assert "not today" in result.final_output


async def test_sessions_are_kept_in_conversations(client: AsyncOpenAI) -> None:
    session = OpenAIConversationsSession(openai_client=client)
    agent = new_agent(client, function_tool(multiply))
    first = await Runner.run(agent, "What is 6 times 7?", session=session, run_config=UNTRACED)
    assert first.final_output == "6 times 7 is 42.0."
    second = await Runner.run(agent, "[[echo]]", session=session, run_config=UNTRACED)
    assert ["tool", "42.0"] in json.loads(second.final_output)
    kept = await session.get_items()
    popped = await session.pop_item()
    assert popped is not None
    assert len(await session.get_items()) == len(kept) - 1
    await session.clear_session()
    assert await session.get_items() == []


def test_sends_what_was_recorded(session_on_tape: Callable[..., None]) -> None:
    async def run(base_url: str) -> None:
        async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            agent = new_agent(client, function_tool(multiply), instructions="Calculate.")
            session = OpenAIConversationsSession(openai_client=client)
            question = "What is 6 times 7?"
            result = await Runner.run(agent, question, session=session, run_config=UNTRACED)
            assert result.final_output == "6 times 7 is 42.0."
            await session.clear_session()

    session_on_tape("openai-agents", lambda base_url: anyio.run(run, base_url))
