"""Definitions from a server that is not trusted."""

from typing import Any

import pytest
from mcp.types import Tool, ToolAnnotations

from smg.items import McpTool
from smg.mcp.definitions import Catalog, clean_text, read_tools


def tool(name: str = "t", description: str | None = None, **schema: Any) -> Tool:
    return Tool(name=name, description=description, input_schema={"type": "object"} | schema)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def test_a_definition_is_taken_as_it_is() -> None:
    listed = Tool(
        name="search",
        description="Search.\n\tWith care.",
        input_schema={"type": "object", "properties": {"q": {"type": "string"}}},
        annotations=ToolAnnotations(read_only_hint=True),
    )
    assert read_tools([listed]).tools == (
        McpTool(
            name="search",
            description="Search.\n\tWith care.",
            input_schema={"type": "object", "properties": {"q": {"type": "string"}}},
            annotations={"readOnlyHint": True},
        ),
    )


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain", "plain"),
        ("schön 検索 🔎", "schön 検索 🔎"),
        ("a\x00b\x1b[31mc\r", "ab[31mc"),
        ("safe\u202egnp.exe", "safegnp.exe"),
        ("ze\u200bro", "zero"),
        ("tag\U000e0041s", "tags"),
        ("\ue000", ""),
    ],
)
def test_characters_nobody_sees_are_taken_out(text: str, clean: str) -> None:
    assert clean_text(text) == clean


def test_hidden_text_is_taken_out_of_schemas_too() -> None:
    listed = tool(properties={"q\u200b": {"description": "the \u202equery"}})
    (read,) = read_tools([listed]).tools
    assert read.input_schema["properties"] == {"q": {"description": "the query"}}


def test_a_long_description_is_cut_with_a_mark() -> None:
    (read,) = read_tools([tool(description="x" * 1_000_000)]).tools
    mark = "... [truncated: 4096 of 1000000 characters shown]"
    assert read.description == "x" * 4096 + mark


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        (tool(""), "its name is not 1 to 128 visible characters"),
        (tool("x" * 129), "its name is not 1 to 128 visible characters"),
        (tool("t\u200b"), "its name is not 1 to 128 visible characters"),
        (tool("two words"), "its name is not 1 to 128 visible characters"),
        (tool(**nested(2000)), "nested deeper than 32 levels"),
        (tool(description_="x" * 70_000), "larger than 65536 bytes"),
        (tool(type="array"), "does not describe an object"),
        (tool(properties={"a": {"$ref": "http://x.test/s"}}), "refers to another document"),
    ],
)
def test_a_tool_that_breaks_a_limit_is_left_out_and_named(listed: Tool, reason: str) -> None:
    catalog = read_tools([tool("good"), listed])
    assert [read.name for read in catalog.tools] == ["good"]
    (line,) = catalog.left_out
    assert reason in line


def test_what_is_within_the_limits_stays() -> None:
    listed = [tool("x" * 128), tool("deep", **nested(31)), tool("loop", anyOf=[{"$ref": "#"}])]
    assert read_tools(listed).left_out == ()


def test_the_second_tool_of_one_name_is_left_out() -> None:
    catalog = read_tools([tool("t", "first"), tool("t", "second")])
    assert [read.description for read in catalog.tools] == ["first"]
    assert catalog.left_out == ("t: there are two tools of this name",)


def test_a_list_that_is_too_long_is_cut_and_counted() -> None:
    catalog = read_tools([tool(f"t{i}") for i in range(300)])
    assert len(catalog.tools) == 256
    assert catalog.left_out == ("44 tools: more than 256 in one server",)


def test_the_digest_tells_any_change_and_no_order() -> None:
    one, two = tool("one", "d"), tool("two")
    digest = read_tools([one, two]).digest
    assert read_tools([two, one]).digest == digest
    assert read_tools([one]).digest != digest
    assert read_tools([tool("one", "d\u200b"), two]).digest != digest
    assert read_tools([tool("one", "d", properties={"a": {}}), two]).digest != digest


def test_no_tools_are_a_catalog_too() -> None:
    catalog = read_tools([])
    assert catalog == Catalog((), (), catalog.digest)
