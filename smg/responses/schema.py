"""The body of POST /v1/responses, as it comes over the wire. Used at the edge only.

Scalars are checked here; items and tools by their readers, because their errors must name a path
inside an array and because an agent's history is long. Every field of the contract is declared;
docs/responses.md says for each what becomes of it. Unknown fields are accepted: clients send
many of their own (`client_metadata`, ...), and refusing them breaks Codex.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from smg.web.schema import Metadata, SamplingFields, Wire


class StreamOptions(Wire):
    """How a stream is dressed."""

    include_obfuscation: bool | None = None


class ReasoningOptions(Wire):
    """How much to think, and what of it to show."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Any = None
    mode: Any = None


class TextFormat(Wire):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(Wire):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ConversationName(Wire):
    """A conversation by its id."""

    id: str


class InputRequest(Wire):
    """What makes a prompt; shared by create and by the counting of input tokens."""

    model: str | None = None
    input: str | list[Any] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationName | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=128)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ResponsesRequest(InputRequest, SamplingFields):
    """POST /v1/responses."""

    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=16)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[str] | None = None
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None
    service_tier: str | None = None
    user: Any = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    prompt: Any = None
    context_management: list[dict[str, Any]] | None = None
    background_options: Any = None
    moderation: Any = None
    image: Any = None
    access_programs: Any = None
    personality: Any = None
    client_metadata: Any = None


class CompactRequest(InputRequest):
    """POST /v1/responses/compact."""

    prompt_cache_key: str | None = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    service_tier: str | None = None
    image: Any = None


class ApprovalAnswer(Wire):
    """POST /v1/approvals/{id}."""

    approve: bool
    reason: str | None = None
