"""An accepted order to JSON and back: the first entry of a response's journal."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from smg.events import Usage
from smg.items import Item
from smg.responses.body import Head
from smg.responses.intake import read_history
from smg.responses.kitchen import Kitchen, Order
from smg.responses.saved import start_to_json, turn_from_json, turn_to_json


def order_to_json(order: Order) -> dict[str, Any]:
    """The order without what is read again: history, model, tools."""
    return {
        "turn": turn_to_json(order.turn),
        "head": dict(order.head.fields),
        "streamed": order.streamed,
        "background": order.background,
        "seals_reasoning": order.seals_reasoning,
        "spent": None if order.spent is None else asdict(order.spent),
        "previous_response_id": order.previous_response_id,
        "conversation_id": order.conversation_id,
        "own_servers": order.tools is not None,
        "first": _first_to_json(order),
    }


def _first_to_json(order: Order) -> dict[str, Any] | None:
    """What the first generation starts from, where that is known: it needs no entry of its own."""
    if order.first is None or order.turn.approved:
        return None  # What approved calls give is still to be read.
    return start_to_json(0, order.model.start_of(order.first))


async def order_from_json(fields: Mapping[str, Any], kitchen: Kitchen, owner: str) -> Order:
    """The order, ready to be worked on again.

    Raises:
        GatewayError: its model, or its history, is not there any more.
    """
    previous, conversation = fields["previous_response_id"], fields["conversation_id"]
    history: tuple[Item, ...] = await read_history(kitchen, owner, previous, conversation)
    turn = turn_from_json(fields["turn"], history)
    return Order(
        turn=turn,
        model=kitchen.models.find(turn.model),
        head=Head(fields["head"]),
        first=None,
        stored=True,
        streamed=fields["streamed"],
        background=fields["background"],
        seals_reasoning=fields["seals_reasoning"],
        spent=None if fields["spent"] is None else Usage(**fields["spent"]),
        previous_response_id=previous,
        conversation_id=conversation,
    )
