"""Answers of tools as text, and arguments of models as values."""

import json
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
            "[resource file:///a]\ninside",
        ),
        (
            EmbeddedResource(resource=BlobResourceContents(uri="file:///a", blob="AAA=")),
            "[resource file:///a, application/octet-stream, 2 bytes]",
        ),
    ],
)
def test_every_kind_of_block_says_something(block: ContentBlock, said: str) -> None:
    assert output(block) == said


PICTURE = ImageContent(data="iVBORw0KGgo=", mime_type="image/png")
PICTURE_BLOCK = {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}
PICTURE_BYTES = len(json.dumps(PICTURE_BLOCK))
KEPT: list[tuple[ContentBlock, dict[str, Any]]] = [
    (PICTURE, PICTURE_BLOCK),
    (
        AudioContent(data="AAAA", mime_type="audio/wav"),
        {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"},
    ),
    (
        ResourceLink(uri="file:///a", name="a", mime_type="text/plain"),
        {"type": "resource_link", "uri": "file:///a", "name": "a", "mimeType": "text/plain"},
    ),
    (
        EmbeddedResource(
            resource=TextResourceContents(uri="file:///a", text="inside", _meta={"trace": "1"}),
            _meta={"trace": "2"},
        ),
        {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
    ),
    (
        EmbeddedResource(resource=BlobResourceContents(uri="file:///a", blob="AAA=")),
        {"type": "resource", "resource": {"uri": "file:///a", "blob": "AAA="}},
    ),
]


@pytest.mark.parametrize(("block", "kept"), KEPT)
def test_what_is_no_plain_text_is_kept_beside_it(block: ContentBlock, kept: dict[str, Any]) -> None:
    answer = CallToolResult(content=[text("before"), block, text("after")])
    assert read_result(answer, 1_000_000).content == (kept,)


def test_what_an_error_shows_is_kept_too() -> None:
    answer = CallToolResult(content=[text("look here"), PICTURE], is_error=True)
    result = read_result(answer, 1_000_000)
    assert result.content == (PICTURE_BLOCK,)
    assert result.error is not None
    assert result.error.message == "look here\n[image image/png, 8 bytes]"


LINE = "[image image/png, 8 bytes]"
LOST = "[image image/png, 8 bytes, not kept: too large]"


@pytest.mark.parametrize(
    ("room", "output", "kept"),
    [
        (2 * PICTURE_BYTES, f"{LINE}\n{LINE}", 2),
        (2 * PICTURE_BYTES - 1, f"{LINE}\n{LOST}", 1),
        (PICTURE_BYTES, f"{LINE}\n{LOST}", 1),
        (PICTURE_BYTES - 1, f"{LOST}\n{LOST}", 0),
    ],
)
def test_what_does_not_fit_is_named_and_marked(room: int, output: str, kept: int) -> None:
    answer = CallToolResult(content=[PICTURE, PICTURE])
    result = read_result(answer, len(f"{LINE}\n{LINE}") + room)
    assert result == ToolResult(output=output, content=(PICTURE_BLOCK,) * kept)


def test_a_small_block_behind_a_large_one_is_kept() -> None:
    large = ImageContent(data="A" * 4000, mime_type="image/png")
    result = read_result(CallToolResult(content=[large, PICTURE]), 1000)
    assert result.content == (PICTURE_BLOCK,)


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
