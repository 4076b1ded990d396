"""`smg db`: bring the database up to date, see how full it is, make it smaller, copy it.

Words of the command line come in, lines for a person go out. Each works while gateways run.
"""

import argparse
import asyncio
import math
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smg.errors import ConfigError
from smg.logs import set_up
from smg.places import database_url, shown_url
from smg.retention import DAY_SECONDS, Pace, forget
from smg.settings import add_flags, new_parser, read
from smg.storage import admin
from smg.storage.database import Database
from smg.storage.migrations import upgrade
from smg.storage.sql import SqlStore

PACE = Pace(pause_seconds=0.05, rows=500)
"""A person waits for it, so do gateways that want to write."""


def run(words: Sequence[str]) -> int:
    """Run `smg db upgrade|stats|prune|backup`; the exit status.

    Raises:
        ConfigError: something was given wrong.
        StorageError: the database does not answer.
    """
    name, *rest = words or [""]
    if name not in COMMANDS:
        known = ", ".join(f"`smg db {command}`" for command in COMMANDS)
        raise ConfigError(f"smg db: the commands are {known}")
    add_arguments, command = COMMANDS[name]
    parser = new_parser(str(command.__doc__))
    parser.usage = f"smg db {name} [--flag value ...]"
    add_arguments(parser)
    add_flags(parser)
    arguments = parser.parse_args(rest)
    settings = read(vars(arguments), os.environ)
    set_up(settings.log_level, as_json=settings.log_json)
    asyncio.run(command(database_url(settings), arguments))
    return 0


def _nothing(parser: argparse.ArgumentParser) -> None:
    del parser


def _age(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--older-than-days", type=_days, required=True, metavar="N", help="what to forget"
    )


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="made anew, for its owner only")
    parser.usage = "smg db backup FILE [--flag value ...]"


def _days(text: str) -> float:
    days = float(text)
    if not (math.isfinite(days) and days >= 0):
        raise argparse.ArgumentTypeError(f"expected days, got {text!r}")
    return days


@asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[Database, None]:
    database = admin.open_existing(url)
    try:
        yield database
    finally:
        await database.close()


async def _upgrade(url: str, _: argparse.Namespace) -> None:
    """Bring the database up to date."""
    await upgrade(url)
    _say(f"{shown_url(url)} is up to date")


async def _stats(url: str, _: argparse.Namespace) -> None:
    """Say how full the database is."""
    async with _opened(url) as database:
        await admin.check_current(database)
        found = await admin.stats(database)
    _say(f"{shown_url(url)}\n\n{'table':<20}{'rows':>12}{'bytes':>16}")
    for table in found.tables:
        _say(f"{table.name:<20}{table.rows:>12}{table.bytes:>16}")
    if found.unused_bytes:
        _say(f"{'(unused)':<32}{found.unused_bytes:>16}")
    _say(f"\noldest response       {_moment(found.oldest_response)}")
    _say(f"unfinished responses  {found.unfinished}")


async def _prune(url: str, arguments: argparse.Namespace) -> None:
    """Forget finished responses of a certain age, and return the space that they took."""
    async with _opened(url) as database:
        await admin.check_current(database)
        before = time.time() - arguments.older_than_days * DAY_SECONDS
        changed = await forget(SqlStore(database), before, PACE)
    _say(f"{changed} rows changed; nothing older is left to forget")


async def _backup(url: str, arguments: argparse.Namespace) -> None:
    """Copy the SQLite database into a new file, while gateways use it."""
    async with _opened(url) as database:
        await admin.backup(database, arguments.file)
    _say(f"{shown_url(url)} is copied to {arguments.file}")


def _moment(seconds: int | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


Command = Callable[[str, argparse.Namespace], Coroutine[Any, Any, None]]

COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Command]] = {
    "upgrade": (_nothing, _upgrade),
    "stats": (_nothing, _stats),
    "prune": (_age, _prune),
    "backup": (_target, _backup),
}
