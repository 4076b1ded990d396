"""The calculator and the clock, called through the SDK's own client in the same process."""

from datetime import datetime, timedelta

import pytest
from mcp import Client
from mcp.types import CallToolResult, TextContent

from smg.testing.tools import evaluate, new_server


async def call(tool: str, **arguments: object) -> CallToolResult:
    async with Client(new_server()) as client:
        return await client.call_tool(tool, arguments)


def said(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("-(2 ** 10) // 3", -342),
        ("7 % 4 / 2", 1.5),
        ("sqrt(16) + max(1, 2, 3) - abs(-4)", 3.0),
        ("round(2 / 3, 2)", 0.67),
        (" 2 ", 2),
        ("round(1, -10 ** 8)", 0),  # As many digits as that would take minutes.
        ("2 ** -1", 0.5),
    ],
)
def test_an_expression_has_a_value(expression: str, value: float) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "x",
        "True",
        "'a' * 3",
        "[1]",
        "().__class__",
        "__import__('os')",
        "open('/etc/passwd')",
        "max(*[1, 2])",
        "sqrt(x=1)",
        "9 ** 9 ** 9",
        "(-8) ** 0.5",
        "1e308 * 10",
        "+".join(["1"] * 200),
        "(" * 150,
    ],
)
def test_what_is_no_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        evaluate(expression)


async def test_sums_and_products() -> None:
    assert said(await call("add", a=1, b=2)) == "3"
    assert said(await call("multiply", a=1.5, b=2)) == "3.0"
    assert said(await call("calculate", expression="2 ** 0.5")) == "1.4142135623730951"


@pytest.mark.parametrize("expression", ["1 / 0", "import os", "2 ** 99999", "max()"])
async def test_a_sum_that_cannot_be_done_is_an_error_with_a_reason(expression: str) -> None:
    result = await call("calculate", expression=expression)
    assert result.is_error
    assert "Cannot calculate: " in said(result)


@pytest.mark.parametrize("place", ["Asia/Tokyo", "Tokyo", "tokyo "])
async def test_the_clock_knows_time_zones_and_their_cities(place: str) -> None:
    told = datetime.fromisoformat(said(await call("current_time", timezone=place)))
    assert told.utcoffset() == timedelta(hours=9)


async def test_the_clock_tells_utc_unless_told_otherwise() -> None:
    default = datetime.fromisoformat(said(await call("current_time")))
    assert default.utcoffset() == timedelta(0)


@pytest.mark.parametrize("zone", ["Nowhere/Town", "", "../../etc/passwd", "/etc/passwd"])
async def test_an_unknown_time_zone_is_an_error(zone: str) -> None:
    result = await call("current_time", timezone=zone)
    assert result.is_error
    assert "There is no time zone" in said(result)
