"""What an operator has agreed to of a server's tools: the first list, and what he approved since.

A server can change what a tool says or does after everybody has looked at it. Lists come in, what
may be offered of them goes out. Lives as long as the process: a restart approves, and so does
`approve`. Pure; knows neither servers nor models.
"""

from dataclasses import replace

from smg.mcp.definitions import Catalog
from smg.mcp.spec import OnChange

_APPROVE = "approve with POST /mcp/reload, or restart"


class Pins:
    """One server's approved definitions."""

    def __init__(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self._approved: Catalog | None = None
        self._seen = Catalog()
        self._held: frozenset[str] = frozenset()
        self.blocked: str | None = None
        """Why nothing of the server may be used now."""

    def see(self, catalog: Catalog) -> Catalog:
        """What may be offered of the list a server gives now."""
        self._seen = catalog
        if self._approved is None or self._on_change == "warn":
            self._approved = catalog
        changed = catalog.digest != self._approved.digest
        self.blocked = None
        self._held = frozenset()
        if changed and self._on_change == "block":
            self.blocked = f"its tools are not as they were approved ({_APPROVE})"
        elif changed:
            self._held = frozenset(
                tool.name for tool in catalog.tools if tool not in self._approved.tools
            )
        held = tuple(f"{name}: new or changed, held back ({_APPROVE})" for name in self._held)
        return replace(
            catalog,
            tools=tuple(tool for tool in catalog.tools if tool.name not in self._held),
            left_out=catalog.left_out + tuple(sorted(held)),
        )

    def refusal(self, tool: str) -> str | None:
        """Why a tool may not be called now."""
        if self.blocked is not None:
            return self.blocked
        return f"{tool!r} was changed and waits for approval" if tool in self._held else None

    def approve(self) -> Catalog:
        """Agree to the list as it is now."""
        if not self._seen.digest:
            return self._seen
        self._approved = self._seen
        return self.see(self._seen)
