"""What a response repeats of its request."""

from typing import Any

from smg.responses.fields import conversation_of
from smg.responses.kitchen import TurnModel
from smg.responses.schema import ResponsesRequest
from smg.turn import Turn
from smg.web.tools import RequestedTools


def echo(
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
