"""What goes into storage and comes out, as frozen values. Standard library and items only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from smg.items import Item, McpApprovalRequest

UNFINISHED = frozenset({"queued", "in_progress"})
"""The statuses of a response that is still to be worked on."""

APPENDED = frozenset({"completed", "incomplete"})
"""The statuses with which a turn's items become part of its conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRecord:
    """A response as it is stored."""

    id: str
    owner: str
    model: str
    status: str
    """The truth about the status; a `status` in the body follows it when read."""
    created_at: int
    previous_response_id: str | None = None
    conversation_id: str | None = None
    background: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)
    """The response object as JSON, without `output`."""
    input: tuple[Item, ...] = ()
    """What the request added; not what was said before."""
    output: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A named sequence of items, without the items."""

    id: str
    owner: str
    created_at: int
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list is wanted."""

    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    """The id of the last item already seen."""


@dataclass(frozen=True, slots=True)
class ItemPage:
    """Part of a list, in the order asked for."""

    items: tuple[Item, ...]
    has_more: bool

    @property
    def first_id(self) -> str | None:
        """The id of the first item; `None` on an empty page."""
        return self.items[0].id if self.items else None

    @property
    def last_id(self) -> str | None:
        """The id of the last item; `None` on an empty page."""
        return self.items[-1].id if self.items else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write one response, until somebody else has claimed it.

    `attempt` grows by one with each claim. A holder that slept through the end of its lease
    finds a greater number in the row, and its writes are refused.
    """

    response_id: str
    owner: str
    holder: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RepeatKey:
    """An idempotency key, and a digest of the request it stands for."""

    key: str
    asked: str


class Repeated(Exception):
    """Raised when an idempotency key already has a response."""

    def __init__(self, response_id: str) -> None:
        super().__init__(response_id)
        self.response_id = response_id


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedResponse:
    """A response that nobody works on at the moment."""

    id: str
    owner: str
    status: str
    background: bool
    attempt: int
    """How often it has been claimed."""
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Frames of one stream in a row; the first has this sequence number."""

    first_sequence: int
    frames: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An entry of a run's journal: what was about to be done, or what came of it."""

    number: int
    kind: str
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """A call that waits for a person's word."""

    request: McpApprovalRequest
    response_id: str
    """The response that asked."""
    asked_at: int
    """When that response began, in Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker that was added while a gateway ran."""

    url: str
    description: Mapping[str, Any] = field(default_factory=dict)
    """What is said of it, as JSON."""
    sealed_key: str | None = None
    """Its own key, which storage cannot read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedTools:
    """The list of tools of one server to which an operator has agreed."""

    digest: str
    """Of the whole list."""
    tools: Mapping[str, str]
    """A digest of each tool's definition, by its name."""
    approved_at: int
    """Unix seconds."""
