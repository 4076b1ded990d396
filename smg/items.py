"""The entries of a conversation, as frozen values.

Intake makes them from the wire, the agent loop from what a model wrote and what tools
answered; prompts are built from them and rows hold them (smg.item_json). `None` means absent.
Standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How far an item has come."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Logprob:
    """One sampled token, its log-probability, and its best rivals."""

    token: str
    logprob: float
    raw: bytes = b""
    """The token's bytes; a token may be part of a character."""
    top: tuple["Logprob", ...] = ()


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text that was said."""

    text: str
    annotations: tuple[Mapping[str, Any], ...] = ()
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusalPart:
    """Text with which a model declined."""

    refusal: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture, by URL (data URLs too) or by file id."""

    image_url: str | None = None
    file_id: str | None = None
    detail: str = "auto"


@dataclass(frozen=True, slots=True)
class FilePart:
    """A document; `fields` as the client sent them (file_data, filename, file_url, file_id)."""

    fields: Mapping[str, Any]


Part = TextPart | RefusalPart | ImagePart | FilePart


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Something said by the user, the developer, the system or the model."""

    id: str
    role: str
    """user, assistant, system or developer."""
    parts: tuple[Part, ...] = ()
    status: Status = Status.COMPLETED
    phase: str | None = None

    @property
    def text(self) -> str:
        """All text of the message, joined without separator."""
        return "".join(
            part.text if isinstance(part, TextPart) else part.refusal
            for part in self.parts
            if isinstance(part, TextPart | RefusalPart)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """What a model thought before it spoke or called."""

    id: str
    text: str = ""
    """The raw chain of thought."""
    summary: tuple[str, ...] = ()
    encrypted: str | None = None
    """An opaque copy of the text for clients that keep the state themselves."""
    status: Status | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCall:
    """A call the client answers."""

    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: Status = Status.COMPLETED
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCallOutput:
    """The client's answer to a call."""

    id: str
    call_id: str
    output: str | tuple[Part, ...] = ""
    status: Status | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomToolCall:
    """A call with free text instead of JSON arguments, answered by the client."""

    id: str
    call_id: str
    name: str
    input: str = ""
    status: Status | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomToolCallOutput:
    """The client's answer to a custom tool call."""

    id: str
    call_id: str
    output: str | tuple[Part, ...] = ""
    status: Status | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class McpTool:
    """One tool as its server describes it."""

    name: str
    input_schema: Mapping[str, Any]
    description: str | None = None
    annotations: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class McpListTools:
    """The tools of one server, as the model was offered them."""

    id: str
    server_label: str
    tools: tuple[McpTool, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolError:
    """Why a tool call has no output."""

    kind: str
    """mcp_protocol_error, mcp_tool_execution_error or http_error."""
    message: str
    code: int | None = None


Block = Mapping[str, Any]
"""What a tool answered beside text, as MCP writes it: a picture, a sound, a resource, a link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCall:
    """A call this gateway answers itself."""

    id: str
    server_label: str
    name: str
    arguments: str = ""
    output: str | None = None
    error: ToolError | None = None
    status: Status = Status.COMPLETED
    approval_request_id: str | None = None
    content: tuple[Block, ...] = ()
    """What the output only names; models are not shown it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpApprovalRequest:
    """A call that waits for a person's word."""

    id: str
    server_label: str
    name: str
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpApprovalResponse:
    """A person's word on a call."""

    id: str
    approval_request_id: str
    approve: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedCall:
    """A call of a tool that OpenAI hosts and this gateway answers by an MCP tool.

    Its wire form differs by `type` (web_search_call, file_search_call, code_interpreter_call);
    what the model wrote and what the tool said is the same as for any other call.
    """

    id: str
    type: str
    server_label: str
    name: str
    arguments: str = ""
    output: str | None = None
    error: ToolError | None = None
    status: Status = Status.COMPLETED
    content: tuple[Block, ...] = ()
    """What the output only names; models are not shown it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """An opaque summary that stands for everything before it."""

    id: str
    encrypted: str
    is_open: bool = False
    """Whether the text is not sealed yet: so it leaves the agent loop, and goes no further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignItem:
    """An item this gateway keeps and returns but does not act on."""

    id: str
    type: str
    fields: Mapping[str, Any]
    """The item as the client sent it."""


Item = (
    Message
    | Reasoning
    | FunctionCall
    | FunctionCallOutput
    | CustomToolCall
    | CustomToolCallOutput
    | McpListTools
    | McpCall
    | McpApprovalRequest
    | McpApprovalResponse
    | HostedCall
    | Compaction
    | ForeignItem
)

GatewayCall = McpCall | HostedCall
"""Calls that run here."""
