"""A chat request to a turn: one generation, the client's tools, nothing stored."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from smg.agent.loop import Generate
from smg.agent.run import Model
from smg.chat.messages import read_messages
from smg.chat.schema import ChatRequest, ResponseFormat
from smg.errors import ContextLengthExceeded, InvalidRequest
from smg.turn import (
    Constraint,
    FunctionTool,
    JsonSchema,
    Limits,
    NewId,
    Now,
    Offer,
    Sampling,
    ToolSet,
    Turn,
)
from smg.web.offers import named, read_choice
from smg.web.schema import token_bias
from smg.web.tools import read_tools


class ChatModel(Model, Protocol):
    """A model as chat sees it."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    def thinking_kwargs(self, effort: str | None) -> Mapping[str, Any]:
        """The template arguments that stand for a reasoning effort."""
        ...


class Models(Protocol):
    """The models served here."""

    def find(self, name: str) -> ChatModel:
        """The model of this name.

        Raises:
            ModelNotFound: there is none; the message names those there are.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOrder:
    """A chat request that has been accepted."""

    turn: Turn
    model: ChatModel
    first: Any
    """What the model prepared for the generation; all choices start from it."""
    choices: int
    streamed: bool
    include_usage: bool
    logprobs: bool


_UNSUPPORTED = ("functions", "function_call", "audio", "web_search_options")


async def accept(
    request: ChatRequest, models: Models, limits: Limits, new_id: NewId, now: Now
) -> ChatOrder:
    """Turn a request into an order.

    Raises:
        RequestError: something in it cannot be done; the error names the field.
    """
    _check(request)
    model = models.find(request.model)
    turn = _turn(request, model, limits, new_id, now)
    step = Generate(0, turn.limits.max_output_tokens)
    try:
        first = await model.prepare(turn, (), step)
    except ContextLengthExceeded as error:
        raise ContextLengthExceeded(error.message, param="messages") from error
    return ChatOrder(
        turn=turn,
        model=model,
        first=first,
        choices=request.n or 1,
        streamed=request.stream is True,
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        logprobs=request.logprobs is True,
    )


def _check(request: ChatRequest) -> None:
    for name in _UNSUPPORTED:
        if getattr(request, name) is not None:
            raise _refusal(name, f"'{name}' is not supported; functions go in 'tools'.")
    if any(modality != "text" for modality in request.modalities or ()):
        raise _refusal("modalities", "'modalities': only text is supported.")
    kwargs = request.chat_template_kwargs or {}
    if "chat_template" in kwargs or (request.model_extra or {}).get("chat_template") is not None:
        raise _refusal("chat_template", "'chat_template' cannot be given by a request.")
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("'stream_options' needs 'stream': true.", param="stream_options")


def _refusal(name: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=name, code="unsupported_parameter")


def _turn(request: ChatRequest, model: ChatModel, limits: Limits, new_id: NewId, now: Now) -> Turn:
    offers = _offers(request)
    limit = request.max_completion_tokens or request.max_tokens
    return Turn(
        id=new_id("chatcmpl"),
        model=model.name,
        created_at=now(),
        input=read_messages(request.messages, new_id),
        tools=ToolSet(
            offers=offers,
            choice=read_choice(request.tool_choice, offers),
            parallel=request.parallel_tool_calls is not False,
        ),
        sampling=_sampling(request),
        limits=replace(limits, max_output_tokens=limit, max_generations=1),
        output_constraint=_constraint(request.response_format),
        template_kwargs={
            **model.thinking_kwargs(request.reasoning_effort),
            **(request.chat_template_kwargs or {}),
        },
        separate_reasoning=request.separate_reasoning is not False,
        routing_key=request.routing_key_or(request.prompt_cache_key, request.user),
    )


def _offers(request: ChatRequest) -> tuple[Offer, ...]:
    flat: list[dict[str, Any]] = []
    for n, tool in enumerate(request.tools or ()):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise InvalidRequest(
                f"Invalid 'tools[{n}]': expected {{'type': 'function', 'function': {{...}}}}.",
                param=f"tools[{n}]",
            )
        flat.append({"type": "function", **function})
    tools = [tool for tool in read_tools(flat).client if isinstance(tool, FunctionTool)]
    return tuple(named(tools))


def _sampling(request: ChatRequest) -> Sampling:
    return replace(
        request.sampling(),
        include_stop=bool(request.include_stop_str_in_output or request.no_stop_trim),
        logit_bias=token_bias(request.logit_bias),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        keep_special_tokens=request.skip_special_tokens is False,
    )


def _constraint(form: ResponseFormat | None) -> Constraint | None:
    match form:
        case None | ResponseFormat(type="text"):
            return None
        case ResponseFormat(type="json_object"):
            return JsonSchema('{"type": "object"}')
        case _ if form.json_schema is not None and form.json_schema.schema_ is not None:
            return JsonSchema(json.dumps(form.json_schema.schema_))
        case _:
            raise InvalidRequest(
                "Missing required parameter: 'response_format.json_schema.schema'.",
                param="response_format.json_schema.schema",
                code="missing_required_parameter",
            )
