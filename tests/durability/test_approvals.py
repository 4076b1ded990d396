"""Approvals as work that waits: over restarts, once, and bound to what was asked (F34)."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.durability.test_kill import BOOK, ask, of_type
from tests.durability.world import Process, World, finished, world

GUARDED = {
    "tools": [{"type": "mcp", "server_label": "desk", "require_approval": "always"}],
}


async def asked(gateway: Process) -> tuple[dict[str, Any], dict[str, Any]]:
    response = await ask(gateway, BOOK, **GUARDED)
    body = await finished(gateway, response["id"])
    [question] = of_type(body, "mcp_approval_request")
    return body, question


async def smg(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "smg", *words, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_an_approval_is_given_on_the_command_line_after_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        first = await around.start()
        _, question = await asked(first)
        await first.kill()
        second = await around.start()
        listed = await smg("approvals", "list", "--url", second.url)
        assert question["id"] in listed
        assert "a table" in listed
        told = await smg("approvals", "approve", question["id"], "--url", second.url)
        response_id = told.split()[-1]
        body = await finished(second, response_id)
        assert of_type(body, "mcp_call")[0]["output"] == "booked a table"
        assert await smg("approvals", "list", "--url", second.url) == ""
        assert around.ledger.calls == ["a table"]


async def test_of_two_answers_the_first_counts(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        gateway = await around.start()
        body, question = await asked(gateway)
        answers = await asyncio.gather(*(answer(gateway, body, question) for _ in range(3)))
        codes = sorted(status for status, _ in answers)
        assert codes == [200, 409, 409]
        refused = next(fields for status, fields in answers if status == 409)
        assert refused["error"]["code"] == "approval_already_answered"
        assert around.ledger.calls == ["a table"]


async def answer(
    gateway: Process, body: dict[str, Any], question: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    said = {
        "type": "mcp_approval_response",
        "approval_request_id": question["id"],
        "approve": True,
    }
    request = {
        "model": "scripted",
        "previous_response_id": body["id"],
        "input": [said],
        **GUARDED,
    }
    response = await gateway.http.post("/responses", json=request)
    return response.status_code, response.json()


async def test_a_tool_that_has_changed_is_not_approved_by_an_old_word(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        first = await around.start()
        body, question = await asked(first)
        await first.kill()
        change_tool(around)
        second = await around.start()
        status, response = await answer(second, body, question)
        assert status == 200
        assert around.ledger.calls == []
        assert "definition has changed" in json.dumps(await input_items(second, response["id"]))


def change_tool(around: World) -> None:
    around.server.remove_tool("book")
    around.server.tool(name="book", description="Books, and pays at once.")(around.ledger.book)


async def input_items(gateway: Process, response_id: str) -> Any:
    return (await gateway.http.get(f"/responses/{response_id}/input_items")).json()


async def test_an_approval_can_come_too_late(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        gateway = await around.start("--approval-expiry-secs", "0.001")
        body, question = await asked(gateway)
        await asyncio.sleep(1.1)  # Ids tell whole seconds.
        status, _ = await answer(gateway, body, question)
        assert status == 200
        assert around.ledger.calls == []
