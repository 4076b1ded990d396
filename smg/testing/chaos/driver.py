"""Killing gateways, bringing them back, and judging what is left.

A round: gateways are started, loaded with one turn of each kind and killed, one after another on
one database; then one without a fault comes, and when all is at rest every turn is judged.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smg.errors import GatewayError
from smg.testing.chaos.oracle import Remains, judge, payloads
from smg.testing.chaos.turns import KINDS, Trial, ask_again, take
from smg.testing.chaos.world import Victim, World

AT_RANDOM = ""
"""In place of a fault: killed from outside, at any time."""
LONGEST_LIFE_SECONDS = 0.7
"""For how long a gateway without a fault may work on its turns."""

PASSES = {"events-before": 20, "events-after": 20}
"""How often points are passed at least while all kinds of turns run, where it is above two."""


@dataclass
class Tally:
    """What was done, and what was found wrong."""

    kills: int = 0
    turns: int = 0
    """Turns that a gateway died over, each as often as it happened."""
    struck: Counter[str] = field(default_factory=Counter)
    """Fault points to how many gateways died there."""
    violations: list[str] = field(default_factory=list)


@dataclass
class Round:
    """Gateways that die one after another, and one that puts things right."""

    world: World
    tally: Tally
    dice: random.Random
    trials: list[tuple[Trial, int]] = field(default_factory=list)
    """Turns, and how many gateways had died before each."""
    deaths: int = 0

    async def kill_one(self, fault: str) -> None:
        """Start a gateway, load it, and let it die."""
        victim = await self.world.start(fault)
        trials = [Trial(f"t{self.tally.kills}-{n}", kind) for n, kind in enumerate(KINDS)]
        self.dice.shuffle(trials)
        self.trials += [(trial, self.deaths) for trial in trials]
        turns = asyncio.gather(*(take(trial, victim) for trial in trials))
        if fault == AT_RANDOM:
            await asyncio.wait([turns], timeout=self.dice.uniform(0, LONGEST_LIFE_SECONDS))
        else:
            await self._until_over(turns, victim)
            if not victim.is_alive:
                self.tally.struck[fault.partition(":")[0]] += 1
        unfinished = self._unfinished()
        await victim.kill()
        await turns
        await victim.forget()
        self.deaths += 1
        self.tally.kills += 1
        self.tally.turns += unfinished

    async def _until_over(self, turns: "asyncio.Future[Any]", victim: Victim) -> None:
        """Wait until the gateway is dead, or there is nothing left that could kill it."""
        died = asyncio.create_task(victim.died())
        await asyncio.wait([turns, died], return_when=asyncio.FIRST_COMPLETED)
        await self._rest(died)
        died.cancel()

    async def _rest(self, died: "asyncio.Task[None]") -> None:
        while not died.done() and self._unfinished():
            await asyncio.wait([died], timeout=0.05)
        await asyncio.wait([died], timeout=0.05)

    def _unfinished(self) -> int:
        query = "SELECT count(*) FROM responses WHERE status IN ('queued', 'in_progress')"
        return int(self.world.rows(query)[0][0])

    async def settle(self) -> None:
        """Bring a sound gateway, wait for rest, and judge."""
        gateway = await self.world.start()
        if not gateway.is_alive:
            raise GatewayError("The gateway did not come back:\n" + "".join(gateway.said))
        try:
            keyed = [trial for trial, _ in self.trials if trial.kind.has_key]
            again = await asyncio.gather(*(ask_again(trial, gateway) for trial in keyed))
            self._complain("", [f"{it} never ended" for it in await self.world.settled()])
            for trial, body in zip(keyed, again, strict=True):
                self._complain(trial.id, self._same(trial, body))
            for trial, before in self.trials:
                left = await self._remains(gateway, trial)
                complaints = judge(trial, left, self.world.ledger.calls, self.deaths - before)
                self._complain(f"{trial.id} ({trial.kind.name})", complaints)
            self._complain("database", self._database())
        finally:
            await gateway.kill()
            await gateway.forget()

    def _same(self, trial: Trial, body: dict[str, Any]) -> list[str]:
        if trial.told is not None and trial.told["id"] != body.get("id"):
            return [f"its key gave {trial.told['id']}, and now {body.get('id', body)}"]
        return []

    def _complain(self, about: str, complaints: Sequence[str]) -> None:
        self.tally.violations += [f"{about}: {complaint}" for complaint in complaints]

    async def _remains(self, gateway: Victim, trial: Trial) -> list[Remains]:
        query = (
            "SELECT id FROM responses WHERE NOT deleted "
            "AND json_extract(body, '$.metadata.trial') = ?"
        )
        found = self.world.rows(query, trial.id)
        return [await self._one(gateway, trial, response_id) for (response_id,) in found]

    async def _one(self, gateway: Victim, trial: Trial, response_id: str) -> Remains:
        path = f"/responses/{response_id}"
        body = (await gateway.http.get(path)).json()
        replay = await gateway.http.get(path, params={"stream": "true"})
        if replay.status_code != 200:
            return Remains(body, None, None)
        rest = None
        if seen := payloads(trial.saw):
            after = {"stream": "true", "starting_after": seen[-1]["sequence_number"]}
            rest = (await gateway.http.get(path, params=after)).content
        return Remains(body, replay.content, rest)

    def _database(self) -> list[str]:
        rows = self.world.rows
        [(verdict,)] = rows("PRAGMA integrity_check")
        complaints = [] if verdict == "ok" else [f"integrity_check says {verdict}"]
        held = "SELECT id, lock_holder FROM conversations WHERE lock_until > unixepoch()"
        complaints += [f"{name} is locked by {holder}" for name, holder in rows(held)]
        twice = (
            "SELECT conversation_id, payload FROM items WHERE conversation_id IS NOT NULL "
            "GROUP BY conversation_id, item_id HAVING count(*) > 1"
        )
        return complaints + [f"{name} has twice {item}" for name, item in rows(twice)]


def planned(points: Sequence[str], dice: random.Random) -> list[str]:
    """A fault at each point, at its first or a later pass."""
    return [f"{point}:{dice.randint(1, PASSES.get(point, 2))}" for point in points]


async def wreak(world: World, tally: Tally, faults: Sequence[str], dice: random.Random) -> None:
    """One round: kill a gateway by each fault, then judge."""
    round_ = Round(world, tally, dice)
    for fault in faults:
        await round_.kill_one(fault)
    await round_.settle()
