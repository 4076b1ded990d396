"""The power fails under a gateway (F7): what a disk may then hold, and what must be on it.

A real gateway works; all that it writes is recorded. Afterwards the power is cut at many places of
the record, each time with another part of what was not synced gone.
"""

import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from smg.storage.sql import SqlStore
from smg.testing.engine import ScriptedEngine
from smg.testing.vocabulary import MODEL_PATH
from tests.durability.disk import Disk, Entry, Loss, entries, put_down, recording
from tests.durability.world import Process

TURNS = 40
LONG = "word " * 8000
"""An input that fills the log of the database, so that it is carried over and begun anew."""
CUTS_AT_SYNCS = CUTS_ANYWHERE = 10
DATABASE, SECRET = "state/smg.db", "state/smg.seal"


@dataclass(frozen=True)
class Told:
    """What the client knew when the record had this length."""

    at: int
    response_id: str
    frames: int = 0
    """How many of its stream had been seen."""
    is_over: bool = True


@dataclass(frozen=True)
class Found:
    """What a database holds."""

    statuses: dict[str, str]
    """By response, in the order in which they were begun."""
    frames: dict[str, list[int]]


class Client:
    """Asks one thing after the other, and remembers what it was told and when."""

    def __init__(self, gateway: Process, log: Path) -> None:
        self._http = gateway.http
        self._log = log
        self.told: list[Told] = []

    async def ask(self) -> None:
        answer = await self._http.post("/responses", json={"model": "scripted", "input": LONG})
        assert answer.status_code == 200, answer.text
        self._know(answer.json()["id"])

    async def listen(self) -> None:
        body = {"model": "scripted", "input": "[[say:a b c d e]]", "stream": True}
        async with self._http.stream("POST", "/responses", json=body) as answer:
            response_id = ""
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    response_id = response_id or event["response"]["id"]
                    is_over = event["type"] == "response.completed"
                    self._know(response_id, event["sequence_number"] + 1, is_over)

    def _know(self, response_id: str, frames: int = 0, is_over: bool = True) -> None:
        self.told.append(Told(self._log.stat().st_size, response_id, frames, is_over))


async def worked(
    folder: Path, synchronous: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Entry], list[Told]]:
    """What a gateway did to its disk, and what its client knew."""
    root, log = folder / "disk", folder / "disk.log"
    root.mkdir()
    for name, value in recording(folder, root, log).items():
        monkeypatch.setenv(name, value)
    async with ScriptedEngine() as engine:
        gateway = await Process.start(
            *("--worker-urls", engine.url, "--model-path", str(MODEL_PATH)),
            *("--database-url", str(root / DATABASE), "--synchronous", synchronous),
        )
        try:
            client = Client(gateway, log)
            for turn in range(TURNS):
                await (client.listen() if turn % 4 == 0 else client.ask())
        finally:
            await gateway.end()
    return list(entries(log.read_bytes())), client.told


@dataclass(frozen=True)
class Cut:
    """A disk after the power failed when the record had this length."""

    at: int
    folder: Path
    about: str


def cuts(record: Sequence[Entry], told: Sequence[Told], folder: Path, seed: int) -> Iterator[Cut]:
    """Cut the power here and there: after the first answer, around syncs, at any time."""
    rng = random.Random(seed)
    syncs = [n for n, entry in enumerate(record) if entry.kind == "s"]
    chosen = rng.sample(syncs, min(len(syncs), CUTS_AT_SYNCS))
    before_and_after = [n + step for n in chosen for step in (0, 1)]
    first = sum(entry.end <= told[0].at for entry in record)
    places = {first, *before_and_after, *rng.sample(range(len(record)), CUTS_ANYWHERE), len(record)}
    disk = Disk(folder / "disk")
    for n, entry in enumerate([*record, None]):
        if n in places:
            loss: Loss = "everything" if n == first else rng.choice(get_args(Loss))
            after = folder / f"after-{n}"
            put_down(disk.after_power_loss(loss, rng), after)
            at = record[n - 1].end if n else 0
            yield Cut(at, after, f"seed {seed}, cut {n} of {len(record)}, lost: {loss}")
        if entry is not None:
            disk.add(entry)


def found(cut: Cut) -> Found:
    """What is in the database, which must be sound; nothing, if it was not made yet."""
    file = cut.folder / DATABASE
    if not file.exists():
        return Found({}, {})
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], cut.about
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == [], cut.about
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchall():
            return Found({}, {})
        statuses = connection.execute("SELECT id, status FROM responses ORDER BY rowid").fetchall()
        frames: dict[str, list[int]] = {}
        for response_id, number in connection.execute(
            "SELECT response_id, sequence FROM events ORDER BY response_id, sequence"
        ):
            frames.setdefault(response_id, []).append(number)
    return Found(dict(statuses), frames)


def is_kept(told: Told, there: Found) -> bool:
    return (
        there.statuses.get(told.response_id) in ({"completed"} if told.is_over else STATUSES)
        and len(there.frames.get(told.response_id, ())) >= told.frames
    )


STATUSES = {"in_progress", "completed"}


def check_prefix(there: Found, told: Sequence[Told], about: str) -> None:
    """What is there is what was done first: nothing of later, while something earlier is gone."""
    asked = list(dict.fromkeys(each.response_id for each in told))
    ids = list(there.statuses)
    assert ids[: len(asked)] == asked[: len(ids)], about
    assert all(there.statuses[each] == "completed" for each in ids[:-1]), about
    for numbers in there.frames.values():
        assert numbers == list(range(len(numbers))), about


async def check_usable(cut: Cut, told: Sequence[Told]) -> None:
    """A gateway could start on it, and has its secret, if it had begun to answer."""
    secret = cut.folder / SECRET
    has_answered = told[0].at <= cut.at
    assert secret.exists() or not has_answered, cut.about
    assert not secret.exists() or len(secret.read_bytes()) == 32, cut.about
    store = await SqlStore.open(str(cut.folder / DATABASE))
    await store.close()


@pytest.mark.parametrize("seed", [1])
async def test_full_loses_nothing_that_was_acknowledged_when_the_power_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    record, told = await worked(tmp_path, "full", monkeypatch)
    for cut in cuts(record, told, tmp_path, seed):
        there = found(cut)
        check_prefix(there, told, cut.about)
        lost = [each for each in told if each.at <= cut.at and not is_kept(each, there)]
        assert lost == [], cut.about
        await check_usable(cut, told)


@pytest.mark.parametrize("seed", [1])
async def test_normal_loses_the_last_moments_at_most_when_the_power_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    record, told = await worked(tmp_path, "normal", monkeypatch)
    carried_over = [e.end for e in record if e.kind == "s" and e.path.endswith("-wal")]
    assert len(carried_over) >= 3  # The database's log was begun, and begun anew.
    lost: list[Told] = []
    for cut in cuts(record, told, tmp_path, seed):
        there = found(cut)
        check_prefix(there, told, cut.about)
        gone = [each for each in told if each.at <= cut.at and not is_kept(each, there)]
        safe_until = max((at for at in carried_over if at <= cut.at), default=0)
        assert [each for each in gone if each.at <= safe_until] == [], cut.about
        lost += gone
        await check_usable(cut, told)
    assert lost  # Or this test would see nothing at all.
