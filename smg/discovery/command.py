"""`smg workers`: what each worker is, and how it is, as a table.

Settings in, lines out. Each worker is asked once; one that does not answer is a line too.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from smg.discovery.candidates import Candidate, Known, new_candidates
from smg.discovery.halves import is_split, read_prefill
from smg.engines.base import EngineLoad
from smg.errors import EngineError
from smg.settings import Settings
from smg.startup import new_connection

HEADER: Final = ("WORKER", "ENGINE", "VERSION", "MODEL", "CONTEXT", "HEALTH", "LOAD")
UNKNOWN: Final = "-"

Row = tuple[str, ...]


def run(settings: Settings) -> int:
    """Print the table; the exit status is 1 if a worker is not healthy."""
    rows = asyncio.run(_rows(settings))
    sys.stdout.write(table([HEADER, *rows]))
    return 0 if all(row[HEADER.index("HEALTH")] == "healthy" for row in rows) else 1


def table(rows: Sequence[Row]) -> str:
    """Rows under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


async def _rows(settings: Settings) -> list[Row]:
    if is_split(settings):
        halves = (*(url for url, _ in read_prefill(settings.prefill)), *settings.decode)
        settings = replace(settings, worker_urls=halves)
    candidates = new_candidates(settings, new_connection(settings), os.environ)
    try:
        found = await asyncio.gather(*map(_rows_of, candidates))
    finally:
        await asyncio.gather(*(candidate.close() for candidate in candidates))
    return [row for rows in found for row in rows]


async def _rows_of(candidate: Candidate) -> list[Row]:
    try:
        answer = await candidate.ask()
    except EngineError as error:
        return [(candidate.url, *[UNKNOWN] * 4, f"no answer: {error.message}", UNKNOWN)]
    try:
        return [await _row(candidate.url, known) for known in answer]
    finally:
        await asyncio.gather(*(known.engine.close() for known in answer))


async def _row(url: str, known: Known) -> Row:
    health, load = await asyncio.gather(_health(known), _load(known))
    info = known.info
    return (
        url,
        info.engine,
        info.version or (load.version if load else "") or UNKNOWN,
        info.model or UNKNOWN,
        str(info.context_length or UNKNOWN),
        health,
        _shown(load),
    )


async def _health(known: Known) -> str:
    try:
        await known.engine.check()
    except EngineError as error:
        return f"sick: {error.message}"
    return "healthy"


async def _load(known: Known) -> EngineLoad | None:
    try:
        return await known.engine.load()
    except EngineError:
        return None  # Not every engine tells.


def _shown(load: EngineLoad | None) -> str:
    if load is None:
        return UNKNOWN
    return f"{load.running} running, {load.waiting} waiting, {load.token_usage:.0%} of KV cache"
