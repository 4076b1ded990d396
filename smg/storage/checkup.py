"""Whether a database is well: its file, what is in it, and the room it has.

A file's path or a URL comes in, findings come out. Nothing is changed, and a gateway may run
meanwhile. Knows neither the command line nor the gateway's settings.
"""

import shutil
import sqlite3
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from smg.errors import StorageDamaged, StorageError
from smg.findings import Finding, bad, ok, warn
from smg.storage.database import open_database
from smg.storage.file import bytes_on_disk, index_of, log_of
from smg.storage.migrations import Standing, standing
from smg.storage.work import database_errors

MIB = 1024 * 1024
ROOM_NEEDED = 64 * MIB
ROOM_WANTED = 512 * MIB
LARGE_LOG = 64 * MIB
"""SQLite carries its log over every 4 MiB; one that is so much larger is not carried over."""

RESTORE = "stop the gateway and put a backup back: smg doctor --restore BACKUP"


def check_file(file: Path) -> Iterator[Finding]:
    """Everything about a SQLite database in a file."""
    if not file.is_file():
        yield _missing(file)
        return
    yield from check_privacy([file, log_of(file), index_of(file)])
    yield from _contents(file)
    yield _log(file)
    yield _room(file)


def check_privacy(files: list[Path]) -> Iterator[Finding]:
    """Whether these files, where they are there, are their owner's alone."""
    for file in files:
        if not file.exists():
            continue
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            who = "everybody" if mode & 0o007 else "its group"
            yield bad(f"{file} is open to {who} (mode {mode:04o})", f"chmod 600 {file}")
        else:
            yield ok(f"{file} is its owner's alone (mode {mode:04o})")


async def check_server(url: str) -> list[Finding]:
    """Everything about a PostgreSQL database."""
    database = open_database(url, away_seconds=0)
    try:
        return await database.read(lambda connection: list(_server(connection)))
    except StorageError as error:
        return [bad(error.message, "is the server running, and is --database-url right?")]
    finally:
        await database.close()


@contextmanager
def looked_at(file: Path) -> Generator[Connection, None, None]:
    """A SQLite file, to be read only; nothing is made beside it.

    Raises:
        StorageDamaged: it is no sound database.
        StorageError: it cannot be read.
    """
    # Without a log nobody is using it, and one would be made.
    mode = "mode=ro" if log_of(file).exists() else "mode=ro&immutable=1"
    location = f"file:{quote(str(file))}?{mode}"
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(location, uri=True),
        poolclass=NullPool,
        hide_parameters=True,
    )
    with database_errors(), engine.connect() as connection:
        yield connection


def faults_in(connection: Connection) -> list[str]:
    """What does not fit together in a SQLite database, in SQLite's words."""
    found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    lines = [line for text in found for line in str(text).splitlines() if line != "ok"]
    if not lines:
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        lines = [f"a row of {row[0]} belongs to none of {row[2]}" for row in broken]
    return lines


def _missing(file: Path) -> Finding:
    if log_of(file).exists() or file.with_name("smg.seal").exists():
        return bad(f"the database {file} is gone; things around it are there", RESTORE)
    return warn(f"there is no database {file} yet", "nothing: the gateway makes it when it starts")


def _contents(file: Path) -> Iterator[Finding]:
    try:
        with looked_at(file) as connection:
            faults = faults_in(connection)
            if faults:
                yield _damaged(file, faults)
            else:
                yield ok(f"{file} is sound ({bytes_on_disk(file) / MIB:.1f} MiB)")
                yield _version(standing(connection))
    except StorageDamaged as error:
        yield _damaged(file, [error.damage])
    except StorageError as error:
        yield bad(error.message, f"who may read {file}? Run this as the gateway's user")


def _damaged(file: Path, faults: list[str]) -> Finding:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return bad(f"{file} is damaged: {faults[0]}{more}", RESTORE)


def _version(found: Standing) -> Finding:
    match found:
        case "current":
            return ok("the tables are those of this version")
        case "older":
            return warn("the tables are of an older version", "smg db upgrade, or start smg")
        case "newer":
            return bad("the tables are of a newer version", "use a newer smg, or restore a backup")
        case "none":
            return warn(
                "there are no tables of smg in it", "is --database-url right? Else: start smg"
            )


def _log(file: Path) -> Finding:
    size = log_of(file).stat().st_size if log_of(file).exists() else 0
    told = f"{log_of(file).name} has {size / MIB:.1f} MiB"
    if size < LARGE_LOG:
        return ok(told)
    return warn(told, "start the gateway again; is another program reading the database all day?")


def _room(file: Path) -> Finding:
    free = shutil.disk_usage(file.parent).free
    told = f"{free / MIB:.0f} MiB are free beside {file.name}"
    if free < ROOM_NEEDED:
        return bad(told, "make room, or smg db prune --older-than-days N")
    if free < max(ROOM_WANTED, bytes_on_disk(file)):
        return warn(told, "make room: a backup, or a restore, would not fit well")
    return ok(told)


def _server(connection: Connection) -> Iterator[Finding]:
    version = connection.exec_driver_sql("SHOW server_version").scalar_one()
    yield ok(f"PostgreSQL {version} answers")
    yield _version(standing(connection))
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        if connection.exec_driver_sql(f"SHOW {setting}").scalar_one() == "off":
            yield warn(f"PostgreSQL runs with {setting}=off", "turn it on: a power loss costs data")
