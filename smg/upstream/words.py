"""What an HTTP worker takes and gives, in the pool's words.

A pool moves prompts to a worker and chunks from it and looks into neither, so a conversation and
parsed deltas travel through it as tokens do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smg.engines.base import EngineChunk, PromptTokens
from smg.parsers.base import ParsedDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt(PromptTokens):
    """One generation's input as a worker with a template of its own takes it.

    It has no ids; its text is the conversation as JSON, by which policies tell prompts apart.
    """

    ids: Sequence[int] = ()
    path: str = "/chat/completions"
    body: Mapping[str, Any] = field(default_factory=dict)
    """The request, without the worker's own name for the model."""
    separate_reasoning: bool = True
    """Whether reasoning is told apart from the answer."""


@dataclass(slots=True)  # One per event of the stream: unfrozen for speed.
class ChatChunk(EngineChunk):
    """What a worker said next, told apart by itself."""

    deltas: Sequence[ParsedDelta] = ()
