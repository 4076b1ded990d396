"""A text completion request to turns: one a prompt, one generation each, nothing stored."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from smg.agent.run import Model
from smg.completions.schema import CompletionRequest
from smg.errors import ContextLengthExceeded, InvalidRequest, PromptRejected
from smg.turn import Limits, NewId, Now, Sampling, Turn
from smg.web.schema import token_bias

DEFAULT_TOKENS = 16
"""What OpenAI generates when nobody says how much."""
MAX_CHOICES = 128

TextPrompt = str | tuple[int, ...]


class TextModel(Model, Protocol):
    """A model as text completions see it."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    async def prepare_text(self, turn: Turn, prompt: TextPrompt) -> Any:
        """Make a generation that goes on with a text, or its tokens, as they are.

        Raises:
            ContextLengthExceeded: the prompt leaves no room for a token.
            PromptRejected: it is empty, or has ids the model does not know.
        """
        ...

    def text_of(self, ids: Sequence[int]) -> str:
        """What tokens read."""
        ...


class Models(Protocol):
    """The models served here."""

    def find(self, name: str) -> TextModel:
        """The model of this name.

        Raises:
            ModelNotFound: there is none; the message names those there are.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One prompt, ready to be gone on with."""

    first: Any
    """What the model prepared."""
    echo: str
    """What stands before each answer: the prompt, if it is to be repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOrder:
    """A text completion request that has been accepted."""

    turn: Turn
    model: TextModel
    starts: Sequence[Start]
    each: int
    """Answers to each prompt."""
    streamed: bool
    include_usage: bool
    logprobs: bool


async def accept(
    request: CompletionRequest, models: Models, limits: Limits, new_id: NewId, now: Now
) -> TextOrder:
    """Turn a request into an order.

    Raises:
        RequestError: something in it cannot be done; the error names the field.
    """
    prompts = _prompts(request.prompt)
    _check(request, len(prompts))
    model = models.find(request.model)
    turn = Turn(
        id=new_id("cmpl"),
        model=model.name,
        created_at=now(),
        routing_key=request.routing_key_or(request.user),
        sampling=_sampling(request),
        limits=replace(
            limits, max_output_tokens=request.max_tokens or DEFAULT_TOKENS, max_generations=1
        ),
    )
    return TextOrder(
        turn=turn,
        model=model,
        starts=[await _start(turn, model, prompt, request.echo is True) for prompt in prompts],
        each=request.n or 1,
        streamed=request.stream is True,
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        logprobs=request.logprobs is not None,
    )


async def _start(turn: Turn, model: TextModel, prompt: TextPrompt, echo: bool) -> Start:
    try:
        first = await model.prepare_text(turn, prompt)
    except ContextLengthExceeded as error:
        raise ContextLengthExceeded(error.message, param="prompt") from error
    except PromptRejected as error:
        raise InvalidRequest(
            f"Invalid 'prompt': {error.message}.", param=error.param or "prompt"
        ) from error
    if not echo:
        return Start(first=first, echo="")
    if not isinstance(prompt, str):
        prompt = await asyncio.to_thread(model.text_of, prompt)
    return Start(first=first, echo=prompt)


def _prompts(given: str | list[Any]) -> list[TextPrompt]:
    """One prompt or several, each a text or the ids of its tokens."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise InvalidRequest(
            "Invalid 'prompt': the array is empty.", param="prompt", code="array_below_min_length"
        )
    if all(isinstance(entry, str) for entry in given):
        return given
    if _are_ids(given):
        return [tuple(given)]
    for n, entry in enumerate(given):
        if not isinstance(entry, list) or not _are_ids(entry):
            raise InvalidRequest(
                f"Invalid 'prompt[{n}]': a prompt is a text or an array of token ids, and all "
                "prompts of a request are of one kind.",
                param=f"prompt[{n}]",
                code="invalid_type",
            )
    return [tuple(entry) for entry in given]


def _are_ids(given: list[Any]) -> bool:
    return all(isinstance(entry, int) and not isinstance(entry, bool) for entry in given)


def _check(request: CompletionRequest, prompts: int) -> None:
    if request.suffix is not None:
        raise _refusal("suffix", "'suffix' is not supported: text is only written at the end.")
    if request.best_of not in (None, request.n or 1):
        raise _refusal("best_of", "'best_of' must be equal to 'n': every answer is returned.")
    if request.echo and request.logprobs is not None:
        raise _refusal("logprobs", "'logprobs' with 'echo' is not supported.")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("'stream_options' needs 'stream': true.", param="stream_options")
    if prompts * (request.n or 1) > MAX_CHOICES:
        raise InvalidRequest(
            f"Invalid 'prompt': prompts times 'n' may be {MAX_CHOICES} at most.",
            param="prompt",
            code="array_above_max_length",
        )


def _refusal(name: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=name, code="unsupported_parameter")


def _sampling(request: CompletionRequest) -> Sampling:
    return replace(
        request.sampling(),
        include_stop=request.include_stop_str_in_output is True,
        logit_bias=token_bias(request.logit_bias),
        logprobs=request.logprobs,
        keep_special_tokens=request.skip_special_tokens is False,
    )
