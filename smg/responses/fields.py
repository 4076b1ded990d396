"""Single fields of a request: what they may be, and what they mean for the turn."""

import json
from collections.abc import Sequence
from dataclasses import replace

from smg.errors import InvalidRequest
from smg.items import Item
from smg.json_reader import Reader
from smg.responses.schema import InputRequest, ResponsesRequest, TextFormat
from smg.turn import Constraint, JsonSchema, Limits, Sampling

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


def check_source(request: InputRequest) -> None:
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


def routing_key_of(request: InputRequest, history: Sequence[Item]) -> str | None:
    """By what a policy may keep requests together.

    A chain of responses is known by what was said first in it: the id of the last one is another
    with each turn.
    """
    cache_key, user = None, None
    if isinstance(request, ResponsesRequest):
        cache_key, user = request.prompt_cache_key, request.user
    chain = history[0].id if history else request.previous_response_id
    return request.routing_key_or(cache_key, user, conversation_of(request), chain)


def sampling_of(request: ResponsesRequest) -> Sampling:
    wants_logprobs = "message.output_text.logprobs" in (request.include or ())
    top = request.top_logprobs or 0
    return replace(request.sampling(), logprobs=top if wants_logprobs or top else None)


def limits_of(request: InputRequest, limits: Limits) -> Limits:
    if not isinstance(request, ResponsesRequest):
        return limits
    return replace(
        limits,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls or limits.max_tool_calls,
    )


def constraint_of(form: TextFormat | None) -> Constraint | None:
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


def compact_threshold(request: ResponsesRequest) -> int | None:
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
