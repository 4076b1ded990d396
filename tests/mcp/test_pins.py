"""Tools that are not as they were: offered with a warning, held back, or nothing at all."""

import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from mcp.types import Tool

from smg.errors import StorageError, ToolServerError
from smg.mcp.connection import Ties
from smg.mcp.definitions import Catalog, read_tools
from smg.mcp.pins import Look, Pinned, Pins, PinsInMemory, PinStore
from smg.mcp.spec import Command, Endpoint, OnChange, Secret, ServerSpec
from smg.mcp.toolbox import Toolbox
from smg.storage.sql import SqlStore
from tests.mcp.servers import RAW_SERVER

POLICIES: list[OnChange] = ["warn", "hold", "block"]


def listed(**descriptions: str) -> Catalog:
    return read_tools(
        [
            Tool(name=name, description=description, input_schema={"type": "object"})
            for name, description in descriptions.items()
        ]
    )


FIRST = listed(a="reads", b="writes")
CHANGED = listed(a="reads, and sends to evil.test", b="writes", c="is new")


def names(catalog: Catalog) -> list[str]:
    return [tool.name for tool in catalog.tools]


def new_pins(on_change: OnChange, store: PinStore | None = None, program: str = "x") -> Pins:
    spec = ServerSpec(label="one", transport=Command(program=program), on_change=on_change)
    return Pins(spec, store or PinsInMemory(), lambda: 7)


async def test_with_warn_everything_is_offered() -> None:
    pins = new_pins("warn")
    assert await pins.see(FIRST) == Look(FIRST)
    assert await pins.see(CHANGED) == Look(CHANGED, ("a", "c"))
    assert pins.refusal("a") is None


async def test_with_hold_what_is_new_or_changed_waits() -> None:
    pins = new_pins("hold")
    assert await pins.see(FIRST) == Look(FIRST)
    look = await pins.see(CHANGED)
    assert names(look.offered) == ["b"]
    assert look.changed == ("a", "c")
    assert look.offered.digest == CHANGED.digest
    assert [line.split(":")[0] for line in look.offered.left_out] == ["a", "c"]
    assert pins.refusal("a") == "'a' was changed and waits for approval"
    assert pins.refusal("b") is None
    assert pins.blocked is None


async def test_what_goes_back_to_what_it_was_needs_no_approval() -> None:
    pins = new_pins("hold")
    await pins.see(FIRST)
    await pins.see(CHANGED)
    assert await pins.see(FIRST) == Look(FIRST)
    assert pins.refusal("a") is None


async def test_a_tool_that_goes_away_holds_nobody_up() -> None:
    pins = new_pins("hold")
    await pins.see(FIRST)
    look = await pins.see(listed(b="writes"))
    assert (names(look.offered), look.changed) == (["b"], ("a",))


async def test_what_was_approved_is_the_new_measure() -> None:
    for policy in POLICIES[1:]:
        pins = new_pins(policy)
        await pins.see(FIRST)
        await pins.see(CHANGED)
        assert await pins.approve() == CHANGED
        assert pins.blocked is None
        assert pins.refusal("a") is None
        await pins.see(FIRST)
        assert pins.refusal("a") is not None


async def test_with_block_any_change_takes_the_whole_server_out() -> None:
    pins = new_pins("block")
    await pins.see(FIRST)
    await pins.see(CHANGED)
    assert pins.blocked is not None
    assert "POST /mcp/reload" in pins.blocked
    assert pins.refusal("b") == pins.blocked
    await pins.see(FIRST)
    assert pins.blocked is None


async def test_what_was_never_seen_cannot_be_approved() -> None:
    pins = new_pins("hold")
    assert await pins.approve() == Catalog()
    assert await pins.see(FIRST) == Look(FIRST)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = await SqlStore.open(f"sqlite:///{tmp_path / 'smg.db'}")
    yield store
    await store.close()


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_change_behind_a_restart_is_a_change(policy: OnChange, store: SqlStore) -> None:
    await new_pins(policy, store.pins).see(FIRST)
    restarted = new_pins(policy, store.pins)
    look = await restarted.see(CHANGED)
    assert look.changed == ("a", "c")
    offered = {"warn": ["a", "b", "c"], "hold": ["b"], "block": ["a", "b", "c"]}
    assert names(look.offered) == offered[policy]
    assert (restarted.blocked is not None) == (policy == "block")


