"""What a server asks of the gateway's own model while a call is under way, within its limits.

A question comes in as the protocol has it (sampling/createMessage); an answer, or a refusal that
says why, goes back. Who answers is handed in (`Ask`): nothing here knows models. A question holds
what its server wrote and nothing of the user's conversation.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import anyio
from mcp.client import ClientRequestContext
from mcp.client.session import SamplingFnT
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    CreateMessageRequestParams,
    CreateMessageResult,
    ErrorData,
    SamplingMessage,
    TextContent,
)

from smg.errors import GatewayError, RequestError
from smg.mcp.spec import SamplingLimits, ServerSpec

_HOTTEST = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the conversation a server made up."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a server wants a model to go on with."""

    server: str
    messages: tuple[Said, ...]
    max_tokens: int
    system: str | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    """Names, or parts of names, of models it would like best, in its order."""
    model: str | None = None
    """Who answers if no hint fits; `None`: the first model there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said to it."""

    text: str
    model: str
    stop_reason: str
    """endTurn, maxTokens, stopSequence, or the engine's own word."""
    input_tokens: int
    output_tokens: int


class Ask(Protocol):
    """Whoever puts a question to a model."""

    async def __call__(self, question: Question) -> Answer:
        """Have it answered; cancelling this ends the generation.

        Raises:
            RequestError: the question cannot be put to the model; its text is for the server, too.
            GatewayError: the model did not answer.
        """
        ...


@dataclass(slots=True, eq=False)
class _Allowance:
    """What one call under way may still ask."""

    left: int


@dataclass(slots=True, eq=False)
class _Asking:
    """One question under way, and the calls it may have come from."""

    calls: set[_Allowance]
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Questions:
    """The questions of one server, answered during its calls only.

    A server of 2025 does not say which of its calls a question belongs to: calls under way at one
    time share what they may ask, and a question ends with the last of them.
    """

    def __init__(self, spec: ServerSpec, ask: Ask | None) -> None:
        self.answered = 0
        """Questions that a model has answered."""
        self._label = spec.label
        self._limits = spec.sampling or SamplingLimits()
        self._ask = ask if spec.sampling is not None else None
        self._calls: list[_Allowance] = []
        self._under_way: list[_Asking] = []

    @property
    def callback(self) -> SamplingFnT | None:
        """What the SDK calls with a question; without one it says that there is no sampling."""
        return None if self._ask is None else self._answer

    @contextmanager
    def during_call(self) -> Generator[None, None, None]:
        """Let the server ask, for as long as one call of its tools takes."""
        call = _Allowance(self._limits.max_requests)
        self._calls.append(call)
        try:
            yield
        finally:
            self._calls.remove(call)
            for asking in self._under_way:
                asking.calls.discard(call)
                if not asking.calls:
                    asking.scope.cancel()

    async def _answer(
        self,
        context: ClientRequestContext,  # noqa: ARG002 - It does not name the call.
        params: CreateMessageRequestParams,
    ) -> CreateMessageResult | ErrorData:
        question = read_question(params, self._label, self._limits)
        if isinstance(question, ErrorData):
            return question
        call = next((call for call in self._calls if call.left), None)
        if call is None:
            return self._too_much()
        call.left -= 1
        asking = _Asking(set(self._calls))
        asking.scope.deadline = anyio.current_time() + self._limits.timeout_s
        self._under_way.append(asking)
        try:
            with asking.scope:
                return await self._put(question)
        finally:
            self._under_way.remove(asking)
        if not asking.calls:
            return _refusal("the call it belonged to is over")
        return _failure(f"the model gave no answer within {self._limits.timeout_s:g} s")

    async def _put(self, question: Question) -> CreateMessageResult | ErrorData:
        assert self._ask is not None  # Or the SDK would not have our callback.
        try:
            answer = await self._ask(question)
        except RequestError as error:
            return _invalid(error.message)
        except GatewayError as error:
            # A stranger is not told where our workers are, nor how they fail.
            _log.warning("MCP server %s: its question failed: %s", self._label, error.message)
            return _failure("the model did not answer")
        self.answered += 1
        _log.info(
            "MCP server %s: %s answered its question: %d tokens in, %d out (%s)",
            self._label,
            answer.model,
            answer.input_tokens,
            answer.output_tokens,
            answer.stop_reason,
        )
        return CreateMessageResult(
            role="assistant",
            content=TextContent(text=answer.text),
            model=answer.model,
            stop_reason=answer.stop_reason,
        )

    def _too_much(self) -> ErrorData:
        if not self._calls:
            return _refusal("questions are answered during a call only")
        return _refusal(f"a call may ask {self._limits.max_requests} times, and no more")


def read_question(
    params: CreateMessageRequestParams, server: str, limits: SamplingLimits
) -> Question | ErrorData:
    """A server's question within its limits, or what is wrong with it.

    Left aside: `includeContext`, because a server gets nothing of the user's conversation or of
    other servers; `metadata` and the priorities, which are advice for other providers.
    """
    messages = [_said(message) for message in params.messages]
    if (fault := _fault(params, messages)) is not None:
        return _invalid(fault)
    preferences = params.model_preferences
    hints = (preferences.hints or []) if preferences else []
    return Question(
        server=server,
        messages=tuple(message for message in messages if message is not None),
        max_tokens=min(params.max_tokens, limits.max_tokens),
        system=params.system_prompt,
        temperature=params.temperature,
        stop=tuple(params.stop_sequences or ()),
        hints=tuple(hint.name for hint in hints if hint.name),
        model=limits.model,
    )


def _fault(params: CreateMessageRequestParams, messages: list[Said | None]) -> str | None:
    """What of a question cannot be done."""
    temperature = params.temperature
    faults = {
        "tools and toolChoice are not supported": bool(params.tools or params.tool_choice),
        "task is not supported": params.task is not None,
        "messages: there is none": not messages,
        "messages: the model reads text only, no pictures, sounds or tool results": None
        in messages,
        "maxTokens: it must be at least 1": params.max_tokens < 1,
        "stopSequences: one of them is empty": "" in (params.stop_sequences or ()),
        f"temperature: it must be 0 to {_HOTTEST:g}": temperature is not None
        and not 0 <= temperature <= _HOTTEST,
    }
    return next((fault for fault, found in faults.items() if found), None)


def _said(message: SamplingMessage) -> Said | None:
    """The message; `None` if not all of it is text."""
    blocks = message.content_as_list
    texts = [block.text for block in blocks if isinstance(block, TextContent)]
    return Said(message.role, "\n".join(texts)) if len(texts) == len(blocks) else None


def _invalid(why: str) -> ErrorData:
    return ErrorData(code=INVALID_PARAMS, message=f"Sampling: {why}")


def _refusal(why: str) -> ErrorData:
    return ErrorData(code=INVALID_REQUEST, message=f"Sampling refused: {why}")


def _failure(why: str) -> ErrorData:
    return ErrorData(code=INTERNAL_ERROR, message=f"Sampling failed: {why}")
