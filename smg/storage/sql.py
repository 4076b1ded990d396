"""The store on a SQL database: opens and migrates it, and is the whole of it for the rest."""

from typing import Self

from smg.storage import purge
from smg.storage.admin import Stats, stats
from smg.storage.approvals import SqlApprovals
from smg.storage.conversations import SqlConversations
from smg.storage.database import Database, open_database
from smg.storage.journal import SqlJournal
from smg.storage.measured import MeasuredDatabase, Told
from smg.storage.migrations import migrate
from smg.storage.pins import SqlPins
from smg.storage.responses import SqlResponses
from smg.storage.sqlite import Synchronous
from smg.storage.work import BUSY_SECONDS
from smg.storage.workers import SqlWorkers


class SqlStore:
    """A Store on SQLite or PostgreSQL; `open` makes one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.responses = SqlResponses(database)
        self.conversations = SqlConversations(database)
        self.journal = SqlJournal(database)
        self.approvals = SqlApprovals(database)
        self.workers = SqlWorkers(database)
        self.pins = SqlPins(database)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        synchronous: Synchronous = "normal",
        busy_seconds: float = BUSY_SECONDS,
        told: Told = lambda *_: None,
    ) -> Self:
        """The store at a URL or a file's path, brought up to date.

        `synchronous="full"` makes SQLite wait for the disk: a power loss then takes nothing
        that was saved. Without it a crash of the gateway loses nothing either, but a power loss
        may take the last moments. `busy_seconds` is how long a writer waits for its turn, and
        then for another process, before it gives up. `told` hears of each transaction.

        Raises:
            ConfigError: the URL is wrong, or the database belongs to a newer gateway.
            StorageError: the database cannot be reached or written.
        """
        database = open_database(url, synchronous=synchronous, busy_seconds=busy_seconds)
        try:
            await migrate(database)
        except BaseException:
            await database.close()
            raise
        return cls(MeasuredDatabase(database, told))

    @property
    def damage(self) -> str | None:
        """Why nothing can be stored until the gateway is started again; `None`: it can."""
        return self._database.damage

    async def stats(self) -> Stats:
        """How full the database is; may take long.

        Raises:
            StorageError: it does not answer.
        """
        return await stats(self._database)

    async def give_back(self, pages: int) -> int:
        """Return a little unused space to the disk; how many pages are still unused."""
        if not self._database.is_sqlite:
            return 0  # PostgreSQL's own vacuum looks after that.
        return await self._database.write(lambda c: purge.give_back(c, pages))

    async def close(self) -> None:
        """Finish what is being written and let the database go."""
        await self._database.close()
