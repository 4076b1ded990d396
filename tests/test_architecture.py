"""Who may import whom: the map of the code, checked (docs/decisions/0001)."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "smg"

WORDS = {"errors", "events", "items", "turn", "json_reader", "item_json", "item_reader"} | {
    "item_writer",
    "ids",
}
"""What every layer may speak of: values, and their JSON."""

PIPES = {"engines", "tokens", "parsers"}
MIDDLE = {"agent", "model", "decode", "mcp", "storage", "workers"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "ids": set(),
    "items": set(),
    "logs": set(),
    "events": {"errors", "items"},
    "faults": {"errors"},
    "turn": {"items"},
    "json_reader": {"errors"},
    "item_writer": {"items"},
    "item_reader": {"errors", "items", "item_writer", "json_reader", "turn"},
    "item_json": {"item_reader", "item_writer"},
    "folders": set(),
    "findings": set(),
    "crowd": {"errors"},
    "places": {"folders", "settings"},
    "advice": {"findings", "settings"},
    "seal": {"errors", "folders"},
    "approve": {"errors", "settings"},
    "settings": {"errors"},
    "parsers": {"items", "turn"},
    "engines": {"errors", "events", "turn"},
    "tokens": {"errors", "items", "turn"},
    "decode": {"engines", "events", "items", "parsers", "tokens"},
    "agent": {"engines", "errors", "events", "items", "parsers", "turn"},
    "workers": {"engines", "errors"},
    "fleet": {"engines", "settings", "workers"},
    "telemetry": {"errors", "items", "tokens", "tracing", "turn", "workers"},
    "measuring": {"storage", "telemetry"},
    "tracing": {"errors"},
    "guidance": {"engines", "errors", "parsers", "tokens", "turn"},
    "model": WORDS | PIPES | {"agent", "decode", "guidance", "tracing", "workers"},
    "directory": WORDS | {"agent", "engines", "workers"},
    "upstream": WORDS | PIPES | {"agent", "workers"},
    "mcp": {"errors", "items", "turn"},
    "storage": {"errors", "findings", "folders", "items", "item_json"},
    "web": WORDS | {"storage"},
    "retention": {"errors", "storage"},
    "responses": WORDS | {"agent", "faults", "seal", "storage", "web"},
    "conversations": WORDS | {"storage", "web"},
    "choices": WORDS | {"agent", "web"},
    "chat": WORDS | {"agent", "choices", "web"},
    "completions": WORDS | {"agent", "choices", "web"},
    "embeddings": {"engines", "errors", "web"},
    "lab": {"errors", "parsers", "settings", "web"},
    "sampler": WORDS | {"agent", "directory", "mcp", "model"},
    "startup": WORDS | PIPES | {"mcp", "model", "settings", "tracing", "workers"},
    "discovery": WORDS
    | {"directory", "engines", "fleet", "model", "settings", "startup", "upstream", "workers"},
    "registry": {"discovery", "errors", "seal", "storage", "web"},
    "app": WORDS
    | {
        "chat",
        "completions",
        "conversations",
        "directory",
        "discovery",
        "embeddings",
        "folders",
        "lab",
        "mcp",
        "measuring",
        "model",
        "places",
        "registry",
        "responses",
        "retention",
        "sampler",
        "seal",
        "settings",
        "startup",
    }
    | {"layers", "storage", "telemetry", "tracing"}
    | {"web", "__init__"},
    "layers": {
        "directory",
        "errors",
        "measuring",
        "model",
        "settings",
        "telemetry",
        "tokens",
        "tracing",
        "web",
        "workers",
    },
    "server": {"app", "crowd", "mcp", "places", "settings", "sockets"},
    "sockets": {"errors", "settings"},
    "supervisor": {"errors", "settings", "sockets"},
    "db_command": {"errors", "logs", "places", "retention", "settings", "storage"},
    "doctor": {"advice", "errors", "findings", "logs", "places", "settings", "storage"},
    "cli": {
        "__init__",
        "approve",
        "db_command",
        "discovery",
        "doctor",
        "errors",
        "lab",
        "logs",
        "server",
        "settings",
        "supervisor",
        "testing",
    },
    "testing": {"app", "engines", "errors", "faults", "server", "settings", "sockets"},
    "__main__": {"cli"},
    "__init__": set(),
}

LIBRARY_HOMES: dict[str, set[str]] = {
    "alembic": {"storage"},
    "cryptography": {"seal"},
    "fastapi": {"app", "layers", "chat/routes", "completions/routes", "conversations/routes"}
    | {
        "embeddings/routes",
        "lab/routes",
        "mcp/routes",
        "registry/routes",
        "responses/approvals",
        "responses/routes",
        "server",
        "web",
    },
    "google": {"engines", "testing"},
    "grpc": {"engines", "testing"},
    "httpx2": {"mcp", "upstream", "testing"},
    "huggingface_hub": {"tokens"},
    "jinja2": {"tokens"},
    "kubernetes": {"discovery"},
    "mcp": {"mcp", "testing"},
    "mcp_types": {"mcp", "testing"},
    "anyio": {"mcp", "testing"},
    "openai": {"testing/demo"},
    "opentelemetry": {"tracing"},
    "platformdirs": {"places"},
    "prometheus_client": {"telemetry"},
    "pydantic": {
        "chat/schema",
        "completions/schema",
        "conversations/schema",
        "embeddings/schema",
        "responses/schema",
        "mcp/config",
        "registry/schema",
        "web",
    },
    "sqlalchemy": {"storage"},
    "sse_starlette": {"web"},
    "starlette": {"app", "tracing", "web", "mcp", "testing"},
    "tokenizers": {"tokens", "testing"},
    "transformers": {"tokens"},
    "uvicorn": {"crowd", "server", "testing"},
    "uvloop": {"cli"},
    "yaml": {"mcp", "testing"},
    "zstandard": {"web"},
}
"""The one place of each library; its types do not leave it."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        if "_generated" not in path.parts:
            yield path.relative_to(ROOT).with_suffix("").as_posix(), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


def unit(name: str) -> str:
    """The module or package directly under smg/ that a dotted name belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_a_module_imports_only_what_lies_below_it(name: str, path: Path) -> None:
    home = name.split("/", maxsplit=1)[0]
    found = {unit(imported) for imported in imports(path) if imported.split(".")[0] == "smg"}
    # The package itself holds the version, which anybody may tell.
    assert found - {home, "__init__"} <= MAY_IMPORT[home]


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_a_library_is_imported_in_its_one_place(name: str, path: Path) -> None:
    for imported in imports(path):
        library = imported.split(".")[0]
        if library in sys.stdlib_module_names or library == "smg":
            continue
        homes = LIBRARY_HOMES.get(library, set())
        assert any(name == home or name.startswith(f"{home}/") for home in homes), library


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (name, path)
        for name, path in modules()
        if name.startswith("parsers/") or name.endswith(("/render", "agent/loop", "agent/draft"))
    ],
)
def test_decisions_and_text_do_not_wait(name: str, path: Path) -> None:
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, waits)]


def test_the_map_names_nothing_that_is_gone() -> None:
    homes = {name.split("/", maxsplit=1)[0] for name, _ in modules()}
    assert set(MAY_IMPORT) == homes