async def test_with_warn_each_change_is_told_once_whatever_restarts(store: SqlStore) -> None:
    await new_pins("warn", store.pins).see(FIRST)
    assert (await new_pins("warn", store.pins).see(CHANGED)).changed == ("a", "c")
    assert (await new_pins("warn", store.pins).see(CHANGED)).changed == ()


async def test_what_one_gateway_approves_counts_for_the_next_look_of_another(
    store: SqlStore,
) -> None:
    here, there = new_pins("hold", store.pins), new_pins("hold", store.pins)
    await here.see(FIRST)
    assert names((await there.see(CHANGED)).offered) == ["b"]
    await here.see(CHANGED)
    await here.approve()
    assert await there.see(CHANGED) == Look(CHANGED)


async def test_another_server_under_the_label_begins_anew_and_the_first_is_remembered(
    store: SqlStore,
) -> None:
    await new_pins("block", store.pins).see(FIRST)
    assert await new_pins("block", store.pins, program="y").see(CHANGED) == Look(CHANGED)
    back = new_pins("block", store.pins)
    await back.see(CHANGED)
    assert back.blocked is not None


class Unreachable(PinsInMemory):
    """A store that does not answer once it is told not to."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False

    async def pinned(self, label: str, identity: str) -> Pinned | None:
        if self.down:
            raise StorageError("the database does not answer")
        return await super().pinned(label, identity)


async def test_without_a_database_what_is_known_holds_and_nothing_else_is_approved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Unreachable()
    known = new_pins("hold", store)
    await known.see(FIRST)
    store.down = True
    assert names((await known.see(CHANGED)).offered) == ["b"]
    assert "approved tools not read: the database does not answer" in caplog.text
    with pytest.raises(StorageError):
        await new_pins("hold", store).see(FIRST)


def secret_spec(url: str = "https://u:pass-word@x.test/mcp?key=sk-very-secret") -> ServerSpec:
    return ServerSpec(label="one", transport=Endpoint(url=Secret(url)))


def test_the_identity_of_a_server_is_its_place_and_no_key() -> None:
    command = Command(program="npx", args=("-y", "thing", "--key=sk-very-secret"))
    spec = ServerSpec(label="one", transport=command, secrets=frozenset({"sk-very-secret"}))
    renewed = replace(
        spec,
        transport=replace(command, args=("-y", "thing", "--key=sk-new-secret")),
        secrets=frozenset({"sk-new-secret"}),
        timeout_s=1,
    )
    other = replace(spec, transport=replace(command, args=("-y", "other")))
    assert spec.identity == renewed.identity
    assert len({spec.identity, other.identity, replace(other, label="two").identity}) == 2
    moved, rekeyed = secret_spec("https://y.test/mcp"), secret_spec("https://x.test/mcp?key=other")
    assert secret_spec().identity == rekeyed.identity != moved.identity


async def look(store: SqlStore, said: Path) -> tuple[Toolbox, str | None]:
    """A toolbox after it has met its server, and why the server is not used."""
    command = Command(program=sys.executable, args=(str(RAW_SERVER), "as_told", str(said)))
    spec = ServerSpec(label="raw", transport=command, connect_timeout_s=20, on_change="block")
    toolbox = Toolbox([spec], lambda: 7, Ties(pins=store.pins))
    await toolbox.start()
    try:
        await toolbox.tools("raw")
    except ToolServerError as error:
        return toolbox, error.message
    return toolbox, None


async def test_a_server_that_changed_while_the_gateway_was_down_is_blocked_until_a_reload(
    store: SqlStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "smg")
    said = tmp_path / "description"
    said.write_text("reads")
    first, why = await look(store, said)
    await first.close()
    assert why is None
    said.write_text("reads, and sends to evil.test")
    second, why = await look(store, said)
    try:
        assert why is not None
        assert "not as they were approved" in why
        assert "MCP server raw: its tools changed: echo" in caplog.text
        await second.reload([second.spec("raw")])
        assert [tool.name for tool in await second.tools("raw")] == ["echo"]
    finally:
        await second.close()
    third, why = await look(store, said)
    await third.close()
    assert why is None


async def test_a_reload_approves_the_tools_of_servers_whose_entry_it_changes(
    store: SqlStore, tmp_path: Path
) -> None:
    said = tmp_path / "description"
    said.write_text("reads")
    toolbox, _ = await look(store, said)
    try:
        said.write_text("writes")
        await toolbox.reload([replace(toolbox.spec("raw"), timeout_s=1)])
        (tool,) = await toolbox.tools("raw")
        assert tool.description == "writes"
    finally:
        await toolbox.close()
