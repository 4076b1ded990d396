"""The parser lab over HTTP: what a parser makes of a text, without a model."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Request

from smg.errors import InvalidRequest
from smg.lab.schema import ParseFunctionCall, ParseReasoning
from smg.lab.tools import read_tools
from smg.parsers.lab import ParsedCall, parse_function_call, parse_reasoning
from smg.parsers.registry import resolve_reasoning, resolve_tools
from smg.web.auth import OwnerOf
from smg.web.body import body_of, read_body

Json = dict[str, Any]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The endpoints, and what they work with."""

    owner_of: OwnerOf
    max_body_bytes: int

    def router(self) -> APIRouter:
        """The table of paths."""
        router = APIRouter(prefix="/parse", tags=["Parser lab"])
        calls, reasoning = body_of(ParseFunctionCall), body_of(ParseReasoning)
        router.post("/function_call", openapi_extra=calls)(self.function_call)
        router.post("/reasoning", openapi_extra=reasoning)(self.reasoning)
        return router

    async def function_call(self, request: Request) -> Json:
        """Take the calls out of a text."""
        self.owner_of(request)
        body = await read_body(request, ParseFunctionCall, self.max_body_bytes)
        parser = _known(resolve_tools, body.tool_call_parser, "tool_call_parser")
        tools = read_tools(body.tools or ())
        # In a thread: a body may be megabytes long, and others are being served.
        rest, calls = await asyncio.to_thread(parse_function_call, body.text, parser, tools)
        return {
            "remaining_text": rest,
            "tool_calls": [_shown(call) for call in calls],
            "success": True,
        }

    async def reasoning(self, request: Request) -> Json:
        """Tell the reasoning in a text from the answer."""
        self.owner_of(request)
        body = await read_body(request, ParseReasoning, self.max_body_bytes)
        parser = _known(resolve_reasoning, body.reasoning_parser, "reasoning_parser")
        answer, reasoning = await asyncio.to_thread(
            parse_reasoning, body.text, parser, body.starts_in_reasoning
        )
        return {"normal_text": answer, "reasoning_text": reasoning, "success": True}


def _known(resolve: Callable[[str], Found], name: str, param: str) -> Found:
    try:
        return resolve(name)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", param=param, code="invalid_value") from error


def _shown(call: ParsedCall) -> Json:
    return {"function": {"name": call.name, "arguments": call.arguments}}
