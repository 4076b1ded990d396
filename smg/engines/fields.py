"""What several dialects write the same way: defaults, seeds, constraints, facts about a worker.

In go our values, out come values that fit a field. It must not know any engine's messages.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from smg.engines.base import EngineLoad
from smg.errors import EngineError, PromptRejected
from smg.turn import Constraint, Grammar, JsonSchema, Regex, StructuralTag


def or_default(value: float | None, default: float) -> float:
    """The value, unless it is absent: 0 is a value."""
    return default if value is None else value


def seed_within(seed: int | None, lowest: int, highest: int) -> int | None:
    """The seed, if the engine has room for it.

    Raises:
        PromptRejected: it has not.
    """
    if seed is not None and not lowest <= seed <= highest:
        raise PromptRejected(
            f"This model's engine takes a seed from {lowest} to {highest}, not {seed}",
            param="seed",
        )
    return seed


def constraint_text(constraint: Constraint) -> str:
    """A constraint's own text, which all engines take as it is."""
    match constraint:
        case JsonSchema(text) | Regex(text) | Grammar(text) | StructuralTag(text):
            return text


def set_constraint(
    params: Any, constraint: Constraint | None, fields: Mapping[type[Constraint], str]
) -> None:
    """Write a constraint into the field that is for its kind."""
    if constraint is not None:
        setattr(params, fields[type(constraint)], constraint_text(constraint))


def default_sampling(text: str) -> dict[str, Any]:
    """The model's sampling defaults, as workers report them.

    Raises:
        EngineError: the text is not a JSON object.
    """
    if not text:
        return {}
    try:
        defaults = json.loads(text)
    except ValueError as error:
        raise EngineError(f"The worker's sampling defaults are not JSON: {text!r}") from error
    if not isinstance(defaults, dict):
        raise EngineError(f"The worker's sampling defaults are not an object: {text!r}")
    return defaults


def said(details: Mapping[str, Any]) -> dict[str, Any]:
    """Only what a worker has said: in proto3 an empty value is an absent one."""
    return {name: value for name, value in details.items() if value}


def ranks_load(loads: Sequence[Any]) -> EngineLoad:
    """The load of all ranks, and that of each."""
    return summed({load.dp_rank: _rank_load(load) for load in loads})


def summed(ranks: Mapping[int, EngineLoad]) -> EngineLoad:
    """The load of ranks together: requests summed, KV use averaged."""
    return EngineLoad(
        running=sum(rank.running for rank in ranks.values()),
        waiting=sum(rank.waiting for rank in ranks.values()),
        token_usage=sum(rank.token_usage for rank in ranks.values()) / max(1, len(ranks)),
        ranks=ranks,
    )


def _rank_load(load: Any) -> EngineLoad:
    return EngineLoad(
        running=load.num_running_reqs,
        waiting=load.num_waiting_reqs,
        token_usage=load.token_usage,
    )
