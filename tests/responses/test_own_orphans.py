"""Responses whose lease has run out while this very process works on them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.e2e.gateway import MODEL, served

SLOW = "[[slow:1.5]] [[say:one two three four five six]]"


async def test_a_lease_that_could_not_be_renewed_in_time_is_not_taken_from_oneself(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, tools=False, lease_seconds=600.0) as gateway:
        stream = await gateway.openai.responses.create(model=MODEL, input=SLOW, stream=True)
        kinds = [(await anext(aiter(stream))).type]
        await gateway.engine.arrived(1)
        with closing(sqlite3.connect(tmp_path / "smg.db")) as database, database:
            database.execute("UPDATE responses SET lease_until = 0")
        assert await gateway.gateway.recovery.sweep() == 0
        kinds += [event.type async for event in stream]
    assert kinds[-1] == "response.completed"
