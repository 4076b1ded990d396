"""What one request asks for, as a frozen value: everything that can be refused has been refused.

Made by intake, read by the agent loop, by prompts and by engines. Standard library only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from smg.items import Block, Item, McpCall, ToolError

NewId = Callable[[str], str]  # "msg" -> "msg_..."; tests count.
Now = Callable[[], int]  # Unix seconds; tests stand still.


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """Output must be JSON that fits this schema (JSON text)."""

    schema: str


@dataclass(frozen=True, slots=True)
class Regex:
    """Output must match this pattern."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """Output must be derived from this grammar."""

    text: str
    syntax: Literal["ebnf", "lark"] = "ebnf"


@dataclass(frozen=True, slots=True)
class StructuralTag:
    """Output must follow this structural tag (xgrammar's JSON text)."""

    tag: str


Constraint = JsonSchema | Regex | Grammar | StructuralTag


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose tokens. `None`: the model's default, else the API's."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    """Most tokens of one generation; `None`: what the context leaves."""
    min_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    """Whether a stop string stays at the end of the text."""
    ignore_eos: bool = False
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    """How many rivals to report beside each sampled token; `None`: no log-probabilities."""
    keep_special_tokens: bool = False
    """Whether control tokens in the output are shown as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a turn may go."""

    max_output_tokens: int | None = None
    """Over all generations of the turn."""
    max_tool_calls: int | None = None
    """Calls this gateway runs; further ones get an error as their result."""
    max_generations: int = 25
    """After this many the turn ends incomplete (max_messages)."""
    wall_seconds: float = 1800.0
    """After this time the turn fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTool:
    """A tool the client runs, called with JSON arguments."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None
    namespace: str | None = None


Syntax = Literal["text", "lark", "regex"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomTool:
    """A tool the client runs, called with free text."""

    name: str
    description: str | None = None
    syntax: Syntax = "text"
    definition: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """A tool this gateway runs on an MCP server."""

    server: str
    """The server's label."""
    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs_approval: bool = False
    shown_as: str = "mcp_call"
    """The item type of its calls: mcp_call, web_search_call, file_search_call, ..."""


Tool = FunctionTool | CustomTool | ServerTool


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool under the name the model sees, which is unique in the turn."""

    name: str
    tool: Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Whether the model must call, and what it may call."""

    mode: Literal["auto", "none", "required"] = "auto"
    names: frozenset[str] | None = None
    """Offered names it may call; `None`: all. One name and `required`: that function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSet:
    """The tools of a turn."""

    offers: tuple[Offer, ...] = ()
    choice: ToolChoice = ToolChoice()
    parallel: bool = True
    """Whether one generation may hold several calls."""

    def find(self, name: str) -> Tool | None:
        """The tool offered under this name."""
        return next((offer.tool for offer in self.offers if offer.name == name), None)

    def callable_offers(self) -> tuple[Offer, ...]:
        """The offers the choice lets the model use, in order."""
        names = self.choice.names
        if self.choice.mode == "none":
            return ()
        return tuple(o for o in self.offers if names is None or o.name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What came of a call: an output or an error."""

    output: str | None = None
    error: ToolError | None = None
    content: tuple[Block, ...] = ()
    """What the output only names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request's work, from intake to its last event."""

    id: str
    model: str
    created_at: int
    owner: str = ""
    """Whose conversation this is (tenant or key); rows of others are not seen."""
    instructions: str | None = None
    history: tuple[Item, ...] = ()
    """What was said before this request."""
    input: tuple[Item, ...] = ()
    """What this request adds."""
    tools: ToolSet = ToolSet()
    opening: tuple[Item, ...] = ()
    """Items to show at the start of the output: a compaction, tool lists that are new here."""
    approved: tuple[McpCall, ...] = ()
    """Calls that a person has just allowed: run before the model speaks."""
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    output_constraint: Constraint | None = None
    """The form of the answer (JSON schema and the like), when it is no call."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    compacts: bool = False
    """Whether the answer is a summary of the conversation, to be kept as one opaque item."""
    separate_reasoning: bool = True
    """Whether reasoning is told apart from the answer."""
    routing_key: str | None = None
    """Requests with one key like to meet the same worker."""
