"""A backup in the place of a SQLite database that was damaged or deleted.

Paths come in; afterwards the file holds what the backup holds, and what was there lies beside it
under another name. Nothing is changed while somebody uses the database, nor if the backup is not
sound. PostgreSQL has tools of its own.
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection

from smg.errors import ConfigError, StorageDamaged, StorageError
from smg.folders import keep_names, make_folder
from smg.storage.admin import write_copy
from smg.storage.checkup import faults_in, looked_at
from smg.storage.file import index_of, log_of
from smg.storage.migrations import standing

# What SQLite locks as long as a connection in WAL mode is open (its files os.h and os_unix.c).
SHARED_IN_FILE = (0x40000002, 510)
SHARED_IN_INDEX = (128, 1)

REFUSED = {"none": "no database of smg", "newer": "of a newer smg"}


def restore(file: Path, backup: Path, moment: str) -> list[Path]:
    """Put a backup in place; where what was there is now. `moment` is for its name.

    Raises:
        ConfigError: there is no such backup, it is the database itself, or somebody uses that.
        StorageError: the backup is not sound, or could not be copied.
    """
    file = file.resolve()
    if not backup.is_file():
        raise ConfigError(f"--restore: there is no file {str(backup)!r}")
    if file.exists() and file.samefile(backup):
        raise ConfigError("--restore: this is the database itself; name a copy of it")
    make_folder(file.parent)
    with _alone_with(file):
        draft = file.with_name(f"{file.name}.restoring-{moment}")
        _copy(backup, draft)
        try:
            kept = _put_aside(file, moment)
            draft.replace(file)
            keep_names(file.parent)
        except OSError as error:
            with suppress(FileNotFoundError):
                draft.unlink()
            raise StorageError(f"{str(file)!r} was not replaced: {error}") from error
    return kept


def _copy(backup: Path, draft: Path) -> None:
    try:
        with looked_at(backup) as connection:
            _check(connection, backup)
            write_copy(connection, draft)
    except StorageDamaged as error:
        raise StorageError(f"The backup {str(backup)!r} is no good: {error.damage}") from error


def _check(connection: Connection, backup: Path) -> None:
    if faults := faults_in(connection):
        raise StorageDamaged(faults[0])
    found = standing(connection)
    if found in REFUSED:
        raise ConfigError(f"--restore: {str(backup)!r} is {REFUSED[found]}")


def _put_aside(file: Path, moment: str) -> list[Path]:
    """The database stays there under two names until the backup takes one of them."""
    aside = file.with_name(f"{file.name}.damaged-{moment}")
    kept = []
    if file.exists():
        os.link(file, aside)
        kept.append(aside)
    # Must go before the backup comes: what is in it would be written over the backup.
    if log_of(file).exists():
        log_of(file).rename(log_of(aside))
        kept.append(log_of(aside))
    with suppress(FileNotFoundError):
        index_of(file).unlink()
    return kept


@contextmanager
def _alone_with(file: Path) -> Generator[None, None, None]:
    """Keep everybody else away from a database for as long as the block lasts.

    Raises:
        ConfigError: somebody uses it.
    """
    with ExitStack() as stack:
        for path, (start, length) in (
            (file, SHARED_IN_FILE),
            (index_of(file), SHARED_IN_INDEX),
        ):
            if path.exists():
                descriptor = os.open(path, os.O_RDWR)
                # Closing any descriptor of a file gives up its locks: no other is opened meanwhile.
                stack.callback(os.close, descriptor)
                _lock(descriptor, start, length, file)
        yield


def _lock(descriptor: int, start: int, length: int, file: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):
        raise ConfigError(f"A process uses {str(file)!r}: stop the gateway first") from None
