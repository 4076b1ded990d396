"""The tables of request fields in docs/, against the schemas and against the running gateway."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from smg.chat.schema import ChatRequest
from smg.completions.schema import CompletionRequest
from smg.responses.schema import ResponsesRequest
from tests.e2e.gateway import Served
from tests.e2e.gateway import served as serve

DOCS = Path(__file__).parent.parent / "docs"
SCHEMAS: dict[type[BaseModel], tuple[str, str, dict[str, Any]]] = {
    ResponsesRequest: ("responses.md", "/responses", {"input": "Hello"}),
    ChatRequest: (
        "chat.md",
        "/chat/completions",
        {"messages": [{"role": "user", "content": "Hello"}]},
    ),
    CompletionRequest: ("chat.md", "/completions", {"prompt": "Hello"}),
}
VALUES: dict[str, Any] = {
    "metadata": {"a": "b"},
    "store": True,
}
"""What fields must be that are not text."""


def table(schema: type[BaseModel]) -> dict[str, str]:
    """What docs say becomes of each field."""
    page = (DOCS / SCHEMAS[schema][0]).read_text()
    _, _, rest = page.partition(f"<!-- fields: {schema.__name__} -->\n\n")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert len({row[0] for row in cells}) == len(cells), "a field has one row"
    return {row[0].strip("`"): row[1] for row in cells}


def rows(*outcomes: str) -> list[Any]:
    return [
        pytest.param(schema, name, id=f"{schema.__name__}-{name}")
        for schema in SCHEMAS
        for name, outcome in table(schema).items()
        if outcome in outcomes and name != "stream_options"  # Needs a stream.
    ]


@pytest.fixture(scope="module")
async def served(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(tmp_path_factory.mktemp("fields"), tools=False) as running:
        yield running


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_field_of_a_schema_has_its_row(schema: type[BaseModel]) -> None:
    told = table(schema)
    assert set(told) == set(schema.model_fields)
    assert set(told.values()) <= {"done", "echoed", "taken", "refused"}


async def ask(served: Served, schema: type[BaseModel], **fields: Any) -> tuple[int, Any]:
    _, path, usual = SCHEMAS[schema]
    answer = await served.post(path, **{**usual, **fields})
    return answer.status_code, answer.json()


@pytest.mark.parametrize(("schema", "name"), rows("refused"))
async def test_what_is_refused_names_itself(
    served: Served, schema: type[BaseModel], name: str
) -> None:
    status, body = await ask(served, schema, **{name: VALUES.get(name, "x")})
    assert (status, body["error"]["param"]) == (400, name)
    assert body["error"]["code"] == "unsupported_parameter"
    assert (await ask(served, schema, **{name: None}))[0] == 200


@pytest.mark.parametrize(("schema", "name"), rows("echoed"))
async def test_what_is_echoed_comes_back(
    served: Served, schema: type[BaseModel], name: str
) -> None:
    value = VALUES.get(name, "x")
    status, body = await ask(served, schema, **{name: value})
    assert (status, body[name]) == (200, value)


@pytest.mark.parametrize(("schema", "name"), rows("taken"))
async def test_what_is_taken_changes_nothing(
    served: Served, schema: type[BaseModel], name: str
) -> None:
    status, body = await ask(served, schema, **{name: VALUES.get(name, "x")})
    assert status == 200
    _, plain = await ask(served, schema)
    assert body.keys() == plain.keys()
    assert name not in body or body[name] == plain[name]
