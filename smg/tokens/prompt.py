"""A turn and what has been said in it, to a prompt: text and token ids.

`Turn` and output items in, `Prompt` out. The same conversation gives the same prompt, and a longer
one begins as the shorter did wherever the template allows it: engines cache by prefix.
"""

import asyncio
import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from smg.errors import ConfigError, ContextLengthExceeded, InvalidRequest
from smg.items import Item
from smg.tokens.arguments import CUSTOM_PARAMETER
from smg.tokens.cache import CACHE_BYTES, EncodeCache, Hits
from smg.tokens.fit import fit
from smg.tokens.guard import without
from smg.tokens.habits import SWITCHES, Habits, probe
from smg.tokens.messages import (
    CallId,
    OpenSealed,
    new_messages,
    public_call_id,
    stays_sealed,
)
from smg.tokens.source import ModelFiles
from smg.tokens.template import ChatMessage, ChatTemplate
from smg.tokens.tokenizer import Tokenizer
from smg.turn import CustomTool, Offer, ServerTool, Turn

RENDER_SECONDS = 2.0
"""A template that needs longer is broken or hostile; real ones take milliseconds."""

CUSTOM_PARAMETERS = {
    "type": "object",
    "properties": {CUSTOM_PARAMETER: {"type": "string"}},
    "required": [CUSTOM_PARAMETER],
}

NO_EFFORT = ("none", "minimal")
"""Values of `reasoning_effort` that turn thinking off where it has a switch."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine reads."""

    ids: list[int]
    text: str
    """The rendered prompt, for logs and to see its end."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    text: str
    sign: str | None
    """What marks text that spells control tokens."""


class PromptBuilder:
    """Makes the prompts of one model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        tool_template: ChatTemplate | None = None,
        *,
        call_id: CallId = public_call_id,
        open_sealed: OpenSealed = stays_sealed,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """`tool_template` is used for turns with tools, where a model has one of its own.

        `cache_bytes` is the memory for what was encoded; 0: everything is encoded anew.
        """
        self.tokenizer = tokenizer
        self._cache = EncodeCache(tokenizer, cache_bytes)
        self._plain = _Form.of(template, tokenizer)
        self._with_tools = _Form.of(tool_template, tokenizer) if tool_template else self._plain
        self._call_id = call_id
        self._open_sealed = open_sealed
        if not self._with_tools.habits.renders_tools:
            log.warning("The chat template shows no tools: the model will not know of any")

    @classmethod
    def load(
        cls,
        files: ModelFiles,
        keep: Iterable[str] = (),
        *,
        call_id: CallId = public_call_id,
        open_sealed: OpenSealed = stays_sealed,
        cache_bytes: int = CACHE_BYTES,
    ) -> Self:
        """The builder of a model's folder; `keep` are the markers its parser reads.

        Raises:
            ConfigError: the folder holds no tokenizer or no chat template.
        """
        tokenizer = Tokenizer.load(files, keep)
        templates = {
            name: ChatTemplate(source, tokenizer.named) for name, source in files.templates.items()
        }
        default = templates.get("default")
        if default is None:
            raise ConfigError(f"{files.folder} has no chat template; name one with --chat-template")
        tool_template = templates.get("tool_use")
        return cls(
            tokenizer,
            default,
            tool_template,
            call_id=call_id,
            open_sealed=open_sealed,
            cache_bytes=cache_bytes,
        )

    @property
    def hits(self) -> Hits:
        """What of the prompts so far had been encoded before."""
        return self._cache.hits

    @property
    def habits(self) -> Habits:
        """What the template for turns with tools wants."""
        return self._with_tools.habits

    def build(self, turn: Turn, output: Sequence[Item] = (), starts: Container[str] = ()) -> Prompt:
        """The prompt of a turn's next generation.

        `output` is what the turn has said so far; `starts` are ids of items in it with which a
        generation began.

        Raises:
            InvalidRequest: the conversation cannot be said to this model.
        """
        return self._encode(self._render(turn, output, starts))

    async def build_async(
        self,
        turn: Turn,
        output: Sequence[Item] = (),
        starts: Container[str] = (),
        *,
        most_tokens: int = 0,
    ) -> Prompt:
        """As `build`, in a thread, so that a long prompt stops nobody else.

        Raises:
            ContextLengthExceeded: it is so far above `most_tokens` that it was not encoded.
        """
        try:
            async with asyncio.timeout(RENDER_SECONDS):
                rendered = await asyncio.to_thread(self._render, turn, output, starts)
        except TimeoutError as error:
            raise InvalidRequest("The model's chat template takes too long") from error
        await self.check_length(rendered.text, most_tokens)
        return await asyncio.to_thread(self._encode, rendered)

    async def check_length(self, text: str, most_tokens: int) -> None:
        """Refuse a text that is hopelessly long, before it is encoded; 0: there is no limit.

        Raises:
            ContextLengthExceeded: it is.
        """
        if most_tokens and await asyncio.to_thread(self.tokenizer.exceeds, text, most_tokens):
            raise ContextLengthExceeded(
                f"The model's context is {most_tokens} tokens; the prompt is far longer",
                param="input",
            )

    def _render(self, turn: Turn, output: Sequence[Item], starts: Container[str]) -> _Rendered:
        messages = new_messages(
            turn.instructions,
            (*turn.history, *turn.input, *output),
            self._call_id,
            open_sealed=self._open_sealed,
            names=offered_names(turn.tools.offers),
            starts=starts,
        )
        tools = [tool_definition(offer) for offer in turn.tools.callable_offers()]
        form = self._with_tools if tools else self._plain
        return form.render(messages, tools, turn.template_kwargs)

    def _encode(self, rendered: _Rendered) -> Prompt:
        ids = self._cache.encode(rendered.text, rendered.sign)
        text = rendered.text if rendered.sign is None else without(rendered.text, rendered.sign)
        return Prompt(ids, text)


