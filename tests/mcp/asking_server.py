"""A tool server that asks its client's model, in the way of 2025 or of 2026; by the official SDK.

python asking_server.py ERA
"""

import sys
from typing import Any

import anyio
from mcp import MCPError
from mcp.server import Server
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.message import ServerMessageMetadata
from mcp.types import (
    METHOD_NOT_FOUND,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    InputRequiredResult,
    TextContent,
)


async def no_discovery(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Know nothing of what came after 2025."""
    if ctx.method == "server/discover":
        raise MCPError(METHOD_NOT_FOUND, "What?")
    return await call_next(ctx)


def told(answer: object) -> str:
    """An answer in one line: text, model, and why it ended."""
    assert isinstance(answer, CreateMessageResult)
    assert isinstance(answer.content, TextContent)
    return f"{answer.content.text} ({answer.model}, {answer.stop_reason})"


async def asked_at_once(question: CreateMessageRequest, context: Context) -> str:
    """Ask as until 2025: a request of the server's own, in the middle of the call."""
    related = ServerMessageMetadata(related_request_id=context.request_id)
    session = context.request_context.session
    try:
        return told(await session.send_request(question, CreateMessageResult, metadata=related))
    except MCPError as error:
        return f"refused ({error.code}): {error.message}"


def new_server(era: str) -> MCPServer:
    """The server, with the manners of a year."""
    old = [no_discovery] if era == "2025" else []
    server = MCPServer("asking", middleware=old, log_level="CRITICAL")

    @server.tool()
    async def ask(
        question: dict[str, Any], context: Context, times: int = 1
    ) -> str | InputRequiredResult:
        """Ask the client's model, and tell what it says."""
        params = CreateMessageRequestParams.model_validate(question)
        asking = CreateMessageRequest(params=params)
        if era == "2025":
            return "\n".join([await asked_at_once(asking, context) for _ in range(times)])
        if (answers := context.input_responses) is None:
            return InputRequiredResult(input_requests={f"q{n}": asking for n in range(times)})
        return "\n".join(map(told, answers.values()))

    @server.tool()
    def may_ask(context: Context) -> bool:
        """Whether the client has said that it answers questions."""
        said = context.client_capabilities
        return said is not None and said.sampling is not None

    return server


async def serve_2025() -> None:
    """Speak over standard input and output as until 2025: the handshake and nothing else."""
    server: Server[Any] = new_server("2025")._lowlevel_server
    async with (
        stdio_server() as (reading, writing),
        server.lifespan(server) as state,
    ):
        await serve_loop(server, reading, writing, lifespan_state=state)


if __name__ == "__main__":
    if sys.argv[1] == "2025":
        anyio.run(serve_2025)
    else:
        new_server("2026").run()
