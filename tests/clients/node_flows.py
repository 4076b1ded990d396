"""Flows of the npm packages: `node/FILE.mjs FLOW` as a process, its JSON as a value."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.clients.conftest import Served

FOLDER = Path(__file__).parent / "node"
LIMIT_SECONDS = 30.0


def run_flow(file: str, flow: str, served: Served) -> Any:
    """What a flow found.

    Raises:
        AssertionError: it failed; the message is what it wrote.
    """
    where = {"SMG_BASE_URL": served.base_url, "SMG_MCP_URL": served.mcp_url}
    done = subprocess.run(
        ["node", file, flow],
        cwd=FOLDER,
        env={**os.environ, **where},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
