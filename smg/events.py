"""The five facts about a turn, from which every endpoint and the storage make what they need.

Made by the agent loop only. They hold frozen values, so nobody sees an item change under him.
Standard library only.
"""

from dataclasses import dataclass
from enum import StrEnum

from smg.errors import GatewayError
from smg.items import GatewayCall, Item, Logprob


class Outcome(StrEnum):
    """How a turn ended."""

    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens read and written; sums over the generations of a turn."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class ItemStarted:
    """An item begins; its accumulators are empty."""

    index: int
    item: Item


@dataclass(slots=True)  # One per token; unfrozen because freezing doubles its cost.
class ItemDelta:
    """More text of a message or reasoning, or more arguments of a call."""

    index: int
    text: str
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CallReady:
    """The arguments of a call are complete and this gateway is about to run it."""

    index: int
    item: GatewayCall


@dataclass(frozen=True, slots=True)
class ItemFinished:
    """An item is as it will stay."""

    index: int
    item: Item


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The turn is over; always the last event."""

    outcome: Outcome
    items: tuple[Item, ...]
    usage: Usage
    reason: str | None = None
    """Why a turn is incomplete: max_output_tokens, content_filter or max_messages."""
    error: GatewayError | None = None
    """Why a turn failed."""


Event = ItemStarted | ItemDelta | CallReady | ItemFinished | TurnFinished
