"""Orders and their last events to stored records."""

from collections.abc import Sequence

from smg.events import TurnFinished
from smg.items import Item
from smg.responses.body import Json
from smg.responses.kitchen import Order
from smg.storage.records import ResponseRecord


def begun(order: Order, given: Sequence[Item]) -> ResponseRecord:
    """The record of a turn that has not ended; `given` is its input in the form to be kept."""
    status = "queued" if order.background else "in_progress"
    return _record(order, order.head.body(status), given, ())


def finished(
    order: Order, given: Sequence[Item], event: TurnFinished, body: Json
) -> ResponseRecord:
    """The record of a turn that has ended; `body` is the response as the client sees it."""
    return _record(order, body, given, event.items)


def _record(
    order: Order, body: Json, given: Sequence[Item], output: Sequence[Item]
) -> ResponseRecord:
    turn = order.turn
    return ResponseRecord(
        id=turn.id,
        owner=turn.owner,
        model=turn.model,
        status=body["status"],
        created_at=turn.created_at,
        previous_response_id=order.previous_response_id,
        conversation_id=order.conversation_id,
        background=order.background,
        body={key: value for key, value in body.items() if key != "output"},
        input=tuple(given),
        output=tuple(output),
    )
