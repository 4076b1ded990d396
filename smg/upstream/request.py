"""A turn to the body of a chat completion request.

What a server cannot be told is refused by name, never dropped. Knows no HTTP; the worker's own
name for the model is put in when it is sent.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from smg.agent.loop import Generate
from smg.errors import InvalidRequest
from smg.items import ImagePart, Item, Part
from smg.tokens.messages import new_messages, text_of
from smg.tokens.prompt import offered_names, tool_definition
from smg.turn import Constraint, FunctionTool, JsonSchema, Offer, Sampling, ToolChoice, Turn

Json = dict[str, Any]

ANY_OBJECT: Final = {"type": "object"}

OPENAI: Final = "openai"
OLLAMA: Final = "ollama"
SGLANG: Final = "sglang"
EXTENSIONS: Final = (
    *("top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids"),
    *("ignore_eos", "include_stop_str_in_output", "no_stop_trim", "skip_special_tokens"),
    "chat_template_kwargs",
)
"""Fields that vLLM brought in and most servers of open models take."""
UNKNOWN_TO: Final[Mapping[str, Sequence[str]]] = {
    OPENAI: EXTENSIONS,
    OLLAMA: (*EXTENSIONS, "logit_bias"),
}
"""What servers leave unread without a word."""


def new_body(turn: Turn, output: Sequence[Item], step: Generate, server: str) -> Json:
    """The request for a turn's next generation; `server` is the kind of server, if known.

    Raises:
        InvalidRequest: the conversation cannot be said, or the server cannot do what is asked.
    """
    body: Json = {
        "messages": _messages(turn, output, step),
        "stream": True,
        "stream_options": {"include_usage": True},
        **_tools(turn, step),
        **_sampling(turn.sampling, server),
        **_template_fields(turn.template_kwargs),
    }
    if step.max_tokens is not None:
        # OpenAI refuses the old name for its newer models; most other servers know only that.
        name = "max_completion_tokens" if server == OPENAI else "max_tokens"
        body[name] = step.max_tokens
    if turn.output_constraint is not None:
        body["response_format"] = _response_format(turn.output_constraint)
    _check_known(body, server)
    return body


def new_text_body(turn: Turn, prompt: str | Sequence[int], server: str) -> Json:
    """The request to go on with a text, or its tokens.

    Raises:
        InvalidRequest: the server cannot do what is asked.
    """
    sampling = _sampling(turn.sampling, server)
    if sampling.pop("logprobs", False):
        sampling["logprobs"] = sampling.pop("top_logprobs")  # Text completions' one field for both.
    body: Json = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling,
        "max_tokens": turn.limits.max_output_tokens,
    }
    _check_known(body, server)
    return body


def _check_known(body: Json, server: str) -> None:
    for name in UNKNOWN_TO.get(server, ()):
        if name in body:
            raise InvalidRequest(
                f"This model's server, {server}, takes no '{name}'",
                param=name,
                code="unsupported_parameter",
            )


def _messages(turn: Turn, output: Sequence[Item], step: Generate) -> list[Json]:
    messages = new_messages(
        turn.instructions,
        (*turn.history, *turn.input, *output),
        open_sealed=lambda text: text,  # Intake has opened what was sealed.
        names=offered_names(turn.tools.offers),
        starts=step.starts,
        content_of=content_of,
    )
    asked = max((n for n, one in enumerate(messages) if one["role"] == "user"), default=-1)
    return [_chat_message(one, is_new=n > asked) for n, one in enumerate(messages)]


def _chat_message(message: Mapping[str, Any], *, is_new: bool) -> Json:
    """A message as servers take it; thoughts of earlier answers are not shown again."""
    left_out = {"name"} if is_new else {"name", "reasoning_content"}
    kept = {key: value for key, value in message.items() if key not in left_out}
    if kept["role"] == "developer":
        kept["role"] = "system"  # Known to all servers.
    return kept


def content_of(parts: Iterable[Part]) -> str | list[Json]:
    """The content of a message: text, or parts if there are pictures.

    Raises:
        InvalidRequest: there is a part that chat completions have no form for.
    """
    parts = tuple(parts)
    if not any(isinstance(part, ImagePart) and part.image_url for part in parts):
        return text_of(parts)
    return [_part(part) for part in parts]


def _part(part: Part) -> Json:
    if isinstance(part, ImagePart) and part.image_url:
        return {"type": "image_url", "image_url": {"url": part.image_url, "detail": part.detail}}
    return {"type": "text", "text": text_of((part,))}


def _tools(turn: Turn, step: Generate) -> Json:
    offers = turn.tools.callable_offers()
    if not offers:
        return {}
    # A call that was forced has been made by now; the model may answer.
    choice = turn.tools.choice if step.number == 0 else ToolChoice()
    return {
        "tools": [_tool(offer) for offer in offers],
        "tool_choice": _choice(choice),
        "parallel_tool_calls": turn.tools.parallel,
    }


def _tool(offer: Offer) -> Json:
    definition = tool_definition(offer)
    if isinstance(offer.tool, FunctionTool) and offer.tool.strict is not None:
        definition["function"]["strict"] = offer.tool.strict
    return definition


def _choice(choice: ToolChoice) -> str | Json:
    names = choice.names or frozenset()
    if choice.mode == "required" and len(names) == 1:
        return {"type": "function", "function": {"name": next(iter(names))}}
    return choice.mode  # Of several names, only these tools are offered at all.


def _sampling(sampling: Sampling, server: str) -> Json:
    keep_stop = "no_stop_trim" if server == SGLANG else "include_stop_str_in_output"
    fields: Json = {
        name: getattr(sampling, name)
        for name in (
            *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
            *("repetition_penalty", "min_tokens", "seed"),
        )
        if getattr(sampling, name) is not None
    }
    said: Json = {
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        keep_stop: sampling.include_stop,
        "ignore_eos": sampling.ignore_eos,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()},
    }
    fields |= {name: value for name, value in said.items() if value}
    if sampling.keep_special_tokens:
        fields["skip_special_tokens"] = False
    if sampling.logprobs is not None:
        fields |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    return fields


def _template_fields(kwargs: Mapping[str, Any]) -> Json:
    """The effort by its own name; the rest is for the worker's template."""
    rest = {name: value for name, value in kwargs.items() if name != "reasoning_effort"}
    fields: Json = {"chat_template_kwargs": rest} if rest else {}
    if "reasoning_effort" in kwargs:
        fields["reasoning_effort"] = kwargs["reasoning_effort"]
    return fields


def _response_format(constraint: Constraint) -> Json:
    if not isinstance(constraint, JsonSchema):
        raise InvalidRequest("This model's server takes no constraint but a JSON schema")
    schema = json.loads(constraint.schema)
    if schema == ANY_OBJECT:
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
