"""A request to a turn: everything that can be refused is refused here, before the first byte."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from smg.agent.loop import Generate
from smg.agent.run import Model, Tools
from smg.errors import ContextLengthExceeded, InvalidRequest
from smg.events import Usage
from smg.items import Item, McpTool, Message
from smg.json_reader import Reader
from smg.responses.body import Head
from smg.responses.compact import compact, compaction_turn, opened
from smg.responses.context import ApprovalRules, check_outputs, read_answers, read_input
from smg.responses.schema import InputRequest, ResponsesRequest, TextFormat
from smg.seal import Seal
from smg.storage.base import Store
from smg.turn import (
    Constraint,
    JsonSchema,
    Limits,
    NewId,
    Now,
    Sampling,
    ToolResult,
    ToolSet,
    Turn,
)
from smg.web.schema import stops
from smg.web.tools import (
    McpRequest,
    RequestedTools,
    ServerPolicy,
    offer_tools,
    read_choice,
    read_tools,
)

INCLUDABLE = frozenset(
    {
        "reasoning.encrypted_content",
        "message.output_text.logprobs",
        "message.input_image.image_url",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
    }
)


class TurnModel(Model, Protocol):
    """A model as intake sees it."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The model's own sampling defaults: temperature, top_p, ..."""
        ...

    async def count(self, turn: Turn) -> int:
        """How many tokens the turn's first prompt has."""
        ...

    def thinking_kwargs(self, effort: str | None) -> Mapping[str, Any]:
        """The template arguments that stand for a reasoning effort."""
        ...


class Models(Protocol):
    """The models served here."""

    def find(self, name: str) -> TurnModel:
        """The model of this name.

        Raises:
            ModelNotFound: there is none; the message names those there are.
        """
        ...


class RequestServer(Protocol):
    """An MCP server that a request brought along."""

    async def tools(self) -> tuple[McpTool, ...]:
        """Its tools.

        Raises:
            ToolServerError: the server does not answer.
        """
        ...

    async def call(self, name: str, arguments: str) -> ToolResult:
        """Run one call; a failing tool is a result, not an exception."""
        ...


