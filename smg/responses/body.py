"""The response object: what was asked, as it is echoed, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smg.errors import GatewayError
from smg.events import Usage
from smg.item_json import to_wire
from smg.items import Item

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """The part of a response that is known when the turn begins: its id and every echo."""

    fields: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The response's id."""
        return str(self.fields["id"])

    def body(
        self,
        status: str,
        *,
        output: Sequence[Item] = (),
        usage: Usage | None = None,
        error: GatewayError | None = None,
        reason: str | None = None,
        completed_at: int | None = None,
    ) -> Json:
        """The whole object at one moment: all keys, null where there is nothing."""
        return {
            **self.fields,
            "status": status,
            "completed_at": completed_at,
            "error": None if error is None else error_json(error),
            "incomplete_details": None if reason is None else {"reason": reason},
            "output": [to_wire(item) for item in output],
            "usage": None if usage is None else usage_json(usage),
        }


def usage_json(usage: Usage) -> Json:
    """Token counts in the Responses API's words."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


FAILURE_CODES = frozenset(
    {
        "server_error",
        "rate_limit_exceeded",
        "invalid_prompt",
        "context_length_exceeded",
        "gateway_restarted",
        "recovery_limit",
    }
)
"""What clients know, and two words of our own; `context_length_exceeded` makes Codex compact."""


def error_json(error: GatewayError) -> Json:
    """Why a response failed. Type and param are there for clients that insist on them."""
    code = error.code if error.code in FAILURE_CODES else "server_error"
    return {"code": code, "message": error.message, "type": error.type, "param": error.param}
