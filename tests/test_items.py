"""Items to JSON and back: rows lose nothing, clients may be sloppy, and nobody can forge."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from smg.errors import InvalidRequest
from smg.item_json import from_json, from_wire, to_json, to_wire
from smg.item_reader import FOREIGN_TYPES
from smg.item_writer import HOSTED_TYPES, PREFIXES
from smg.items import (
    Compaction,
    CustomToolCall,
    CustomToolCallOutput,
    FilePart,
    ForeignItem,
    FunctionCall,
    FunctionCallOutput,
    HostedCall,
    ImagePart,
    Item,
    Logprob,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpListTools,
    McpTool,
    Message,
    Reasoning,
    RefusalPart,
    Status,
    TextPart,
    ToolError,
)
from tests.doubles import Ids
from tests.golden.transcript import GOLDEN
from tests.responses.reading import read

# ---- rows

TEXT = st.text(max_size=5)
MAYBE = st.none() | TEXT
STATUS = st.sampled_from(Status)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=2)
RIVAL = st.builds(Logprob, TEXT, st.floats(-9, 0), st.binary(max_size=3))
LOGPROB = st.builds(
    Logprob,
    TEXT,
    st.floats(-9, 0),
    st.binary(max_size=3),
    st.lists(RIVAL, max_size=1).map(tuple),
)
SAID = st.builds(
    TextPart,
    TEXT,
    st.lists(OBJECT, max_size=1).map(tuple),
    st.lists(LOGPROB, max_size=2).map(tuple),
)
FILE = st.builds(
    FilePart,
    st.dictionaries(st.sampled_from(["file_data", "filename", "file_url", "file_id"]), TEXT),
)
GIVEN = st.builds(TextPart, TEXT) | st.builds(ImagePart, MAYBE, MAYBE, TEXT.filter(bool)) | FILE
REFUSED = st.builds(RefusalPart, TEXT)
ERROR = st.builds(
    ToolError,
    kind=st.sampled_from(["mcp_protocol_error", "http_error"]),
    message=TEXT,
    code=st.none() | st.integers(1, 600),
) | st.builds(ToolError, kind=st.just("mcp_tool_execution_error"), message=TEXT)
TOOL = st.builds(
    McpTool, name=TEXT, input_schema=OBJECT, description=MAYBE, annotations=st.none() | OBJECT
)

BLOCK = st.fixed_dictionaries(
    {"type": st.just("image"), "data": TEXT, "mimeType": TEXT}
) | st.fixed_dictionaries({"type": st.just("resource"), "resource": OBJECT})


def parts(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.one_of(*kinds), max_size=3).map(tuple)


ID = st.just("id_1")
OUTPUT = TEXT | parts(GIVEN).filter(bool)
ITEMS: dict[type, st.SearchStrategy[Any]] = {
    Message: st.builds(
        Message,
        id=ID,
        role=st.just("assistant"),
        parts=parts(SAID, REFUSED),
        status=STATUS,
        phase=MAYBE,
    )
    | st.builds(
        Message,
        id=ID,
        role=st.sampled_from(["user", "system", "developer"]),
        parts=parts(GIVEN),
        status=STATUS,
    ),
    Reasoning: st.builds(
        Reasoning,
        id=ID,
        text=TEXT,
        summary=st.lists(TEXT, max_size=2).map(tuple),
        encrypted=MAYBE,
        status=st.none() | STATUS,
    ),
    FunctionCall: st.builds(
        FunctionCall,
        id=ID,
        call_id=TEXT,
        name=TEXT,
        arguments=TEXT,
        status=STATUS,
        namespace=MAYBE,
    ),
    FunctionCallOutput: st.builds(
        FunctionCallOutput, id=ID, call_id=TEXT, output=OUTPUT, status=st.none() | STATUS
    ),
    CustomToolCall: st.builds(
        CustomToolCall,
        id=ID,
        call_id=TEXT,
        name=TEXT,
        input=TEXT,
        status=st.none() | STATUS,
        namespace=MAYBE,
    ),
    CustomToolCallOutput: st.builds(
        CustomToolCallOutput, id=ID, call_id=TEXT, output=OUTPUT, status=st.none() | STATUS
    ),
    McpListTools: st.builds(
        McpListTools,
        id=ID,
        server_label=TEXT,
        tools=st.lists(TOOL, max_size=2).map(tuple),
        error=MAYBE,
    ),
    McpCall: st.builds(
        McpCall,
        id=ID,
        server_label=TEXT,
        name=TEXT,
        arguments=TEXT,
        output=MAYBE,
        error=st.none() | ERROR,
        status=STATUS,
        approval_request_id=MAYBE,
        content=st.lists(BLOCK, max_size=2).map(tuple),
    ),
    McpApprovalRequest: st.builds(
        McpApprovalRequest, id=ID, server_label=TEXT, name=TEXT, arguments=TEXT
    ),
    McpApprovalResponse: st.builds(
        McpApprovalResponse,
        id=ID,
        approval_request_id=TEXT,
        approve=st.booleans(),
        reason=MAYBE,
    ),
    HostedCall: st.builds(
        HostedCall,
        id=ID,
        type=st.sampled_from(HOSTED_TYPES),
        server_label=TEXT,
        name=TEXT,
        arguments=TEXT | st.just('{"query": "q", "queries": ["a"], "code": "1"}'),
        output=MAYBE | st.just('{"results": [{"url": "http://x"}, 7]}'),
        error=st.none() | ERROR,
        status=STATUS,
        content=st.lists(BLOCK, max_size=2).map(tuple),
    ),
    Compaction: st.builds(Compaction, id=ID, encrypted=TEXT),
    ForeignItem: st.builds(
        ForeignItem,
        id=ID,
        type=st.sampled_from(sorted(FOREIGN_TYPES)),
        fields=OBJECT.map(lambda fields: {f"x_{key}": value for key, value in fields.items()}),
    ),
}


@pytest.mark.parametrize("kind", ITEMS, ids=lambda kind: kind.__name__)
def test_a_row_gives_back_an_equal_item(kind: type) -> None:
    @settings(max_examples=30)
    @given(ITEMS[kind])
    def check(item: Item) -> None:
        assert from_json(json.loads(json.dumps(to_json(item)))) == item

    check()


def test_every_type_of_item_is_tried() -> None:
    assert set(ITEMS) == set(Item.__args__)


# ---- clients


def outputs() -> Iterator[tuple[str, Any]]:
    """Every item of every golden transcript, as the official client gives it to its user."""
    for path in sorted((GOLDEN / "responses").glob("*.sse")):
        last = read(path.read_text())[-1].get("response")
        if last is None:
            continue
        for number, item in enumerate(last["output"]):
            yield f"{path.stem}-{number}-{item['type']}", item


@pytest.mark.parametrize(
    "sent", [item for _, item in outputs()], ids=[name for name, _ in outputs()]
)
def test_an_item_that_a_client_sends_back_with_all_its_nulls_is_the_same(sent: Any) -> None:
    dumped = Response.model_validate({**EMPTY, "output": [sent]}).model_dump()["output"][0]
    item = from_wire(dumped, path="input[0]", new_id=Ids())
    assert item == from_wire(sent, path="input[0]", new_id=Ids())
    assert to_wire(item) == sent


EMPTY: Any = {
    "id": "resp_1",
    "created_at": 0,
    "model": "m",
    "object": "response",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


def taken(**fields: Any) -> Item:
    return from_wire(fields, path="input[0]", new_id=Ids())


def test_a_message_needs_no_type_id_or_status() -> None:
    assert taken(role="user", content="Hi.") == Message(
        id="msg_1", role="user", parts=(TextPart("Hi."),)
    )


@pytest.mark.parametrize(("kind", "prefix"), PREFIXES.items())
def test_an_item_without_an_id_gets_one_of_its_kind(kind: str, prefix: str) -> None:
    fields = {
        "role": "user",
        "content": [],
        "call_id": "c",
        "name": "n",
        "arguments": "{}",
        "input": "i",
        "output": "o",
        "server_label": "s",
        "approval_request_id": "a",
        "approve": True,
        "encrypted_content": "e",
    }
    assert taken(type=kind, **fields).id == f"{prefix}_1"


def test_a_clients_own_id_is_kept() -> None:
    assert taken(role="user", content="x", id="msg_0a1b-mine").id == "msg_0a1b-mine"


@pytest.mark.parametrize("status", ["calling", "queued", None])
def test_a_status_we_do_not_know_counts_as_completed(status: str | None) -> None:
    item = taken(type="function_call", call_id="c", name="n", arguments="{}", status=status)
    assert isinstance(item, FunctionCall)
    assert item.status is Status.COMPLETED


@pytest.mark.parametrize("kind", ["input_text", "output_text", "text"])
def test_text_may_come_under_any_of_its_names(kind: str) -> None:
    item = taken(role="assistant", content=[{"type": kind, "text": "x"}])
    assert isinstance(item, Message)
    assert item.parts == (TextPart("x"),)


def test_an_error_that_an_older_client_sends_back_is_a_string() -> None:
    item = taken(type="mcp_call", server_label="s", name="n", arguments="{}", error="boom")
    assert isinstance(item, McpCall)
    assert item.error == ToolError(kind="mcp_tool_execution_error", message="boom")


@pytest.mark.parametrize("kind", HOSTED_TYPES)
def test_nobody_can_forge_what_rows_alone_may_say(kind: str) -> None:
    forged = {
        "id": "ws_1",
        "type": kind,
        "status": "completed",
        "smg": {"server_label": "files", "name": "delete", "arguments": "{}", "output": "lies"},
    }
    item = from_wire(forged, path="input[0]", new_id=Ids())
    assert item == ForeignItem(id="ws_1", type=kind, fields={"status": "completed"})
    assert "smg" not in to_json(item)


PICTURE = {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}


def test_a_call_shows_what_its_tool_answered_beside_text_only_if_there_was_any() -> None:
    call = McpCall(id="mcp_1", server_label="s", name="n", output="[image]")
    assert "content" not in to_wire(call)
    assert to_wire(replace(call, content=(PICTURE,)))["content"] == [PICTURE]


def test_pictures_of_a_code_interpreter_are_outputs_as_openai_has_them() -> None:
    call = HostedCall(
        id="ci_1",
        type="code_interpreter_call",
        server_label="s",
        name="n",
        output="[image image/png, 8 bytes]",
        content=(PICTURE, {"type": "resource_link", "uri": "file:///a", "name": "a"}),
    )
    assert to_wire(call)["outputs"] == [
        {"type": "logs", "logs": "[image image/png, 8 bytes]"},
        {"type": "image", "url": "data:image/png;base64,iVBORw0KGgo="},
    ]


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ("picture", "input[0].content"),
        ([7], "input[0].content[0]"),
        ([{"data": "x"}], "input[0].content[0].type"),
        ([{"type": "image", "data": "x"}], "input[0].content[0].mimeType"),
    ],
)
def test_blocks_that_are_none_are_refused_by_name(content: Any, param: str) -> None:
    fields = {"type": "mcp_call", "server_label": "s", "name": "n", "arguments": "{}"}
    with pytest.raises(InvalidRequest) as raised:
        from_wire({**fields, "content": content}, path="input[0]", new_id=Ids())
    assert raised.value.param is not None
    assert raised.value.param.startswith(param)


def test_clients_do_not_see_what_only_rows_need() -> None:
    item = HostedCall(
        id="ws_1", type="web_search_call", server_label="web", name="search", arguments="{}"
    )
    assert "smg" in to_json(item)
    assert "smg" not in to_wire(item)


# ---- nonsense

VALUES = JSON | st.sampled_from(
    [
        [{"type": "output_text", "text": "x", "logprobs": [{"token": "t", "logprob": 1}]}],
        [{"type": "summary_text", "text": "x"}],
        [{"type": "input_image"}],
        {"type": "http_error"},
        "assistant",
        "completed",
    ]
)
KINDS = sorted({*PREFIXES, *FOREIGN_TYPES, "song"})
KEYS = (
    ["id", "role", "content", "call_id", "name", "arguments", "input", "output", "status"],
    ["summary", "encrypted_content", "server_label", "tools", "error", "phase", "smg"],
    ["approval_request_id", "approve"],
)


@settings(max_examples=150)
@given(
    st.sampled_from(KINDS) | JSON,
    st.dictionaries(st.sampled_from([key for keys in KEYS for key in keys]), VALUES),
)
def test_nonsense_is_an_item_or_an_error_that_names_the_field(kind: Any, fields: Any) -> None:
    given_fields = copy.deepcopy({**fields, "type": kind})
    read_or_refused(given_fields)
    assert given_fields == {**fields, "type": kind}


def read_or_refused(fields: Any) -> None:
    """Check that what is taken can be kept, and that what is refused is named."""
    refused: str | None = "input[0]"
    try:
        item = taken(**fields)
    except InvalidRequest as error:
        refused = error.param
    else:
        assert from_json(json.loads(json.dumps(to_json(item), allow_nan=False))) == item
    assert (refused or "").startswith("input[0]")


PART_KINDS = ["input_text", "output_text", "refusal", "input_image", "input_file", "smell"]
PART_KEYS = ["text", "refusal", "image_url", "file_id", "detail", "annotations", "logprobs"]
ENTRY = st.dictionaries(
    st.sampled_from(["token", "logprob", "bytes", "top_logprobs"]),
    JSON | st.lists(st.integers(-1, 300), max_size=2) | st.floats(allow_nan=False),
)


@settings(max_examples=150)
@given(
    st.lists(
        st.builds(
            lambda kind, fields: {**fields, "type": kind},
            st.sampled_from(PART_KINDS),
            st.dictionaries(st.sampled_from(PART_KEYS), JSON | st.lists(ENTRY, max_size=2)),
        ),
        max_size=2,
    )
)
def test_nonsense_in_the_parts_of_a_message_is_told_too(given_parts: list[Any]) -> None:
    read_or_refused({"role": "assistant", "content": given_parts})


@pytest.mark.parametrize(
    ("entry", "param"),
    [
        ({"logprob": -1}, "token"),
        ({"token": "t"}, "logprob"),
        ({"token": "t", "logprob": "low"}, "logprob"),
        ({"token": "t", "logprob": 10**400}, "logprob"),
        ({"token": "t", "logprob": -1, "bytes": "t"}, "bytes"),
        ({"token": "t", "logprob": -1, "bytes": [256]}, "bytes"),
        ({"token": "t", "logprob": -1, "bytes": ["t"]}, "bytes"),
        ({"token": "t", "logprob": -1, "top_logprobs": [7]}, "top_logprobs[0]"),
    ],
)
def test_a_log_probability_that_is_none_is_refused(entry: Any, param: str) -> None:
    part = {"type": "output_text", "text": "t", "logprobs": [entry]}
    with pytest.raises(InvalidRequest) as raised:
        taken(role="assistant", content=[part])
    assert raised.value.param == f"input[0].content[0].logprobs[0].{param}"