class ToolListing(Tools, Protocol):
    """The MCP servers, as intake sees them."""

    @property
    def policies(self) -> Mapping[str, ServerPolicy]:
        """What the operator says of each server, by label."""
        ...

    @property
    def default_labels(self) -> Sequence[str]:
        """Servers whose tools are offered without being named."""
        ...

    async def tools(self, label: str) -> tuple[McpTool, ...]:
        """A server's tools.

        Raises:
            ToolServerError: the server does not answer.
        """
        ...

    async def open(self, server: McpRequest, owner: str) -> RequestServer:
        """Reach a server that a request brings along.

        Raises:
            InvalidRequest: requests may not name this server.
            ToolServerError: the server does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class TurnTools:
    """The tools of one turn: the gateway's servers, and those that the request brought."""

    configured: ToolListing
    brought: Mapping[str, RequestServer]

    @property
    def policies(self) -> Mapping[str, ServerPolicy]:
        """What is to be asked of whom; of servers the operator does not know, everything."""
        theirs = {
            label: ServerPolicy(label=label, needs_approval=lambda _: False, asks_by_default=True)
            for label in self.brought
        }
        return {**self.configured.policies, **theirs}

    async def tools(self, label: str) -> tuple[McpTool, ...]:
        """The tools of a server of either kind."""
        if label in self.brought:
            return await self.brought[label].tools()
        return await self.configured.tools(label)

    async def call(self, server: str, name: str, arguments: str) -> ToolResult:
        """Run one call where it belongs."""
        if server in self.brought:
            return await self.brought[server].call(name, arguments)
        return await self.configured.call(server, name, arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """What intake works with: one of each thing the gateway has."""

    models: Models
    tools: ToolListing
    store: Store
    limits: Limits
    new_id: NewId
    now: Now
    seal: Seal
    approvals: ApprovalRules
    strict_calls: bool = True
    """Whether every call of the context must have been answered."""
    remembered: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    """What was said up to responses that nobody stores, by their ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request that has been accepted."""

    turn: Turn
    model: Model
    head: Head
    first: Any
    """What the model prepared for the first generation."""
    stored: bool
    streamed: bool
    background: bool
    seals_reasoning: bool
    tools: Tools | None = None
    """Who runs this order's calls, when it brought servers of its own; `None`: the gateway."""
    spent: Usage | None = None
    """Tokens that went into compacting the history before the turn began."""
    previous_response_id: str | None = None
    conversation_id: str | None = None
    answered: tuple[str, ...] = ()
    """The approval requests it answers: each answer counts once."""


async def accept(request: ResponsesRequest, kitchen: Kitchen, owner: str) -> Order:
    """Turn a request into an order.

    Raises:
        RequestError: something in it cannot be done; the error names the field.
        ToolServerError: an MCP server it needs does not answer.
    """
    check_fields(request)
    model = find_model(request, kitchen)
    asked = await new_turn(request, kitchen, model, owner)
    turn = asked.turn
    turn, spent = await _compacted(turn, model, _threshold(request), kitchen.new_id)
    first = None
    if not spent:
        turn, first = await _fitted(turn, model, request.truncation == "auto")
    tools = read_tools(request.tools or ())
    return Order(
        turn=turn,
        model=model,
        head=Head(_echo(request, turn, model, tools)),
        first=first,
        stored=request.store is not False,
        streamed=request.stream is True,
        background=request.background is True,
        seals_reasoning="reasoning.encrypted_content" in (request.include or ()),
        spent=spent,
        tools=asked.tools if asked.tools.brought else None,
        answered=asked.answered,
        previous_response_id=request.previous_response_id,
        conversation_id=conversation_of(request),
    )


def find_model(request: InputRequest, kitchen: Kitchen) -> TurnModel:
    """The model a request names."""
    if not request.model:
        raise InvalidRequest(
            "Missing required parameter: 'model'.",
            param="model",
            code="missing_required_parameter",
        )
    return kitchen.models.find(request.model)


def conversation_of(request: InputRequest) -> str | None:
    """The id of the conversation a request belongs to."""
    given = request.conversation
    return given if given is None or isinstance(given, str) else given.id


def check_fields(request: ResponsesRequest) -> None:
    """Refuse what no single field's type can tell."""
    if request.prompt is not None:
        raise InvalidRequest(
            "'prompt' is not supported: there are no stored prompt templates here.",
            param="prompt",
            code="unsupported_parameter",
        )
    for name in request.include or ():
        if name not in INCLUDABLE:
            raise InvalidRequest(
                f"Invalid 'include': unknown value {name!r}; known are "
                f"{', '.join(sorted(INCLUDABLE))}.",
                param="include",
                code="invalid_value",
            )
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "'stream_options' needs 'stream': true.", param="stream_options", code="invalid_value"
        )