class _Form:
    """One template, what it wants, and what keeps it safe."""

    def __init__(self, template: ChatTemplate, habits: Habits, tokenizer: Tokenizer) -> None:
        self._template = template
        self.habits = habits
        self._guard = tokenizer.guard(template.literals)

    @classmethod
    def of(cls, template: ChatTemplate, tokenizer: Tokenizer) -> Self:
        return cls(template, probe(template), tokenizer)

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any],
    ) -> _Rendered:
        fitted = fit(messages, self.habits)
        # A keyword's value is the client's to the last word, as arguments are.
        wrapped = {key: {"arguments": value} for key, value in _keywords(kwargs, self.habits)}
        [said, offered, marked], sign = self._guard.mark([fitted, tools, wrapped])
        given = {key: entry["arguments"] for key, entry in marked.items()}
        text = self._template.render(said, offered, kwargs=given, seconds=RENDER_SECONDS)
        return _Rendered(text, sign)


def _keywords(kwargs: Mapping[str, Any], habits: Habits) -> Iterator[tuple[str, Any]]:
    """The request's keywords, and its wish about thinking under the template's own name for it."""
    yield from kwargs.items()
    switch = habits.thinking_switch
    if switch is None or switch in kwargs:
        return
    wishes = [kwargs[name] for name in SWITCHES if name in kwargs]
    if kwargs.get("reasoning_effort") in NO_EFFORT:
        wishes.append(False)
    if wishes:
        yield switch, wishes[0]


def tool_definition(offer: Offer) -> dict[str, Any]:
    """A tool as chat templates know it; a custom tool as a function of one string.

    Every field that templates read without asking is there, if only empty.
    """
    if isinstance(offer.tool, CustomTool):
        description = _custom_description(offer.tool)
        parameters: Mapping[str, Any] = CUSTOM_PARAMETERS
    else:
        description = offer.tool.description or ""
        parameters = offer.tool.parameters or {}
    function = {
        "name": offer.name,
        "description": description,
        "parameters": {"type": "object", "properties": {}, **parameters},
    }
    return {"type": "function", "function": function}


def _custom_description(tool: CustomTool) -> str:
    if tool.definition is None:
        return tool.description or ""
    rule = f"The input must follow this {tool.syntax} definition:\n{tool.definition}"
    return f"{tool.description}\n\n{rule}" if tool.description else rule


def offered_names(offers: Sequence[Offer]) -> dict[tuple[str | None, str], str]:
    """The name under which a model knows each tool, by where the tool is from and its own name."""
    return {
        (
            offer.tool.server if isinstance(offer.tool, ServerTool) else offer.tool.namespace,
            offer.tool.name,
        ): offer.name
        for offer in offers
    }
