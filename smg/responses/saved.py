"""A running turn to JSON and back: what another process needs to go on with it.

The history is not in it: it is read again from where it came. Credentials are not either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from smg.agent.loop import Progress
from smg.agent.run import Start
from smg.events import Usage
from smg.item_json import from_json, to_json
from smg.items import Item, McpCall
from smg.turn import (
    Constraint,
    CustomTool,
    FunctionTool,
    Grammar,
    JsonSchema,
    Limits,
    Offer,
    Regex,
    Sampling,
    ServerTool,
    StructuralTag,
    Tool,
    ToolChoice,
    ToolSet,
    Turn,
)

Json = dict[str, Any]

_CONSTRAINTS: Mapping[str, type[Constraint]] = {
    "json_schema": JsonSchema,
    "regex": Regex,
    "grammar": Grammar,
    "structural_tag": StructuralTag,
}
_TOOLS: Mapping[str, type[Tool]] = {
    "function": FunctionTool,
    "custom": CustomTool,
    "server": ServerTool,
}


def turn_to_json(turn: Turn) -> Json:
    """The turn without its history, of which only the length is kept."""
    tools = turn.tools
    sampling = asdict(turn.sampling)
    sampling["logit_bias"] = list(turn.sampling.logit_bias.items())
    return {
        "id": turn.id,
        "model": turn.model,
        "created_at": turn.created_at,
        "owner": turn.owner,
        "instructions": turn.instructions,
        "history_length": len(turn.history),
        "input": items_to_json(turn.input),
        "offers": [_offer_to_json(offer) for offer in tools.offers],
        "choice": {
            "mode": tools.choice.mode,
            "names": None if tools.choice.names is None else sorted(tools.choice.names),
        },
        "parallel": tools.parallel,
        "opening": items_to_json(turn.opening),
        "approved": items_to_json(turn.approved),
        "sampling": sampling,
        "limits": asdict(turn.limits),
        "output_constraint": _constraint_to_json(turn.output_constraint),
        "template_kwargs": dict(turn.template_kwargs),
        "compacts": turn.compacts,
        "separate_reasoning": turn.separate_reasoning,
        "routing_key": turn.routing_key,
    }


def turn_from_json(fields: Mapping[str, Any], history: Sequence[Item]) -> Turn:
    """The turn; of the history read again, its newest part of the length it had."""
    choice, sampling = fields["choice"], fields["sampling"]
    names = choice["names"]
    length = fields["history_length"]
    return Turn(
        id=fields["id"],
        model=fields["model"],
        created_at=fields["created_at"],
        owner=fields["owner"],
        instructions=fields["instructions"],
        history=tuple(history[len(history) - length :]),
        input=items_from_json(fields["input"]),
        tools=ToolSet(
            offers=tuple(_offer_from_json(offer) for offer in fields["offers"]),
            choice=ToolChoice(
                mode=choice["mode"], names=None if names is None else frozenset(names)
            ),
            parallel=fields["parallel"],
        ),
        opening=items_from_json(fields["opening"]),
        approved=tuple(i for i in items_from_json(fields["approved"]) if isinstance(i, McpCall)),
        sampling=Sampling(
            **{
                **sampling,
                "stop": tuple(sampling["stop"]),
                "stop_token_ids": tuple(sampling["stop_token_ids"]),
                "logit_bias": dict(sampling["logit_bias"]),
            }
        ),
        limits=Limits(**fields["limits"]),
        output_constraint=_constraint_from_json(fields["output_constraint"]),
        template_kwargs=fields["template_kwargs"],
        compacts=fields["compacts"],
        separate_reasoning=fields["separate_reasoning"],
        routing_key=fields["routing_key"],
    )


def progress_to_json(progress: Progress) -> Json:
    """The state at the edge of a step."""
    return {
        "items": items_to_json(progress.items),
        "usage": asdict(progress.usage),
        "generations": progress.generations,
        "calls": progress.calls,
        "answered": progress.answered,
        "starts": sorted(progress.starts),
    }


def progress_from_json(fields: Mapping[str, Any]) -> Progress:
    """The state at the edge of a step."""
    return Progress(
        items=items_from_json(fields["items"]),
        usage=Usage(**fields["usage"]),
        generations=fields["generations"],
        calls=fields["calls"],
        answered=fields["answered"],
        starts=frozenset(fields["starts"]),
    )


def start_to_json(number: int, start: Start) -> Json:
    """What a turn's generation of this number starts from."""
    return {"number": number, "prompt": start.prompt_hash, "worker": start.worker}


def with_results(progress: Progress, results: Sequence[Item]) -> Progress:
    """The state with the calls that have been answered since."""
    known = {item.id: item for item in results}
    return replace(progress, items=tuple(known.get(item.id, item) for item in progress.items))


def items_to_json(items: Sequence[Item]) -> list[Json]:
    """Items as rows keep them."""
    return [to_json(item) for item in items]


def items_from_json(fields: Sequence[Mapping[str, Any]]) -> tuple[Item, ...]:
    """Items as rows keep them."""
    return tuple(from_json(item) for item in fields)


def _offer_to_json(offer: Offer) -> Json:
    kind = next(kind for kind, of in _TOOLS.items() if isinstance(offer.tool, of))
    return {"name": offer.name, "kind": kind, "tool": asdict(offer.tool)}


def _offer_from_json(fields: Mapping[str, Any]) -> Offer:
    return Offer(fields["name"], _TOOLS[fields["kind"]](**fields["tool"]))


def _constraint_to_json(constraint: Constraint | None) -> Json | None:
    if constraint is None:
        return None
    kind = next(kind for kind, of in _CONSTRAINTS.items() if isinstance(constraint, of))
    return {"kind": kind, **asdict(constraint)}


def _constraint_from_json(fields: Mapping[str, Any] | None) -> Constraint | None:
    if fields is None:
        return None
    values = {key: value for key, value in fields.items() if key != "kind"}
    return _CONSTRAINTS[fields["kind"]](**values)
