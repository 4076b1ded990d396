"""An MCP server to try things with: a calculator and a clock.

    python -m smg.testing.tools                over standard input and output
    python -m smg.testing.tools --http PORT    over HTTP; 0 takes a free port; prints its URL

Uses the official SDK's server and nothing of the gateway.
"""

import argparse
import ast
import asyncio
import math
import operator
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import uvicorn
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

Number = int | float

# Enough for sums, and too little to keep a machine busy.
_MAX_EXPRESSION = 200
_MAX_BITS = 4096


def _power(base: Number, exponent: Number) -> Number:
    """A power whose size is known before it is computed."""
    if isinstance(base, int) and base.bit_length() * abs(exponent) > _MAX_BITS:
        raise ValueError("the power is too large")
    result = base**exponent
    if isinstance(result, complex):
        raise ValueError("the power is not a real number")  # noqa: TRY004 - A value, not a type.
    return result


_BINARY: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: Mapping[str, Callable[..., Number]] = {
    "abs": abs,
    "max": max,
    "min": min,
    "round": lambda value, digits=0: round(value, max(-20, min(20, digits))),
    "sqrt": math.sqrt,
}


def evaluate(expression: str) -> Number:
    """The value of an arithmetic expression; names, strings and everything else are refused.

    Raises:
        ValueError: it is no such expression, or it or its value is too large.
        ArithmeticError: it has no value, as 1 / 0.
    """
    if len(expression) > _MAX_EXPRESSION:
        raise ValueError(f"the expression is longer than {_MAX_EXPRESSION} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"not an expression: {expression}") from error
    return _value(tree.body)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*map(_value, args)))
    raise ValueError(f"not allowed here: {ast.unparse(node)}")


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ValueError("the value is too large")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("the value is not finite")
    return value


def new_server(*, misbehave: bool = False) -> MCPServer:
    """The server, with its worse half if asked for."""
    server = MCPServer("smg-example", log_level="WARNING")

    @server.tool()
    def add(a: Number, b: Number) -> Number:
        """Add two numbers."""
        return a + b

    @server.tool()
    def multiply(a: Number, b: Number) -> Number:
        """Multiply two numbers."""
        return a * b

    @server.tool()
    def calculate(expression: str) -> Number:
        """Evaluate an arithmetic expression: + - * / // % **, abs, max, min, round, sqrt."""
        try:
            return evaluate(expression)
        except (ValueError, ArithmeticError, TypeError) as error:
            raise ToolError(f"Cannot calculate: {error}") from error

    @server.tool()
    def current_time(timezone: str = "UTC") -> str:
        """Tell the date and time in a time zone such as Europe/Berlin, or its city."""
        try:
            zone = ZoneInfo(_zone_of(timezone))
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ToolError(f"There is no time zone {timezone!r}") from error
        return datetime.now(zone).isoformat(timespec="seconds")

    if misbehave:
        _Misbehaviour().join(server)
    return server


def _zone_of(place: str) -> str:
    """The time zone of a city that has one; any other name as it is."""
    city = "/" + place.strip().replace(" ", "_").casefold()
    zones = sorted(zone for zone in available_timezones() if zone.casefold().endswith(city))
    return zones[0] if zones else place


@dataclass(slots=True)
class _Misbehaviour:
    """Tools for tests of those who call tools."""

    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    met: dict[str, tuple[asyncio.Event, int]] = field(default_factory=dict)

    def join(self, server: MCPServer) -> None:
        """Offer them."""
        waiting = (self.hang, self.hang_began, self.hang_cancelled, self.slow, self.meet)
        answering = (self.flood, self.image, self.structured, self.environment, self.pid)
        for tool in (self.boom, self.crash, *waiting, *answering):
            server.add_tool(tool)

        @server.tool()
        async def grow(context: Context) -> str:
            """Offer one more tool, and say so."""
            server.add_tool(self.boom, name="grown")
            await context.notify_tools_changed()
            return "grown"

    def boom(self) -> str:
        """Fail."""
        raise ToolError("boom")

    def crash(self) -> str:
        """End the process in the middle of the call."""
        sys.stderr.write("crashing as told\n")
        sys.stderr.flush()
        os._exit(3)

    async def hang(self) -> str:
        """Never answer."""
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return "never"

    async def hang_began(self) -> str:
        """Answer when a call of `hang` is here."""
        await self.hanging.wait()
        return "hanging"

    async def hang_cancelled(self) -> str:
        """Answer when a call of `hang` was cancelled."""
        await self.cancelled.wait()
        return "cancelled"

    async def slow(self, seconds: float) -> str:
        """Take some time."""
        await asyncio.sleep(seconds)
        return "done"

    async def meet(self, place: str, people: int) -> str:
        """Answer when as many calls as there are people have come to one place."""
        everybody, present = self.met.get(place, (asyncio.Event(), 0))
        self.met[place] = (everybody, present + 1)
        if present + 1 == people:
            everybody.set()
        await everybody.wait()
        return "met"

    def flood(self, size: int) -> str:
        """Answer with so many bytes."""
        return "x" * size

    def image(self) -> Image:
        """Answer with a picture."""
        return Image(data=b"\x89PNG\r\n\x1a\n", format="png")

    def structured(self) -> dict[str, Number]:
        """Answer with structured content."""
        return {"celsius": 21.5}

    def environment(self) -> dict[str, str]:
        """Tell the variables this process was given."""
        return dict(os.environ)

    def pid(self) -> int:
        """Tell the number of this process."""
        return os.getpid()


def _serve_http(server: MCPServer, port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp\n")
    sys.stdout.flush()
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the client, or somebody with a keyboard, ends it."""
    parser = argparse.ArgumentParser(prog="python -m smg.testing.tools", description=__doc__)
    parser.add_argument("--http", type=int, metavar="PORT", help="serve over HTTP")
    parser.add_argument("--misbehave", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    server = new_server(misbehave=options.misbehave)
    if options.http is None:
        server.run()
    else:
        _serve_http(server, options.http)


if __name__ == "__main__":
    main()
