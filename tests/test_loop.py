"""The specification of the agent loop: what is said in, which events and which action come out."""

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smg.agent.loop import AgentLoop, CallTools, Generate, Stop
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
    Tool,
    ToolChoice,
    ToolResult,
    ToolSet,
    Turn,
)
from tests.doubles import Ids, call, says, thinks, tokens

WEATHER = FunctionTool(name="weather")
ADD = ServerTool(server="math", name="add")
DELETE = ServerTool(server="files", name="delete", needs_approval=True)
PATCH = CustomTool(name="patch")
SEARCH = ServerTool(server="web", name="search", shown_as="web_search_call")
TOOLS: tuple[Tool, ...] = (WEATHER, ADD, DELETE, PATCH, SEARCH)
DONE = Status.COMPLETED
OPEN = Status.IN_PROGRESS


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
        listings=listings,
        approved=approved,
    )


def new_loop(turn: Turn | None = None) -> AgentLoop:
    loop = AgentLoop(turn or new_turn(), Ids())
    assert loop.action == Generate(0, loop.action.max_tokens if is_generate(loop) else None)
    return loop


def is_generate(loop: AgentLoop) -> bool:
    return isinstance(loop.action, Generate)


def message(text: str, status: Status = DONE, number: int = 1) -> Message:
    return Message(
        id=f"msg_{number}", role="assistant", parts=(TextPart(text),), status=status
    )


def empty_message(number: int = 1) -> Message:
    return Message(id=f"msg_{number}", role="assistant", status=OPEN)
