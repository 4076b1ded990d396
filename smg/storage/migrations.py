"""Brings a database to the tables of this version, by the Alembic scripts that come with it.

One transaction, under a lock that gateways starting at the same time share. It never goes back:
a database that is newer than the code is refused.
"""

from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

import smg
from smg.errors import ConfigError
from smg.storage.database import Database, open_database

PACKAGE = Path(smg.__file__).parent

Standing = Literal["none", "older", "current", "newer"]

ADVISORY_LOCK = 0x736D67  # "smg": any number that no other program takes on this database.


async def upgrade(url: str) -> None:
    """Bring the database at this URL up to date.

    Raises:
        ConfigError: the URL is wrong, or the database belongs to a newer gateway.
        StorageError: the database cannot be reached or written.
    """
    database = open_database(url)
    try:
        await migrate(database)
    finally:
        await database.close()


async def migrate(database: Database) -> None:
    """Bring an open database up to date."""

    def work(connection: Connection) -> None:
        if not database.is_sqlite:
            connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        _migrate(connection)

    await database.write(work)


def standing(connection: Connection) -> Standing:
    """How the tables stand to those of this version."""
    scripts = ScriptDirectory.from_config(_config(connection))
    found = set(MigrationContext.configure(connection).get_current_heads())
    if not found:
        return "none"
    if found - {script.revision for script in scripts.walk_revisions()}:
        return "newer"
    return "current" if found == set(scripts.get_heads()) else "older"


def is_current(connection: Connection) -> bool:
    """Whether the tables are those of this version."""
    return standing(connection) == "current"


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    return config


def _migrate(connection: Connection) -> None:
    config = _config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = set(MigrationContext.configure(connection).get_current_heads())
    if unknown := sorted(found - known):
        raise ConfigError(
            f"The database is of a newer version ({', '.join(unknown)}) than this gateway; "
            "use a newer smg, or restore a backup"
        )
    command.upgrade(config, "head")


def _scripts() -> Path:
    installed = PACKAGE / "_migrations"
    return installed if installed.is_dir() else PACKAGE.parent / "migrations"