def _check_source(request: InputRequest) -> None:
    if request.previous_response_id and request.conversation:
        raise InvalidRequest(
            "'previous_response_id' and 'conversation' cannot be used together.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    has_context = request.previous_response_id or request.conversation
    if not has_context and (request.input is None or request.input in ("", [])):
        raise InvalidRequest(
            "Missing required parameter: 'input'.",
            param="input",
            code="missing_required_parameter",
        )
    kwargs = request.chat_template_kwargs or {}
    if "chat_template" in kwargs or (request.model_extra or {}).get("chat_template") is not None:
        raise InvalidRequest(
            "'chat_template' cannot be given by a request.",
            param="chat_template",
            code="unsupported_parameter",
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, and who runs its calls."""

    turn: Turn
    tools: TurnTools
    answered: tuple[str, ...]
    """The approval requests it answers."""


async def new_turn(request: InputRequest, kitchen: Kitchen, model: TurnModel, owner: str) -> Asked:
    """The turn a request asks for."""
    _check_source(request)
    given = await read_input(request.input, kitchen.store, owner, kitchen.new_id)
    given.items = list(opened(given.items, kitchen.seal, owner))
    history = await read_history(
        kitchen, owner, request.previous_response_id, conversation_of(request)
    )
    check_outputs(history, given.items, strict=kitchen.strict_calls)
    requested = read_tools([*(request.tools or ()), *given.tools])
    tools = await _turn_tools(requested, kitchen, owner)
    offered = await offer_tools(
        requested,
        policies=tools.policies,
        list_tools=tools.tools,
        context=(*history, *given.items),
        new_id=kitchen.new_id,
    )
    answers = read_answers(history, given.items, offered.offers, kitchen.approvals)
    effort = request.reasoning.effort if request.reasoning else None
    turn = Turn(
        id=kitchen.new_id("resp"),
        model=model.name,
        created_at=kitchen.now(),
        owner=owner,
        instructions=request.instructions,
        history=history,
        input=tuple(answers.given),
        tools=ToolSet(
            offers=offered.offers,
            choice=read_choice(request.tool_choice, offered.offers),
            parallel=request.parallel_tool_calls is not False,
        ),
        opening=offered.listings,
        approved=tuple(answers.calls),
        sampling=_sampling(request) if isinstance(request, ResponsesRequest) else Sampling(),
        limits=_limits(request, kitchen.limits),
        output_constraint=_constraint(request.text.format if request.text else None),
        template_kwargs={
            **model.thinking_kwargs(effort),
            **(request.chat_template_kwargs or {}),
        },
        routing_key=_routing_key(request),
    )
    if given.wants_compaction:
        turn = compaction_turn(turn, kitchen.new_id)
    return Asked(turn, tools, tuple(answers.answered))


async def read_history(
    kitchen: Kitchen, owner: str, previous_response_id: str | None, conversation_id: str | None
) -> tuple[Item, ...]:
    """Everything said before, with what was sealed opened."""
    history: Sequence[Item] = ()
    if previous_response_id is not None:
        history = kitchen.remembered.get(
            previous_response_id
        ) or await kitchen.store.responses.history(previous_response_id, owner)
    elif conversation_id is not None:
        history = await kitchen.store.conversations.items(conversation_id, owner)
    return opened(history, kitchen.seal, owner)


async def _turn_tools(requested: RequestedTools, kitchen: Kitchen, owner: str) -> TurnTools:
    """Reach the servers that the request brings, and add those that are always offered."""
    brought: dict[str, RequestServer] = {}
    for server in requested.servers:
        if server.url is None:
            continue
        if server.label in kitchen.tools.policies:
            raise InvalidRequest(
                f"Invalid '{server.path}.server_url': {server.label!r} is a server of this "
                "gateway; name it without a URL, or use another label.",
                param=f"{server.path}.server_url",
            )
        brought[server.label] = await kitchen.tools.open(server, owner)
    _add_defaults(requested, kitchen.tools)
    return TurnTools(kitchen.tools, brought)


def _add_defaults(requested: RequestedTools, tools: ToolListing) -> None:
    named = {server.label for server in requested.servers}
    requested.servers += [
        McpRequest(label=label, allowed=None, approval=None, path="tools")
        for label in tools.default_labels
        if label not in named
    ]


def _routing_key(request: InputRequest) -> str | None:
    cache_key = request.prompt_cache_key if isinstance(request, ResponsesRequest) else None
    return cache_key or conversation_of(request) or request.previous_response_id


def _sampling(request: ResponsesRequest) -> Sampling:
    wants_logprobs = "message.output_text.logprobs" in (request.include or ())
    top = request.top_logprobs or 0
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        stop=stops(request.stop),
        min_tokens=request.min_tokens,
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=request.ignore_eos is True,
        logprobs=top if wants_logprobs or top else None,
    )


def _limits(request: InputRequest, limits: Limits) -> Limits:
    if not isinstance(request, ResponsesRequest):
        return limits
    return replace(
        limits,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls or limits.max_tool_calls,
    )


def _constraint(form: TextFormat | None) -> Constraint | None:
    match form:
        case None | TextFormat(type="text"):
            return None
        case TextFormat(type="json_object"):
            return JsonSchema('{"type": "object"}')
        case TextFormat(schema_=None):
            raise InvalidRequest(
                "Missing required parameter: 'text.format.schema'.",
                param="text.format.schema",
                code="missing_required_parameter",
            )
        case TextFormat(name=None):
            raise InvalidRequest(
                "Missing required parameter: 'text.format.name'.",
                param="text.format.name",
                code="missing_required_parameter",
            )
        case _:
            return JsonSchema(json.dumps(form.schema_))


def _threshold(request: ResponsesRequest) -> int | None:
    """The prompt length from which `context_management` wants the history compacted."""
    thresholds: list[int] = []
    for n, fields in enumerate(request.context_management or ()):
        rule = Reader(fields, f"context_management[{n}]")
        if rule.text("type") != "compaction":
            raise rule.error("type", "'compaction'")
        threshold = fields.get("compact_threshold")
        if not isinstance(threshold, int) or threshold < MIN_COMPACT_THRESHOLD:
            raise rule.error("compact_threshold", f"a number from {MIN_COMPACT_THRESHOLD}")
        thresholds.append(threshold)
    return min(thresholds, default=None)


MIN_COMPACT_THRESHOLD = 1000


async def _compacted(
    turn: Turn, model: TurnModel, threshold: int | None, new_id: NewId
) -> tuple[Turn, Usage | None]:
    """The turn, with its context replaced by a summary if its prompt is longer than allowed."""
    if threshold is None or turn.compacts or await model.count(turn) <= threshold:
        return turn, None
    item, usage = await compact(turn, model, new_id)
    return replace(turn, opening=(item, *turn.opening)), usage


async def _fitted(turn: Turn, model: TurnModel, may_truncate: bool) -> tuple[Turn, Any]:
    """Prepare the first generation; with `truncation: auto`, from the newest part that fits."""
    step = Generate(0, turn.limits.max_output_tokens)
    try:
        return turn, await model.prepare(turn, (), step)
    except ContextLengthExceeded:
        starts = [n for n, item in enumerate(turn.history) if _is_user(item)][1:]
        if not may_truncate or not turn.history:
            raise
    for start in (*starts, len(turn.history)):
        shorter = replace(turn, history=turn.history[start:])
        try:
            return shorter, await model.prepare(shorter, (), step)
        except ContextLengthExceeded:
            if start == len(turn.history):
                raise
    raise AssertionError("The last start is the whole history")


def _is_user(item: Item) -> bool:
    return isinstance(item, Message) and item.role == "user"


def _echo(
    request: ResponsesRequest, turn: Turn, model: TurnModel, tools: RequestedTools
) -> dict[str, Any]:
    """Every field of the response that repeats the request or its default."""
    conversation = conversation_of(request)
    return {
        "id": turn.id,
        "object": "response",
        "created_at": turn.created_at,
        "model": model.name,
        "background": request.background is True,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": turn.tools.parallel,
        "previous_response_id": request.previous_response_id,
        **({"conversation": {"id": conversation}} if conversation else {}),
        "prompt_cache_key": request.prompt_cache_key,
        "safety_identifier": request.safety_identifier,
        "user": request.user,
        "reasoning": _reasoning_echo(request),
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": _used(request.temperature, model, "temperature"),
        "top_p": _used(request.top_p, model, "top_p"),
        "presence_penalty": request.presence_penalty or 0,
        "frequency_penalty": request.frequency_penalty or 0,
        "top_logprobs": request.top_logprobs or 0,
        "text": _text_echo(request),
        "tool_choice": request.tool_choice or "auto",
        "tools": tools.echo,
        "truncation": request.truncation or "disabled",
    }


def _used(given: float | None, model: TurnModel, name: str) -> float:
    return given if given is not None else float(model.defaults.get(name, 1.0))


def _reasoning_echo(request: ResponsesRequest) -> dict[str, Any]:
    options = request.reasoning
    return {
        "effort": options.effort if options else None,
        "summary": options.summary if options else None,
    }


def _text_echo(request: ResponsesRequest) -> dict[str, Any]:
    options = request.text
    form = options.format if options else None
    if form is None or form.type != "json_schema":
        echo: dict[str, Any] = {"format": {"type": form.type if form else "text"}}
    else:
        echo = {
            "format": {
                "type": "json_schema",
                "name": form.name,
                "description": form.description,
                "schema": form.schema_,
                "strict": form.strict,
            }
        }
    if options and options.verbosity:
        echo["verbosity"] = options.verbosity
    return echo
