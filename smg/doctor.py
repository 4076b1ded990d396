"""`smg doctor`: is the database well, are the settings safe; and a backup put in its place.

Words of the command line come in, one line for each finding goes out. What is checked is in
smg.storage.checkup and smg.advice.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from smg.advice import advise
from smg.errors import ConfigError
from smg.findings import Finding, bad, ok, warn
from smg.logs import set_up
from smg.places import database_url, shown_url
from smg.settings import Settings, add_flags, flag_of, new_parser, read, variable_of
from smg.storage.checkup import check_file, check_privacy, check_server
from smg.storage.database import is_in_memory, sqlite_file
from smg.storage.restore import restore


def run(words: Sequence[str]) -> int:
    """Run `smg doctor`; the exit status: 1 if something is bad.

    Raises:
        ConfigError: something was given wrong.
        StorageError: the backup could not be put in place.
    """
    parser = new_parser(
        "Say whether the database is well and the settings are safe; give it the gateway's own "
        "flags and environment. Nothing is changed, unless --restore is given."
    )
    parser.usage = "smg doctor [--restore BACKUP] [--flag value ...]"
    parser.add_argument(
        "--restore", type=Path, metavar="BACKUP", help="put a backup in the database's place"
    )
    add_flags(parser)
    arguments = parser.parse_args(words)
    settings = read(vars(arguments), os.environ)
    set_up(settings.log_level, as_json=settings.log_json)
    if arguments.restore is not None:
        return _restore(database_url(settings), arguments.restore)
    return _tell([*_database(settings), *advise(settings), *_shown(arguments)])


def _tell(findings: Sequence[Finding]) -> int:
    for finding in findings:
        _say(finding.line)
    return 1 if any(finding.level == "bad" for finding in findings) else 0


def _restore(url: str, backup: Path) -> int:
    file = sqlite_file(url)
    if file is None:
        raise ConfigError("--restore is for a SQLite file; for PostgreSQL use pg_restore")
    kept = restore(file, backup, datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    _say(f"{file} holds what {backup} holds; start the gateway again")
    for path in kept:
        _say(f"what was there is kept: {path}")
    return 0


def _database(settings: Settings) -> Iterator[Finding]:
    url = database_url(settings)
    file = sqlite_file(url)
    if file is not None:
        yield from check_file(file)
    elif is_in_memory(url):
        yield warn("the database is in memory: it goes with the process", "--database-url FILE")
    else:
        yield ok(f"the database is {shown_url(url)}")
        yield from asyncio.run(check_server(url))
    yield from _seal(settings, file)


def _seal(settings: Settings, file: Path | None) -> Iterator[Finding]:
    if settings.seal_key:
        yield ok("what clients keep is sealed with --seal-key")
    elif file is None:
        yield warn(
            "each gateway seals what clients keep with a secret of its own",
            "give all of them one --seal-key (SMG_SEAL_KEY)",
        )
    else:
        yield from _secret(file.with_name("smg.seal"))


def _secret(path: Path) -> Iterator[Finding]:
    if not path.is_file():
        yield warn(
            f"there is no {path}: it is made at the start",
            "put the old one back, if there was one; what was sealed with it cannot be read else",
        )
    elif path.stat().st_size < 32:
        yield bad(f"{path} holds no whole secret", "put the old one back, or remove it")
    else:
        yield from check_privacy([path])


def _shown(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Secrets that everybody on the machine can read in the list of processes."""
    for flag in ("api_key", "admin_key", "seal_key", "worker_api_key"):
        if getattr(arguments, flag) is not None:
            yield warn(
                f"{flag_of(flag)} is on the command line, where `ps` shows it",
                f"use {variable_of(flag)}",
            )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
