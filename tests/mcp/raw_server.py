"""A tool server written by hand: it says what the official one never would.

python raw_server.py BEHAVIOUR
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]

INITIALIZED = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {"listChanged": True}},
    "serverInfo": {"name": "raw", "version": "1"},
}


def tool(name: str, description: str = "", **schema: Any) -> Message:
    """A definition."""
    return {"name": name, "description": description, "inputSchema": {"type": "object"} | schema}


def send(message: Message) -> None:
    """Write one message."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
    sys.stdout.flush()


def answer(request: Message, result: Message) -> None:
    """Answer one request."""
    send({"id": request["id"], "result": result})


def legacy(request: Message, tools: list[Message]) -> None:
    """A server of 2025: no discovery, one handshake."""
    match request["method"]:
        case "initialize":
            answer(request, INITIALIZED)
        case "tools/list":
            answer(request, {"tools": tools})
        case "tools/call":
            answer(request, {"content": [{"type": "text", "text": request["params"]["name"]}]})
        case _ if "id" in request:
            send({"id": request["id"], "error": {"code": -32601, "message": "What?"}})


def well(request: Message) -> None:
    """Behave."""
    legacy(request, [tool("echo")])


def silent(request: Message) -> None:
    """Answer nothing at all."""


def silent_calls(request: Message) -> None:
    """Answer everything but calls."""
    if request["method"] != "tools/call":
        well(request)


def no_list(request: Message) -> None:
    """Answer everything but the list of tools."""
    if request["method"] != "tools/list":
        well(request)


def leaves(request: Message) -> None:
    """End with last words."""
    sys.stderr.write("no licence for key sk-very-secret\n")
    sys.exit(1)


def deaf_to_discovery(request: Message) -> None:
    """Ignore what came after 2025, instead of refusing it."""
    if request["method"] != "server/discover":
        well(request)


def garbage(request: Message) -> None:
    """Say nonsense between the answers."""
    sys.stdout.write("listening on stdio!\n{\n")
    send({"id": 9999, "result": {}})
    well(request)


def endless_pages(request: Message) -> None:
    """Always promise one more page."""
    if request["method"] == "tools/list":
        cursor = int(request.get("params", {}).get("cursor", "0"))
        answer(request, {"tools": [tool(f"t{cursor}")], "nextCursor": str(cursor + 1)})
    else:
        well(request)


def changes(request: Message) -> None:
    """Change the description of its tool with each call, and say so."""
    global calls  # noqa: PLW0603 - The whole state of this program.
    if request["method"] == "tools/call":
        calls += 1
        well(request)
        send({"method": "notifications/tools/list_changed"})
    else:
        legacy(request, [tool("echo", f"version {calls}")])


def as_told(request: Message) -> None:
    """Describe its tool with the words in a file."""
    with open(sys.argv[2], encoding="utf-8") as file:
        legacy(request, [tool("echo", file.read())])


def stops_listing(request: Message) -> None:
    """Hang in a call, and from then on in everything, but once in a life: the next one is well."""
    if request["method"] == "tools/call" and not os.path.exists(sys.argv[2]):
        with open(sys.argv[2], "w", encoding="utf-8"):
            pass
        sys.stdin.read()
    else:
        well(request)


def refuses(request: Message) -> None:
    """Refuse each call with a protocol error."""
    if request["method"] == "tools/call":
        message = "no, not with sk-very-secret"
        send({"id": request["id"], "error": {"code": -32050, "message": message}})
    else:
        well(request)


def endless_line(request: Message) -> None:
    """Answer calls with a line that never ends."""
    if request["method"] == "tools/call":
        while True:
            sys.stdout.write("x" * 65536)
    else:
        well(request)


def drips(request: Message) -> None:
    """Answer calls one byte a tenth of a second."""
    if request["method"] != "tools/call":
        well(request)
        return
    said = {"jsonrpc": "2.0", "id": request["id"], "result": {"content": []}}
    for character in json.dumps(said) + "\n":
        sys.stdout.write(character)
        sys.stdout.flush()
        time.sleep(0.1)


def parent(request: Message) -> None:
    """Have a child that outlives it, and holds on to its pipes; tell its number."""
    if request["method"] == "tools/call":
        forever = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        )
        child = subprocess.Popen([sys.executable, "-c", forever])
        answer(request, {"content": [{"type": "text", "text": str(child.pid)}]})
    else:
        well(request)


def wrong_id(request: Message) -> None:
    """Answer calls to somebody else."""
    well(request | {"id": 9000} if request["method"] == "tools/call" else request)


def progresses(request: Message) -> None:
    """Tell how far a call has come."""
    if request["method"] == "tools/call":
        token = request["params"]["_meta"]["progressToken"]
        told = {"progressToken": token, "progress": 3, "total": 4, "message": "sk-very-secret rows"}
        send({"method": "notifications/progress", "params": told})
    well(request)


def asks(request: Message) -> None:
    """Ask the user and the model something before answering, and tell what they said."""
    global asked  # noqa: PLW0603
    if request.get("method") == "tools/call":
        asked = request
        what = request["params"]["name"]
        if what == "elicit":
            schema = {"type": "object", "properties": {}}
            params: Message = {"message": "Your password?", "requestedSchema": schema}
            send({"id": "q", "method": "elicitation/create", "params": params})
        elif what == "sample":
            send({"id": "q", "method": "sampling/createMessage", "params": SAMPLE})
        else:
            send({"id": "q", "method": "roots/list"})
    elif "method" not in request:
        error = request.get("error", {"message": "granted"})
        answer(asked, {"content": [{"type": "text", "text": error["message"]}]})
    else:
        legacy(request, [tool("elicit"), tool("sample"), tool("roots")])


SAMPLE = {
    "messages": [{"role": "user", "content": {"type": "text", "text": "Hello"}}],
    "maxTokens": 5,
}
asked: Message = {}
calls = 0
BEHAVIOURS: dict[str, Callable[[Message], None]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        well,
        silent,
        no_list,
        silent_calls,
        leaves,
        deaf_to_discovery,
        garbage,
        endless_pages,
        changes,
        as_told,
        stops_listing,
        refuses,
        endless_line,
        drips,
        parent,
        wrong_id,
        progresses,
        asks,
    )
}

if __name__ == "__main__":
    for line in sys.stdin:
        BEHAVIOURS[sys.argv[1]](json.loads(line))
