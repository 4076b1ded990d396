"""The file of a SQLite database: made for its owner only, and watched while it is open.

Somebody may delete a database that is in use, or put another one in its place. The connections
then still work, on a file that nobody will ever find again. So before each unit of work the path
is looked at, and after each that wrote, before anybody hears of it. Knows no SQL.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from smg.errors import StorageDamaged, StorageError
from smg.folders import keep_names, make_folder

log = logging.getLogger(__name__)

Identity = tuple[int, int]  # Device and inode: what a path leads to, whatever its name.

GONE = "the file {name} was deleted"
ANOTHER = "the file {name} is another one than was opened"
NEXT_STEP = (
    "Nothing is stored any more. Stop the gateway, look at it with `smg doctor`, put a backup back "
    "with `smg doctor --restore BACKUP`, and start it again"
)


def log_of(file: Path) -> Path:
    """Where SQLite keeps what was written lately and is not in the file yet."""
    return file.with_name(f"{file.name}-wal")


def index_of(file: Path) -> Path:
    """What the processes that use a file share; SQLite makes it anew."""
    return file.with_name(f"{file.name}-shm")


def bytes_on_disk(file: Path) -> int:
    """How much a SQLite file takes, with what was written lately and is not yet in it."""
    return sum(sizes_on_disk(file).values())


def sizes_on_disk(file: Path) -> dict[str, int]:
    """How much a SQLite file takes, and what was written lately and is not yet in it (wal)."""
    sizes = {"file": 0, "wal": 0}
    for part, each in zip(sizes, (file, log_of(file)), strict=True):
        with suppress(FileNotFoundError):
            sizes[part] = each.stat().st_size
    return sizes


class DatabaseFile:
    """The one file that was opened, and whether it is still there and sound."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it.

        Raises:
            StorageDamaged: it is gone, and has left what was written last.
            StorageError: it cannot be opened.
        """
        self.path = path
        self._damage: str | None = None
        self._identity = _made(path)
        self._log_identity: Identity | None = None

    @property
    def damage(self) -> str | None:
        """What is wrong with it, found out now or before; that stays so until it is opened anew."""
        if self._damage is None and (found := _difference(self.path, self._identity)):
            self.condemn(found)
        return self._damage

    def check(self) -> None:
        """Refuse to work on a file that is not the one that was opened, or is damaged.

        Raises:
            StorageDamaged: it is.
        """
        if (damage := self.damage) is not None:
            raise StorageDamaged(damage)

    def check_written(self) -> None:
        """Make sure that what was just written is where it will be looked for.

        Raises:
            StorageDamaged: it is not.
        """
        if self._log_identity is None:
            self._log_identity = _identity(log_of(self.path))
        elif found := _difference(log_of(self.path), self._log_identity):
            self.condemn(found)
        self.check()

    def reconnected(self) -> None:
        """Expect another log from now on: the last connection takes it away when it is closed."""
        self._log_identity = None

    def condemn(self, damage: str) -> None:
        """Trust it no more."""
        if self._damage is None:
            self._damage = damage
            log.critical("The database %s is damaged: %s. %s", self.path, damage, NEXT_STEP)


def _made(path: Path) -> Identity:
    try:
        is_new = not path.exists()
        if is_new and log_of(path).exists() and log_of(path).stat().st_size:
            # SQLite would throw it away, and with it what was written last.
            raise StorageDamaged(
                f"{path} is gone, and {log_of(path).name} is there. Put the file back, or a backup "
                "(`smg doctor --restore BACKUP`), or remove what is left of it"
            )
        make_folder(path.parent)
        descriptor = _opened(path)
        found = os.fstat(descriptor)
        os.close(descriptor)
        if is_new:
            keep_names(path.parent)
    except OSError as error:
        raise StorageError(f"The database {path} cannot be opened: {error.strerror}") from error
    return found.st_dev, found.st_ino


def _opened(path: Path) -> int:
    """Conversations are nobody else's business: SQLite's side files get the same mode."""
    try:
        # To be written: a file system in layers makes another file of it at that moment.
        return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _difference(path: Path, expected: Identity) -> str | None:
    found = _identity(path)
    if found == expected:
        return None
    return (GONE if found is None else ANOTHER).format(name=path.name)
