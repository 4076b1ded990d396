"""An item while it is being written: how it begins, grows and closes. Pure values and text."""

import json
from dataclasses import dataclass, field, replace

from smg.agent.approval import approval_id
from smg.items import (
    Compaction,
    CustomToolCall,
    FunctionCall,
    GatewayCall,
    HostedCall,
    Item,
    Logprob,
    McpApprovalRequest,
    McpCall,
    McpListTools,
    Message,
    Reasoning,
    Status,
    TextPart,
)
from smg.turn import CustomTool, FunctionTool, NewId, ServerTool, Tool, Turn


@dataclass(slots=True)
class Draft:
    """The open item and its pieces, which are joined once, when it closes."""

    index: int
    item: Item
    silent: bool = False
    """Its pieces are shown only when it closes: until then they are not in the client's form."""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)

    @property
    def is_call(self) -> bool:
        """Whether this is a call of any kind."""
        return not isinstance(self.item, Message | Reasoning | Compaction)

    def finished(self, status: Status) -> Item:
        """The item as it will stay."""
        text = "".join(self.pieces)
        match self.item:
            case Message() as message:
                part = TextPart(text, logprobs=tuple(self.logprobs))
                return replace(message, parts=(part,), status=status)
            case Reasoning() as reasoning:
                return replace(reasoning, text=text, status=status)
            case CustomToolCall() as call:
                return replace(call, input=_free_text(text), status=status)
            case FunctionCall() | McpCall() | HostedCall() as call:
                return replace(call, arguments=text, status=status)
            case McpApprovalRequest() as request:
                return replace(request, arguments=text)
            case item:
                assert isinstance(item, Compaction)  # Nothing else is ever a draft.
                return replace(item, encrypted=text)


def new_answer(turn: Turn, new_id: NewId) -> Message | Compaction:
    """An empty answer, in the form the turn wants it."""
    if turn.compacts:
        return Compaction(id=new_id("cmp"), encrypted="", is_open=True)
    return Message(id=new_id("msg"), role="assistant", status=Status.IN_PROGRESS)


def new_reasoning(new_id: NewId) -> Reasoning:
    """An empty thought."""
    return Reasoning(id=new_id("rs"), status=Status.IN_PROGRESS)


def new_call(name: str, tool: Tool | None, new_id: NewId, asked_at: int) -> Item:
    """The empty item for a call of `tool`; a tool nobody offered is reported as a function."""
    match tool:
        case CustomTool():
            return CustomToolCall(
                id=new_id("ctc"),
                call_id=new_id("call"),
                name=tool.name,
                namespace=tool.namespace,
                status=Status.IN_PROGRESS,
            )
        case ServerTool(needs_approval=True):
            request_id = approval_id(new_id("mcpr"), tool, asked_at)
            return McpApprovalRequest(id=request_id, server_label=tool.server, name=tool.name)
        case ServerTool():
            return _new_server_call(tool, new_id)
        case _:
            return _new_function_call(name, tool, new_id)


def _new_function_call(name: str, tool: FunctionTool | None, new_id: NewId) -> FunctionCall:
    return FunctionCall(
        id=new_id("fc"),
        call_id=new_id("call"),
        name=tool.name if tool else name,
        namespace=tool.namespace if tool else None,
        status=Status.IN_PROGRESS,
    )


_HOSTED_PREFIXES = {
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
}


def _new_server_call(tool: ServerTool, new_id: NewId) -> GatewayCall:
    if tool.shown_as == "mcp_call":
        return McpCall(
            id=new_id("mcp"),
            server_label=tool.server,
            name=tool.name,
            status=Status.IN_PROGRESS,
        )
    return HostedCall(
        id=new_id(_HOSTED_PREFIXES[tool.shown_as]),
        type=tool.shown_as,
        server_label=tool.server,
        name=tool.name,
        status=Status.IN_PROGRESS,
    )


def emptied(item: Item) -> Item:
    """The item as its ItemStarted shows it: its accumulators empty, all else whole."""
    match item:
        case CustomToolCall():
            return replace(item, input="", status=Status.IN_PROGRESS)
        case McpListTools():
            return replace(item, tools=())
        case _:
            return item


def _free_text(arguments: str) -> str:
    """The text in {"input": text}, the form in which models call custom tools."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments  # Cut short: what there is, as it is.
    text = value.get("input") if isinstance(value, dict) else None
    if not isinstance(text, str):
        return arguments
    return text.encode(errors="replace").decode()  # An escape can stand for half a character.
