"""Answers of tools as text, and arguments of models as values."""

from typing import Any

import pytest
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from smg.items import ToolError
from smg.mcp.results import read_arguments, read_result, truncate
from smg.turn import ToolResult


def text(said: str) -> TextContent:
    return TextContent(text=said)


def output(*blocks: ContentBlock, structured: Any = None) -> str | None:
    answer = CallToolResult(content=list(blocks), structured_content=structured)
    return read_result(answer, 1_000_000).output


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (text("hello"), "hello"),
        (ImageContent(data="iVBORw0KGgo=", mime_type="image/png"), "[image image/png, 8 bytes]"),
        (AudioContent(data="AAAA", mime_type="audio/wav"), "[audio audio/wav, 3 bytes]"),
        (ResourceLink(uri="file:///a", name="a"), "[resource file:///a, a]"),
        (
            EmbeddedResource(resource=TextResourceContents(uri="file:///a", text="inside")),
            "inside",
        ),
        (
            EmbeddedResource(resource=BlobResourceContents(uri="file:///a", blob="AAA=")),
            "[resource file:///a, application/octet-stream, 2 bytes]",
        ),
    ],
)
def test_every_kind_of_block_says_something(block: ContentBlock, said: str) -> None:
    assert output(block) == said


def test_blocks_are_joined_by_line_ends() -> None:
    assert output(text("a"), text("b")) == "a\nb"


@pytest.mark.parametrize(
    ("blocks", "structured", "said"),
    [
        ([], {"a": 1}, '{"a": 1}'),
        ([], {"a": "ä"}, '{"a": "ä"}'),
        (['{"a":1}'], {"a": 1}, '{"a":1}'),
        (["3"], {"result": 3}, "3"),
        (["hi"], {"result": "hi"}, "hi"),
        (["1", "2"], {"result": [1, 2]}, "1\n2"),
        (["two rows"], {"rows": [1, 2]}, 'two rows\n{"rows": [1, 2]}'),
        ([], None, ""),
    ],
)
def test_structured_content_is_told_once(blocks: list[str], structured: Any, said: str) -> None:
    assert output(*map(text, blocks), structured=structured) == said


def test_an_answer_that_says_it_is_an_error_is_one() -> None:
    answer = CallToolResult(content=[text("no such file")], is_error=True)
    assert read_result(answer, 100) == ToolResult(
        error=ToolError(kind="mcp_tool_execution_error", message="no such file")
    )


def test_an_error_without_words_gets_some() -> None:
    error = read_result(CallToolResult(content=[], is_error=True), 100).error
    assert error is not None
    assert error.message == "The tool failed"


@pytest.mark.parametrize(
    ("said", "limit", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc... [truncated: 3 of 4 bytes shown]"),
        ("aäb", 2, "a... [truncated: 1 of 4 bytes shown]"),
        ("aäb", 3, "aä... [truncated: 3 of 4 bytes shown]"),
        ("🔎🔎", 7, "🔎... [truncated: 4 of 8 bytes shown]"),
    ],
)
def test_text_is_cut_between_characters(said: str, limit: int, shown: str) -> None:
    assert truncate(said, limit) == shown


def test_an_error_is_cut_too() -> None:
    answer = CallToolResult(content=[text("x" * 100)], is_error=True)
    error = read_result(answer, 10).error
    assert error is not None
    assert error.message == "x" * 10 + "... [truncated: 10 of 100 bytes shown]"


def test_arguments_are_read() -> None:
    assert read_arguments(' {"a": [1, "ä"]} ') == {"a": [1, "ä"]}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1]", "they are a JSON array"),
        ("null", "they are a JSON null"),
        ('{"a": Infinity}', "Infinity is not JSON"),
        ('{"a": "\\udc00"}', "half a surrogate pair"),
        ('{"a":' * 50_000, "recursion"),
    ],
)
def test_arguments_that_are_none_are_explained(said: str, why: str) -> None:
    result = read_arguments(said)
    assert isinstance(result, ToolResult)
    assert result.error is not None
    assert why in result.error.message
    assert result.error.kind == "mcp_protocol_error"
