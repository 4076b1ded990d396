"""Errors to HTTP: OpenAI's envelope everywhere, and the same words for the same mistakes."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from smg.errors import GatewayError, InvalidRequest, NotFound
from smg.web.gate import Busy

_CODES = {
    "missing": "missing_required_parameter",
    "greater_than_equal": "integer_below_min_value",
    "greater_than": "integer_below_min_value",
    "less_than_equal": "integer_above_max_value",
    "less_than": "integer_above_max_value",
    "too_long": "array_above_max_length",
    "too_short": "array_below_min_length",
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
    "literal_error": "invalid_value",
    "finite_number": "invalid_value",
}
"""pydantic's error types to OpenAI's codes; the rest are wrong types."""


def invalid_request(error: ValidationError) -> InvalidRequest:
    """The first thing wrong with a body, by the path of its field."""
    mistakes = error.errors(include_url=False)
    field = mistakes[0]["loc"][:1]
    # A union tells the mistakes of all its members: the one that got furthest was meant.
    mistake = max((m for m in mistakes if m["loc"][:1] == field), key=lambda m: _depth(m["loc"]))
    param = _param(mistake["loc"])
    kind = mistake["type"]
    if kind == "missing":
        message = f"Missing required parameter: '{param}'."
    else:
        message = f"Invalid '{param}': {mistake['msg'][0].lower()}{mistake['msg'][1:]}."
    code = _CODES.get(kind, "invalid_type")
    if code.startswith("integer_") and _is_decimal(mistake.get("ctx", {})):
        code = code.replace("integer_", "decimal_")
    return InvalidRequest(message, param=param, code=code)


def _is_decimal(bounds: Mapping[str, Any]) -> bool:
    """Whether the field takes decimals: its bound is one, though 3 may have been sent."""
    return any(isinstance(bound, float) for bound in bounds.values())


def _param(location: tuple[int | str, ...]) -> str:
    """A pydantic location as clients write it: `input[2].role`."""
    path = ""
    for part in _steps(location):
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path


def _depth(location: tuple[int | str, ...]) -> int:
    return len(_steps(location))


def _steps(location: tuple[int | str, ...]) -> list[int | str]:
    """A location without the names of union members, which clients do not know."""
    return [part for part in location if isinstance(part, int) or not _is_member(part)]


def _is_member(part: str) -> bool:
    return part[:1].isupper() or "[" in part or part in _UNION_MEMBERS


_UNION_MEMBERS = frozenset({"str", "int", "float", "bool", "constrained-str", "list", "dict"})


def response_for(error: GatewayError) -> JSONResponse:
    """The error as a client reads it; 429 and 503 say when to come back."""
    seconds = retry_after(error)
    headers = {"retry-after": str(seconds)} if seconds else None
    return JSONResponse(error.envelope(), status_code=error.status, headers=headers)


def retry_after(error: GatewayError) -> int | None:
    """In how many seconds a client may come again; `None`: it need not."""
    if isinstance(error, Busy):
        return error.retry_after
    return 1 if error.status in (429, 503) else None


async def on_gateway_error(_request: Request, error: Exception) -> JSONResponse:
    """Handler for errors that were meant for the client."""
    assert isinstance(error, GatewayError)
    return response_for(error)


async def on_bad_parameter(_request: Request, error: Exception) -> JSONResponse:
    """Handler for query and path parameters of the wrong type."""
    assert isinstance(error, RequestValidationError)
    mistake = error.errors()[0]
    name, message = mistake["loc"][-1], mistake["msg"]
    message = f"Invalid '{name}': {message[0].lower()}{message[1:]}."
    return response_for(InvalidRequest(message, param=name, code="invalid_type"))


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    """Handler for unknown paths and methods."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return response_for(NotFound(f"Unknown path: {_request.method} {_request.url.path}"))
    body: dict[str, Any] = InvalidRequest(str(error.detail)).envelope()
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)
