"""One gateway for all clients, their cassettes, and the versions for docs/clients.md."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.cassettes import run_session
from tests.clients.versions import versions

ROOT = Path(__file__).parents[2]
PROJECT_PYTHON = os.environ.get("SMG_PYTHON", str(ROOT / ".venv/bin/python"))
STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Served:
    """Where the gateway is, and an MCP server that it does not know of."""

    base_url: str
    mcp_url: str
    model: str = "scripted"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-cassettes",
        action="store_true",
        help="record anew what the clients send, from the running gateway",
    )


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """A gateway on the scripted engine, over a real port, in the project's own environment."""
    command = [PROJECT_PYTHON, "-m", "tests.clients.serve"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the gateway did not start; its output says why"
        yield Served(**json.loads(line))
        process.stdin.close()
        process.wait(STOP_SECONDS)


@pytest.fixture(scope="session", autouse=True)
def client_versions(record_testsuite_property: Callable[[str, object], None]) -> None:
    """Write the clients' versions into the report that the table is made of."""
    for name, version in versions().items():
        record_testsuite_property(name, version)


@pytest.fixture
def session_on_tape(request: pytest.FixtureRequest, served: Served) -> Callable[..., None]:
    """Run a session against the gateway, then against its cassette: it must send the same."""
    update = bool(request.config.getoption("--update-cassettes"))

    def run(name: str, session: Callable[[str], Any]) -> None:
        run_session(name, session, served.base_url, update=update)

    return run
