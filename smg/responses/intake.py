"""A request to a turn: everything that can be refused is refused here, before the first byte."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from smg.agent.loop import Generate
from smg.errors import ContextLengthExceeded, InvalidRequest
from smg.events import Usage
from smg.items import Item, Message
from smg.responses.body import Head
from smg.responses.compact import compact, compaction_turn, opened
from smg.responses.context import check_outputs, read_answers, read_input
from smg.responses.echo import echo
from smg.responses.fields import (
    check_fields,
    check_source,
    compact_threshold,
    constraint_of,
    conversation_of,
    limits_of,
    routing_key_of,
    sampling_of,
)
from smg.responses.kitchen import Kitchen, Order, RequestServer, ToolListing, TurnModel, TurnTools
from smg.responses.schema import InputRequest, ResponsesRequest
from smg.turn import NewId, Sampling, ToolSet, Turn
from smg.web.offers import offer_tools, read_choice
from smg.web.tools import McpRequest, RequestedTools, read_tools


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
    turn, spent = await _compacted(turn, model, compact_threshold(request), kitchen.new_id)
    first = None
    if not spent:
        turn, first = await _fitted(turn, model, request.truncation == "auto")
    tools = read_tools(request.tools or ())
    return Order(
        turn=turn,
        model=model,
        head=Head(echo(request, turn, model, tools)),
        first=first,
        stored=request.store is not False,
        streamed=request.stream is True,
        background=request.background is True,
        seals_reasoning="reasoning.encrypted_content" in (request.include or ()),
        spent=spent,
        tools=asked.tools if asked.tools.brought else None,
        denied=asked.denied,
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


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, and who runs its calls."""

    turn: Turn
    tools: TurnTools
    denied: tuple[str, ...]
    """The approval requests it answers with no."""


async def new_turn(request: InputRequest, kitchen: Kitchen, model: TurnModel, owner: str) -> Asked:
    """The turn a request asks for."""
    check_source(request)
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
        sampling=sampling_of(request) if isinstance(request, ResponsesRequest) else Sampling(),
        limits=limits_of(request, kitchen.limits),
        output_constraint=constraint_of(request.text.format if request.text else None),
        template_kwargs={
            **model.thinking_kwargs(effort),
            **(request.chat_template_kwargs or {}),
        },
        routing_key=routing_key_of(request, history),
    )
    if given.wants_compaction:
        turn = compaction_turn(turn, kitchen.new_id)
    return Asked(turn, tools, tuple(answers.denied))


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
