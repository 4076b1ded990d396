"""The gateway that the clients talk to, as a process of its own in the project's environment.

    .venv/bin/python -m tests.clients.serve

Prints one line of JSON, `{"base_url": ..., "mcp_url": ...}`, and ends when its input is closed, so
that it cannot outlive the tests. Everything in it is real but the model: the scripted engine speaks
gRPC, the example tools are one MCP server of the configuration (over stdio) and another one, over
HTTP, that only requests can name.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from smg.app import Gateway
from smg.server import serve
from smg.settings import Settings
from smg.testing.processes import scripted_engine

MODEL_FOLDER = Path(__file__).parents[2] / "smg/testing/model"
START_SECONDS = 30.0
CONTEXT = 131072  # Codex sends instructions and tools of 20 000 tokens and more.
CONFIG = {
    "mcpServers": {
        "calculator": {"command": sys.executable, "args": ["-m", "smg.testing.tools"]},
    }
}


@asynccontextmanager
async def tools_over_http() -> AsyncGenerator[str, None]:
    """The example tools' URL; their process ends with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "smg.testing.tools", "--http", "0"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            url = (await process.stdout.readline()).decode().strip()
        yield url
    finally:
        process.terminate()
        await process.wait()


async def input_closed() -> None:
    """Wait for the end of standard input, without a thread that the end would wait for."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    await reader.read()


async def run() -> None:
    """Serve until standard input is closed."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smg-clients-")))
        config = folder / "mcp.json"
        config.write_text(json.dumps(CONFIG), encoding="utf-8")
        engine = await stack.enter_async_context(scripted_engine("--max-context", str(CONTEXT)))
        mcp_url = await stack.enter_async_context(tools_over_http())
        settings = Settings(
            port=0,
            worker_urls=(engine,),
            model_path=str(MODEL_FOLDER),
            mcp_config_path=str(config),
            allow_request_mcp=("127.0.0.1",),
            database_url=f"sqlite:///{folder / 'smg.db'}",
            shutdown_grace_seconds=1.0,
        )

        def announce(_running: Gateway, base_url: str) -> None:
            line = json.dumps({"base_url": f"{base_url}/v1", "mcp_url": mcp_url})
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

        serving = asyncio.create_task(serve(settings, announce))
        closed = asyncio.create_task(input_closed())
        await asyncio.wait({serving, closed}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()  # It ended by itself: with what went wrong.
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(run())
