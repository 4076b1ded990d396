"""`smg demo`: one agent turn through the whole gateway, with no model, no GPU and no network.

Everything in it is real but the model: the scripted engine is a process of its own that speaks
the vLLM protocol, the tools are an MCP server over stdio, the client is the `openai` package.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from smg.app import Gateway, gateway
from smg.errors import ConfigError
from smg.server import listen
from smg.settings import Settings
from smg.sockets import bind
from smg.testing.processes import scripted_engine

QUESTION = "What is 21 times 2, and what time is it in UTC?"
MODEL_FOLDER = Path(__file__).parent / "model"
MCP_CONFIG = """\
{
  "mcpServers": {
    "tools": {"command": "python", "args": ["-m", "smg.testing.tools"], "default": true}
  }
}
"""


def run_demo(*, once: bool, port: int) -> int:
    """Run the demo; the exit status."""
    return asyncio.run(_demo(once=once, port=port))


async def _demo(*, once: bool, port: int) -> int:
    import tempfile  # noqa: PLC0415 - the demo only.

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smg-demo-")))
        config = folder / "mcp.json"
        config.write_text(MCP_CONFIG)
        url = await stack.enter_async_context(scripted_engine())
        settings = Settings(
            port=port,
            worker_urls=(url,),
            model_path=str(MODEL_FOLDER),
            mcp_config_path=str(config),
            database_url=f"sqlite:///{folder / 'smg.db'}",
            shutdown_grace_seconds=2.0,
        )
        listening = stack.enter_context(bind(settings))
        running = await stack.enter_async_context(gateway(settings))
        return await _converse(running, listening, once=once)


async def _converse(running: Gateway, listening: Any, *, once: bool) -> int:
    turn: list[asyncio.Task[None]] = []

    def begin(gateway_: Gateway, base_url: str) -> None:
        turn.append(asyncio.create_task(_turn(gateway_, base_url)))

    serving = asyncio.create_task(listen(running, listening, begin))
    try:
        while not turn and not serving.done():  # noqa: ASYNC110 - once, at start.
            await asyncio.sleep(0.01)
        if turn:
            await turn[0]
        if not once:
            await serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    return 0


async def _turn(running: Gateway, base_url: str) -> None:
    """One agent turn with the official client, shown as it happens."""
    try:
        from openai import AsyncOpenAI  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("smg demo needs the openai package: pip install 'smg[demo]'") from error
    model = running.models.all()[0].name
    async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none") as client:
        _say(f"\n> {QUESTION}\n")
        stream = await client.responses.create(model=model, input=QUESTION, stream=True)
        response_id = ""
        async for event in stream:
            _show(event)
            if event.type == "response.completed":
                response_id = event.response.id
        _say("\n\nThe conversation as it is stored:")
        asked = await client.responses.input_items.list(response_id)
        stored = await client.responses.retrieve(response_id)
        for item in [*asked.data, *stored.output]:
            _say(f"  {_line(item)}")
        usage = stored.usage
        if usage is not None:
            _say(f"  {usage.input_tokens} tokens in, {usage.output_tokens} out")
    _say(_more(base_url, model, response_id))


def _show(event: Any) -> None:
    """One event of the stream, readably."""
    match event.type:
        case "response.output_text.delta" | "response.reasoning_text.delta":
            sys.stdout.write(event.delta)
            sys.stdout.flush()
        case "response.output_item.added":
            name = getattr(event.item, "name", None) or getattr(event.item, "server_label", "")
            sys.stdout.write(f"\n[{event.type}] {event.item.type} {name}\n")
        case "response.mcp_call_arguments.done":
            sys.stdout.write(f"[{event.type}] {event.arguments}\n")
        case "response.output_item.done" if event.item.type == "mcp_call":
            sys.stdout.write(f"[{event.type}] -> {event.item.output or event.item.error}\n")
        case kind if "delta" not in kind and "part" not in kind:
            sys.stdout.write(f"\n[{kind}]" if kind.startswith("response.output") else f"[{kind}]\n")
        case _:
            pass


def _line(item: Any) -> str:
    match item.type:
        case "message":
            text = "".join(getattr(part, "text", "") for part in item.content)
            return f"{item.role}: {text}"
        case "reasoning":
            return "thought: " + "".join(part.text for part in item.content or ())
        case "mcp_call":
            return f"called {item.name}({item.arguments}) -> {item.output or item.error}"
        case "mcp_list_tools":
            return f"offered {item.server_label}: {', '.join(tool.name for tool in item.tools)}"
        case kind:
            return str(kind)


def _more(base_url: str, model: str, response_id: str) -> str:
    return f"""
Go on from here (the engine answers from rules; docs/scripted-engine.md):

  curl {base_url}/v1/responses -H 'content-type: application/json' -d '{{
    "model": "{model}", "previous_response_id": "{response_id}",
    "input": "And what is 6 times 7?"}}'

  curl -N {base_url}/v1/chat/completions -H 'content-type: application/json' -d '{{
    "model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
