"""What every output parser takes and gives.

Text comes in as the detokenizer releases it, in pieces cut anywhere; parsed deltas go out.
Knows nothing of tokens, items or endpoints.
"""

from dataclasses import dataclass
from typing import Protocol

from smg.items import Logprob


@dataclass(slots=True)  # Per token: unfrozen for speed.
class Text:
    """More of the answer."""

    text: str
    logprobs: tuple[Logprob, ...] = ()
    """Of the tokens that brought this text, when asked for; parsers leave it empty."""


@dataclass(slots=True)
class ReasoningText:
    """More of the model's thinking."""

    text: str


@dataclass(slots=True)
class ToolCallStart:
    """A call begins: its name is whole."""

    name: str
    family_id: str | None = None
    """The id the model itself wrote, in families that write one."""


@dataclass(slots=True)
class ToolCallArguments:
    """More of the current call's arguments; all pieces joined are valid JSON."""

    text: str


@dataclass(slots=True)
class ToolCallEnd:
    """The current call is complete."""


ParsedDelta = Text | ReasoningText | ToolCallStart | ToolCallArguments | ToolCallEnd


class OutputParser(Protocol):
    """Tells reasoning, answer and calls apart.

    Two promises, tested for every family: where the text is cut does not change the result, and
    text that is no valid call comes back to the last character.
    """

    @property
    def reasoning(self) -> bool:
        """Whether the model is thinking at this point of the text."""
        ...

    def feed(self, text: str) -> list[ParsedDelta]:
        """Take more text; give what is certain."""
        ...

    def feed_marker(self, marker: str) -> list[ParsedDelta]:
        """Take one special token, whole; families without such tokens take it as text."""
        ...

    def finish(self) -> list[ParsedDelta]:
        """Give up what is still held back: no more is coming. A call left open stays open."""
        ...
