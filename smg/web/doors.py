"""Who may come in: the gates of all requests, of each key and of each model, and the line.

Owners and models come in, places go out. Closed for good at shutdown. Knows no HTTP.
"""

import asyncio
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from smg.web.gate import Gate, GateRules, ShuttingDown
from smg.web.line import Entered, Gates, Line, Place, Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorRules:
    """How much is let in."""

    common: GateRules = GateRules()
    key: GateRules = GateRules()
    """Of each API key."""
    model: GateRules = GateRules()
    """To each model."""
    models: Mapping[str, int] = field(default_factory=dict)
    """Places of single models, where they have others."""
    promised: int = 1000
    """Responses in the background that wait for a place."""
    sockets: int = 0
    """WebSockets of each key; 0: no limit."""


class Doors:
    """The gates, and the line before them."""

    def __init__(self, rules: DoorRules, told: Entered = lambda *_: None) -> None:
        """`told` hears how long everybody has waited who was let in."""
        self.closing = asyncio.Event()
        """Set when nobody is let in any more."""
        self._rules = rules
        self._line = Line(told)
        self._common = Gate(rules.common)
        self._keys: dict[str, Gate] = {}
        self._models: dict[str, Gate] = {}
        self._sockets: dict[str, Gate] = {}
        self._closed_at = 0.0

    async def enter(self, owner: str, model: str, priority: Priority) -> Place:
        """A place for a request of this key to this model.

        Raises:
            ShuttingDown: nobody is let in any more.
            Busy: too many came too quickly, too many wait, or the wait was too long.
        """
        return await self._line.enter(self._gates(owner, model), priority)

    def promise(self, owner: str, model: str) -> None:
        """Take on a response that may begin when there is room.

        Raises:
            ShuttingDown: nobody is let in any more.
            Busy: too many came too quickly, or too many wait already.
        """
        if self._line.waiting(background=True) >= self._rules.promised:
            raise self._common.refusal("Too many background responses are waiting.", 1)
        self._line.begin(self._gates(owner, model))

    async def enter_at_last(self, owner: str, model: str) -> Place:
        """A place for what was promised, however long that takes.

        Raises:
            ShuttingDown: nobody is let in any more.
        """
        return await self._line.enter_at_last(self._gates(owner, model))

    def has_room(self, owner: str, model: str) -> bool:
        """Whether one more of this key and to this model would be let in at once."""
        return all(gate.has_room for gate in self._gates(owner, model))

    @contextmanager
    def arriving(self, owner: str) -> Generator[None, None, None]:
        """Somebody of this key is on his way until the block ends: his model is not known yet.

        Raises:
            ShuttingDown: nobody is let in any more.
            Busy: he would find the line full.
        """
        self.check_open()
        gates = (self._key(owner), self._common)
        for gate in gates:
            gate.check_arrival()
        for gate in gates:
            gate.arriving += 1
        try:
            yield
        finally:
            for gate in gates:
                gate.arriving -= 1

    @contextmanager
    def socket(self, owner: str) -> Generator[None, None, None]:
        """A WebSocket of this key is open until the block ends.

        Raises:
            ShuttingDown: nobody is let in any more.
            Busy: the key has as many as it may.
        """
        self.check_open()
        rules = GateRules(places=self._rules.sockets)
        gate = self._sockets.setdefault(owner, Gate(rules))
        if not gate.has_room:
            raise gate.refusal(
                f"This key has {rules.places} WebSockets open, the limit; close one first.", 1
            )
        gate.running += 1
        try:
            yield
        finally:
            gate.running -= 1

    def check_open(self) -> None:
        """Refuse all work at shutdown.

        Raises:
            ShuttingDown: nobody is let in any more.
        """
        if self.closing.is_set():
            raise ShuttingDown("The gateway is shutting down.")

    def close(self) -> None:
        """Let nobody in any more, and send away who waits."""
        if not self.closing.is_set():
            self._closed_at = time.monotonic()
            self.closing.set()
            self._line.close()

    def grace_left(self, grace_s: float) -> float:
        """What is left of the time that those inside have since the doors were closed."""
        passed = time.monotonic() - self._closed_at if self.closing.is_set() else 0.0
        return max(0.0, grace_s - passed)

    @property
    def states(self) -> Mapping[str, int]:
        """How many are inside, wait, and were refused by which kind of gate."""
        return {
            "running": self._common.running,
            "waiting": self._line.waiting(background=False),
            "promised": self._line.waiting(background=True),
            "sockets": sum(gate.running for gate in self._sockets.values()),
            "refused": self._common.refused,
            "refused_keys": sum(gate.refused for gate in self._keys.values()),
            "refused_models": sum(gate.refused for gate in self._models.values()),
            "refused_sockets": sum(gate.refused for gate in self._sockets.values()),
        }

    def _gates(self, owner: str, model: str) -> Gates:
        return (self._key(owner), self._model(model), self._common)

    def _key(self, owner: str) -> Gate:
        if owner not in self._keys:  # As many as there are keys.
            self._keys[owner] = Gate(self._rules.key, "requests of this key")
        return self._keys[owner]

    def _model(self, name: str) -> Gate:
        if name not in self._models:  # As many as were ever served: others are refused before.
            rules = self._rules.model
            rules = replace(rules, places=self._rules.models.get(name, rules.places))
            self._models[name] = Gate(rules, f"requests to the model {name!r}")
        return self._models[name]
