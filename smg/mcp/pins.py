"""What an operator has agreed to of a server's tools: the first list, and what he approved since.

A server can change what a tool says or does after everybody has looked at it. Lists come in, what
may be offered of them goes out. What was agreed to is kept by whoever is handed in (`PinStore`),
so that a restart changes nothing. Knows neither servers' connections nor models.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from smg.errors import StorageError
from smg.mcp.definitions import Catalog
from smg.mcp.spec import ServerSpec
from smg.turn import Now

_APPROVE = "approve with POST /mcp/reload"

_log = logging.getLogger(__name__)


class Pinned(Protocol):
    """The list that was agreed to."""

    @property
    def tools(self) -> Mapping[str, str]:
        """A digest of each tool's definition, by its name."""
        ...


class PinStore(Protocol):
    """Whoever keeps the tools agreed to."""

    async def pinned(self, label: str, identity: str) -> Pinned | None:
        """What was agreed to last; `None`: nothing yet.

        Raises:
            StorageError: it cannot be asked now.
        """
        ...

    async def pin(
        self, label: str, identity: str, *, digest: str, tools: Mapping[str, str], approved_at: int
    ) -> None:
        """Agree to this list instead.

        Raises:
            StorageError: it cannot be kept now.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    tools: Mapping[str, str]


class PinsInMemory:
    """Keeps them until the process ends."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Kept] = {}

    async def pinned(self, label: str, identity: str) -> Pinned | None:
        """What was agreed to last; `None`: nothing yet."""
        return self._kept.get((label, identity))

    async def pin(
        self,
        label: str,
        identity: str,
        *,
        digest: str,  # noqa: ARG002 - For those who keep it where people look.
        tools: Mapping[str, str],
        approved_at: int,  # noqa: ARG002
    ) -> None:
        """Agree to this list instead."""
        self._kept[label, identity] = _Kept(tools)


@dataclass(frozen=True, slots=True)
class Look:
    """What came of looking at a server's list."""

    offered: Catalog
    """What may be offered of it."""
    changed: tuple[str, ...] = ()
    """Names of tools that are not as they were agreed to when we looked: new, other, or gone."""


class Pins:
    """One server's approved definitions."""

    def __init__(self, spec: ServerSpec, store: PinStore, now: Now) -> None:
        self._server = (spec.label, spec.identity)
        self._on_change = spec.on_change
        self._store = store
        self._now = now
        self._approved: Mapping[str, str] | None = None
        self._seen = Catalog()
        self._held: frozenset[str] = frozenset()
        self._one_at_a_time = asyncio.Lock()
        self.blocked: str | None = None
        """Why nothing of the server may be used now."""

    async def see(self, catalog: Catalog) -> Look:
        """What may be offered of the list a server gives now.

        Raises:
            StorageError: it is not known what was agreed to.
        """
        async with self._one_at_a_time:
            self._seen = catalog
            approved = await self._look_up()
            changed = () if approved is None else _changed(approved, catalog.digests)
            if approved is None or (changed and self._on_change == "warn"):
                await self._pin(catalog)
            return Look(self._compare(catalog), changed)

    def refusal(self, tool: str) -> str | None:
        """Why a tool may not be called now."""
        if self.blocked is not None:
            return self.blocked
        return f"{tool!r} was changed and waits for approval" if tool in self._held else None

    async def approve(self) -> Catalog:
        """Agree to the list as it is now.

        Raises:
            StorageError: that cannot be kept; all is as it was.
        """
        async with self._one_at_a_time:
            if not self._seen.digest:
                return self._seen
            await self._pin(self._seen)
            return self._compare(self._seen)

    async def _look_up(self) -> Mapping[str, str] | None:
        """What was agreed to, here or at another gateway; what we know if nobody can be asked."""
        try:
            pinned = await self._store.pinned(*self._server)
            self._approved = None if pinned is None else pinned.tools
        except StorageError as error:
            if self._approved is None:
                raise
            _log.warning("MCP server %s: approved tools not read: %s", self._server[0], error)
        return self._approved

    async def _pin(self, catalog: Catalog) -> None:
        await self._store.pin(
            *self._server, digest=catalog.digest, tools=catalog.digests, approved_at=self._now()
        )
        self._approved = catalog.digests

    def _compare(self, catalog: Catalog) -> Catalog:
        """The part of a list that was agreed to; the rest is held back."""
        approved = self._approved or {}
        changed = _changed(approved, catalog.digests)
        self.blocked, self._held = None, frozenset()
        if changed and self._on_change == "block":
            self.blocked = f"its tools are not as they were approved ({_APPROVE})"
        elif changed:
            self._held = frozenset(changed) & catalog.digests.keys()
        held = tuple(f"{name}: new or changed, held back ({_APPROVE})" for name in self._held)
        return replace(
            catalog,
            tools=tuple(tool for tool in catalog.tools if tool.name not in self._held),
            left_out=catalog.left_out + tuple(sorted(held)),
        )


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    names = sorted({*before, *after})
    return tuple(name for name in names if before.get(name) != after.get(name))
