"""Compaction: a conversation to one opaque item that stands for it.

The summary is the model's own work: an ordinary turn without tools whose answer becomes the item.
What users said is kept word for word before the item; everything else in front of it is left out
of prompts.
"""

from collections.abc import Sequence
from dataclasses import replace

from smg.agent.loop import AgentLoop
from smg.agent.run import Crew, Model, run_turn
from smg.errors import EngineError, InvalidRequest
from smg.events import Event, TurnFinished, Usage
from smg.items import Compaction, Item, Message, Reasoning, TextPart
from smg.responses.adorn import COMPACTION, REASONING
from smg.seal import NotOurs, Seal
from smg.turn import Limits, NewId, ToolResult, ToolSet, Turn

SUMMARY_REQUEST = """\
Write a summary of this conversation that lets another assistant go on with it without having seen \
it. Say what the user wants, what was found out and decided, which tools were called with which \
results that still matter (names, numbers, paths, ids word for word), and what remains to be done. \
Write only the summary."""


def compaction_turn(turn: Turn, new_id: NewId) -> Turn:
    """The turn whose one output item is the summary of this one's context."""
    request = Message(id=new_id("msg"), role="user", parts=(TextPart(SUMMARY_REQUEST),))
    return replace(
        turn,
        input=(*turn.input, request),
        tools=ToolSet(),
        opening=(),
        approved=(),
        output_constraint=None,
        compacts=True,
        limits=Limits(max_generations=1, wall_seconds=turn.limits.wall_seconds),
    )


async def compact(turn: Turn, model: Model, new_id: NewId) -> tuple[Compaction, Usage]:
    """The compaction of a turn's context, not sealed yet, and what it cost.

    Raises:
        GatewayError: the model failed, or had nothing to say.
    """
    asked = compaction_turn(turn, new_id)
    loop = AgentLoop(asked, new_id)
    ended: list[TurnFinished] = []

    async def publish(events: Sequence[Event]) -> None:
        ended.extend(event for event in events if isinstance(event, TurnFinished))

    await run_turn(loop, asked, Crew(model, _NoTools(), publish))
    end = ended[-1]
    if end.error is not None:
        raise end.error
    for item in end.items:
        if isinstance(item, Compaction) and item.encrypted:
            return item, end.usage
    raise EngineError("The model wrote no summary")


class _NoTools:
    async def call(self, server: str, name: str, arguments: str) -> ToolResult:
        raise NotImplementedError("A compaction offers no tools")


def kept_messages(items: Sequence[Item]) -> tuple[Item, ...]:
    """What stays in front of a compaction: the users' own words."""
    return tuple(item for item in items if isinstance(item, Message) and item.role == "user")


def opened(items: Sequence[Item], seal: Seal, owner: str) -> tuple[Item, ...]:
    """The items with what we sealed readable again; reasoning that nobody can read is left out.

    Raises:
        InvalidRequest: a compaction is not one of this gateway.
    """
    readable = (_opened(item, n, seal, owner) for n, item in enumerate(items))
    return tuple(item for item in readable if item is not None)


def _opened(item: Item, n: int, seal: Seal, owner: str) -> Item | None:
    match item:
        case Reasoning(encrypted=str() as blob, text=""):
            try:
                return replace(item, text=seal.open(REASONING, owner, blob))
            except NotOurs:
                # Another gateway's thought; a summary of it may be there all the same.
                return item if item.summary else None
        case Compaction(is_open=False):
            try:
                text = seal.open(COMPACTION, owner, item.encrypted)
            except NotOurs as error:
                where = f"input[{n}].encrypted_content"
                raise InvalidRequest(
                    f"Invalid '{where}': not a compaction of this gateway.", param=where
                ) from error
            return replace(item, encrypted=text, is_open=True)
        case _:
            return item
