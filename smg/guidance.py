"""What one generation is held to: a turn's wishes, a model's families and its engine, put together.

In goes what was asked for, out comes a guide (constraint and parser) or a refusal. How a family
writes calls is the parsers' business, how a constraint is sent the engines'.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smg.engines.base import EngineInfo
from smg.engines.guards import can_follow
from smg.errors import InvalidRequest
from smg.parsers.registry import Guide, ToolSchema, answer_constraint, answer_or_calls, guide
from smg.tokens.prompt import tool_definition
from smg.turn import (
    Constraint,
    CustomTool,
    FunctionTool,
    Grammar,
    Offer,
    Regex,
    ToolChoice,
)

NO_TOOLS = "passthrough"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a generation is asked for, and of whom."""

    choice: ToolChoice
    parallel: bool
    offered: Sequence[ToolSchema]
    answer: Constraint | None
    """The form of an answer."""
    reasoning: str
    tools: str
    engine: EngineInfo
    starts_open: bool | None


def offered_schemas(offers: Iterable[Offer], engine: EngineInfo) -> tuple[ToolSchema, ...]:
    """The tools as parsers and guides know them."""
    return tuple(_schema(offer, engine) for offer in offers)


def new_guide(asked: Asked) -> Guide | None:
    """What keeps the output to what was asked for; None if nothing need, or can, be done.

    Where the engine takes no constraints, what the model is free to leave out is left to it: a
    second call where one is allowed is not listened to, and the arguments of strict tools are as
    good as the model.

    Raises:
        InvalidRequest: this engine cannot do what must be done.
    """
    found = _wanted(asked)
    if found is None or can_follow(asked.engine, found.constraint):
        return found
    if asked.choice.mode == "required":
        raise InvalidRequest(
            f"This model's engine, {asked.engine.engine}, cannot be made to call a tool: "
            "'tool_choice' must be 'auto' or 'none'.",
            param="tool_choice",
            code="unsupported_parameter",
        )
    if asked.answer is not None:
        raise InvalidRequest(
            f"This model's engine, {asked.engine.engine}, cannot keep an answer to a JSON format "
            "('text.format', 'response_format').",
            code="unsupported_parameter",
        )
    return None


def _wanted(asked: Asked) -> Guide | None:
    if asked.answer is None or asked.choice.mode == "required":
        return guide(
            tools=asked.tools,
            reasoning=asked.reasoning,
            offered=asked.offered,
            choice=asked.choice,
            parallel=asked.parallel,
            starts_open=asked.starts_open,
        )
    if not asked.offered:
        constraint = answer_constraint(asked.reasoning, asked.answer, asked.starts_open)
        return Guide(constraint, NO_TOOLS)
    return answer_or_calls(
        tools=asked.tools,
        reasoning=asked.reasoning,
        offered=asked.offered,
        answer=asked.answer,
        parallel=asked.parallel,
        starts_open=asked.starts_open,
    )


def _schema(offer: Offer, engine: EngineInfo) -> ToolSchema:
    tool = offer.tool
    form = _form(tool) if isinstance(tool, CustomTool) else None
    return ToolSchema(
        name=offer.name,
        parameters=tool_definition(offer)["function"]["parameters"],
        strict=tool.strict if isinstance(tool, FunctionTool) else None,
        free_text=isinstance(tool, CustomTool),
        # Where the engine cannot follow it, it stands in the tool's description only.
        form=form if form and can_follow(engine, form) else None,
    )


def _form(tool: CustomTool) -> Constraint | None:
    """What a custom tool's text must look like."""
    match tool:
        case CustomTool(syntax="regex", definition=str(pattern)):
            return Regex(pattern)
        case CustomTool(syntax="lark", definition=str(text)):
            return Grammar(text, "lark")
    return None
