"""The databases that every storage test runs on."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from smg.storage.sql import SqlStore
from tests.storage.postgres import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite-file", "sqlite-memory", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    match request.param:
        case "sqlite-file":
            return f"sqlite:///{tmp_path / 'smg.db'}"
        case "sqlite-memory":
            return "sqlite:///:memory:"
        case _:
            server: Postgres = request.getfixturevalue("postgres")
            return await server.new_url()


@pytest.fixture(params=["sqlite-file", "sqlite-memory", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """An open, migrated, empty store on each kind of database."""
    match request.param:
        case "sqlite-file":
            url = f"sqlite:///{tmp_path / 'smg.db'}"
        case "sqlite-memory":
            url = "sqlite:///:memory:"
        case _:
            server: Postgres = request.getfixturevalue("postgres")
            url = await server.empty_url()
    store = await SqlStore.open(url)
    yield store
    await store.close()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For a socket: pytest's own folder may have too long a path."""
    with TemporaryDirectory(prefix="smg-", dir="/tmp") as folder:
        yield Path(folder)
