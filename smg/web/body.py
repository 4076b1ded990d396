"""Request bodies: bytes to a checked pydantic object, within limits."""

import json
from functools import cache
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from smg.errors import InvalidRequest, PayloadTooLarge
from smg.web.compression import Expansion
from smg.web.errors import invalid_request
from smg.web.schema import Wire
from smg.web.weight import load_of

Body = TypeVar("Body", bound=BaseModel)

ROUTING_KEY_HEADER = "x-smg-routing-key"
MAX_DEPTH = 64
"""JSON nested deeper than this is refused: nothing a client means is."""
MAX_CONTAINERS = 100_000
"""Objects and lists in one body. Each takes a microsecond in which nobody else is answered."""
MAX_VALUES = 1_000_000
"""Values in one body: more token ids than any context has."""


async def read_body(request: Request, schema: type[Body], max_bytes: int) -> Body:
    """Read and check a JSON body.

    Raises:
        PayloadTooLarge: the body is larger than this gateway takes.
        InvalidRequest: it is no JSON object, or a field is wrong.
    """
    body = validated(parse_object(await read_bytes(request, max_bytes)), schema)
    if isinstance(body, Wire):
        body.set_routing_key(request.headers.get(ROUTING_KEY_HEADER))
    return body


def validated(fields: dict[str, Any], schema: type[Body]) -> Body:
    """A JSON object as its schema.

    Raises:
        InvalidRequest: a field is wrong; the error names it.
    """
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise invalid_request(error) from error


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The body, decompressed; refused as soon as it is known to be too large.

    Raises:
        PayloadTooLarge: it is larger than this gateway takes, as sent or when decompressed.
        UnsupportedMedia: it is encoded in a way that is not known here.
        InvalidRequest: it is not encoded as it says.
        Overloaded: others hold so much that there is no room for it now.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    encoding = ",".join(request.headers.getlist("content-encoding"))
    plain = encoding.strip().lower() in ("", "identity")
    expansion = None if plain else Expansion(encoding, max_bytes)
    load = load_of(request)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes)
        pieces.append(piece if expansion is None else expansion.feed(piece))
        load.add(len(pieces[-1]))
    if expansion is not None:
        expansion.finish()
    return b"".join(pieces)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body is larger than {max_bytes} bytes (--max-body-mib).", code="body_too_large"
    )


async def disconnected(request: Request) -> None:
    """Return when the client has gone away; call it only after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def body_of(schema: type[BaseModel]) -> dict[str, Any]:
    """The request body for OpenAPI: bodies are read by hand, so FastAPI cannot see them."""
    content = {"application/json": {"schema": _json_schema(schema)}}
    return {"requestBody": {"required": True, "content": content}}


@cache  # A third of building an application; tests build thousands.
def _json_schema(schema: type[BaseModel]) -> dict[str, Any]:
    return schema.model_json_schema()


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object from bytes.

    Raises:
        InvalidRequest: it is not UTF-8, not JSON, not an object, nested too deep, or too much.
    """
    brackets = _count(raw, b"[{")
    if brackets > MAX_CONTAINERS or raw.count(b",") > MAX_VALUES:
        _refuse_too_much(raw)
    try:
        value = json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidRequest("The body is nested too deep.", code="invalid_json") from None
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from error
    if b"\\ud" in raw or b"\\uD" in raw:
        _refuse_lone_surrogates(value)
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    if brackets > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise InvalidRequest(
            f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json"
        )
    return value


def _count(raw: bytes, letters: bytes) -> int:
    return sum(raw.count(letter) for letter in letters)


def _refuse_too_much(raw: bytes) -> None:
    """What is in strings does not count, so it is left out; that takes longer than to look."""
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    bare = b"".join(unescaped.split(b'"')[::2])
    for count, most, what in (
        (_count(bare, b"[{"), MAX_CONTAINERS, "objects and lists"),
        (bare.count(b","), MAX_VALUES, "values"),
    ):
        if count > most:
            raise InvalidRequest(f"The body holds more than {most} {what}.", code="invalid_json")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _refuse_lone_surrogates(value: Any) -> None:
    """Half a character cannot be written as UTF-8: not to the model, nor back to the client."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "The body holds a lone surrogate (half a character).", code="invalid_json"
        ) from error


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
