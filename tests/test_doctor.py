"""`smg doctor`: what it finds, what it says about it, and a backup put back."""

import asyncio
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from smg.advice import advise
from smg.cli import main
from smg.errors import StorageDamaged
from smg.settings import Settings
from smg.storage.sql import SqlStore
from tests.contracts.store import ANN, response
from tests.durability.test_damage import overwrite, overwrite_the_beginning
from tests.e2e.gateway import served
from tests.storage.postgres import running_postgres


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with a response in it, and its secret; the commands are about this one."""
    folder = tmp_path / "state"
    file = folder / "smg.db"
    asyncio.run(save(file, "a"))
    (folder / "smg.seal").write_bytes(bytes(32))
    (folder / "smg.seal").chmod(0o600)
    monkeypatch.setenv("SMG_DATABASE_URL", str(file))
    return file


async def save(file: Path, name: str) -> None:
    store = await SqlStore.open(str(file))
    await store.responses.save(response(name))
    await store.close()


async def holds(file: Path, name: str) -> bool:
    store = await SqlStore.open(str(file))
    try:
        return await store.responses.get(f"resp_{name}", ANN) == response(name)
    finally:
        await store.close()


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    capsys.readouterr()
    status = main(["doctor", *words])
    out, err = capsys.readouterr()
    return status, (out + err).splitlines()


def of_level(level: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(f"{level} ")]


def test_a_healthy_gateway_has_nothing_to_mend_and_is_left_alone(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(database.parent)
    status, lines = doctor(capsys)
    assert (status, of_level("warn", lines), of_level("bad", lines)) == (0, [], [])
    assert f"ok    {database} is its owner's alone (mode 0600)" in lines
    assert "ok    the tables are those of this version" in lines
    assert contents(database.parent) == before


def cut_an_index(file: Path) -> None:
    execute(
        file,
        "PRAGMA writable_schema = ON",
        "DELETE FROM sqlite_master WHERE name = 'ix_responses_status'",
    )


def orphan_an_item(file: Path) -> None:
    execute(file, "PRAGMA foreign_keys = OFF", "DELETE FROM responses")


def make_newer(file: Path) -> None:
    execute(file, "UPDATE alembic_version SET version_num = '9999'")


def open_to_all(file: Path) -> None:
    file.chmod(0o644)


def empty_the_secret(file: Path) -> None:
    file.with_name("smg.seal").write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (overwrite, "is damaged: "),
        (overwrite_the_beginning, "is damaged: the file is not a database"),
        (cut_an_index, "is damaged: "),
        (orphan_an_item, "is damaged: a row of items belongs to none of responses (and 1 more)"),
        (make_newer, "the tables are of a newer version  ->  use a newer smg"),
        (open_to_all, "is open to everybody (mode 0644)  ->  chmod 600"),
        (empty_the_secret, "smg.seal holds no whole secret"),
        (Path.unlink, "is gone; things around it are there  ->  stop the gateway and put a backup"),
    ],
)
def test_what_is_wrong_with_a_database_is_one_bad_line(
    database: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], told: str
) -> None:
    harm(database)
    status, lines = doctor(capsys)
    [line] = of_level("bad", lines)
    assert told in line
    assert status == 1


def test_a_database_that_is_still_to_be_made_is_no_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = doctor(capsys, "--database-url", str(tmp_path / "smg.db"))
    assert (status, of_level("bad", lines)) == (0, [])
    assert lines[0] == (
        f"warn  there is no database {tmp_path / 'smg.db'} yet  ->  "
        "nothing: the gateway makes it when it starts"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_postgresql_is_asked_how_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with running_postgres() as server:
        url = asyncio.run(server.empty_url())
        status, lines = doctor(capsys, "--database-url", url)
    assert (status, of_level("bad", lines)) == (0, [])
    assert any(line.startswith("ok    PostgreSQL ") for line in lines)
    assert "ok    the tables are those of this version" in lines
    told = "warn  PostgreSQL runs with fsync=off  ->  turn it on: a power loss costs data"
    assert told in lines
    status, lines = doctor(capsys, "--database-url", url)
    assert status == 1
    assert "is the server running" in of_level("bad", lines)[0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"host": "0.0.0.0"}, "bad   --host 0.0.0.0 lets anybody in without a key"),
        (
            {"api_key": ("k" * 16,), "admin_key": "k" * 16},
            "bad   --admin-key is also one of --api-key",
        ),
        ({"api_key": ("short",)}, "warn  --api-key has less than 16 characters"),
        (
            {"metrics_port": 9100, "metrics_host": "10.0.0.1"},
            "warn  --metrics-host 10.0.0.1 shows metrics to anybody",
        ),
        (
            {"allow_request_mcp": ("mcp.example.com",)},
            "warn  --allow-request-mcp lets anybody have these hosts called",
        ),
        (
            {"allow_request_mcp": ("mcp.example.com,10.0.0.7:8000",), "api_key": ("k" * 16,)},
            "warn  --allow-request-mcp lets requests reach into your own network: 10.0.0.7:8000",
        ),
        (
            {"worker_urls": ("grpc://10.0.0.3:50051",)},
            "warn  worker 10.0.0.3: prompts go over the network in plain text  ->  use grpcs://",
        ),
        (
            {"worker_urls": ("http://engine/v1",), "worker_api_key": "k" * 16},
            "bad   worker engine: its key goes over the network in plain text",
        ),
    ],
)
def test_an_unsafe_setting_is_told(given: dict[str, Any], told: str) -> None:
    [line] = [finding.line for finding in advise(Settings(**given)) if finding.level != "ok"]
    assert line.startswith(told)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"host": "::1", "worker_urls": ("grpc://127.0.0.1:1", "http://localhost:8000/v1")},
        {"host": "0.0.0.0", "api_key": ("k" * 16,), "worker_urls": ("grpcs://10.0.0.3:50051",)},
    ],
)
def test_safe_settings_give_no_advice(given: dict[str, Any]) -> None:
    assert [each.line for each in advise(Settings(**given)) if each.level != "ok"] == []


def test_an_mcp_file_with_credentials_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text("{}")
    path.chmod(0o644)
    [line] = [e.line for e in advise(Settings(mcp_config_path=str(path))) if e.level == "warn"]
    assert "everybody may read it (mode 0644)" in line


def test_a_secret_on_the_command_line_is_told_and_not_repeated(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = doctor(capsys, "--api-key", "my-secret-my-secret")
    assert status == 0
    assert of_level("warn", lines) == [
        "warn  --api-key is on the command line, where `ps` shows it  ->  use SMG_API_KEY"
    ]


@pytest.mark.parametrize("harm", [overwrite, Path.unlink])
def test_a_backup_is_put_back_and_what_was_there_is_kept(
    database: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None]
) -> None:
    backup = database.parent.parent / "backup.db"
    assert main(["db", "backup", str(backup)]) == 0
    asyncio.run(save(database, "after"))
    harm(database)
    log = database.with_name("smg.db-wal")
    log.write_bytes(b"what SQLite must not find")
    damaged = database.read_bytes() if database.exists() else None
    status, lines = doctor(capsys, "--restore", str(backup))
    assert (status, lines[0]) == (
        0,
        f"{database} holds what {backup} holds; start the gateway again",
    )
    kept = {path.name.partition("Z")[2]: path for path in database.parent.glob("*.damaged-*")}
    assert kept["-wal"].read_bytes() == b"what SQLite must not find"
    assert (kept[""].read_bytes() if "" in kept else None) == damaged
    assert lines[1:] == [f"what was there is kept: {kept[key]}" for key in sorted(kept)]
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert asyncio.run(holds(database, "a"))
    assert doctor(capsys)[0] == 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (overwrite, "is no good: "),
        (overwrite_the_beginning, "is no good: the file is not a database"),
        (make_newer, "is of a newer smg"),
        (lambda file: execute(file, "DROP TABLE alembic_version"), "is no database of smg"),
        (Path.unlink, "--restore: there is no file"),
    ],
)
def test_a_backup_that_is_no_good_changes_nothing(
    database: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], told: str
) -> None:
    backup = database.parent.parent / "backup.db"
    assert main(["db", "backup", str(backup)]) == 0
    spoil(backup)
    before = contents(database.parent)
    status, lines = doctor(capsys, "--restore", str(backup))
    assert status == 2
    assert told in lines[0]
    assert contents(database.parent) == before


def test_the_database_is_no_backup_of_itself(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, [line] = doctor(capsys, "--restore", str(database))
    assert (status, line) == (2, "smg: --restore: this is the database itself; name a copy of it")


async def smg(*words: str) -> tuple[int | None, str]:
    """A process of its own: locks are between processes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "smg", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode()


async def test_a_gateway_finds_damage_is_stopped_and_goes_on_with_a_backup(tmp_path: Path) -> None:
    file, backup = tmp_path / "smg.db", tmp_path / "backup.db"
    url = ("--database-url", str(file))
    async with served(tmp_path, tools=False) as gateway:
        kept = (await gateway.post("/responses", input="[[say:one]]")).json()
        assert (await smg("db", "backup", str(backup), *url))[0] == 0
        overwrite(file)
        refused = await gateway.post("/responses", input="[[say:two]]", background=True)
        assert refused.json()["error"]["code"] == "storage_damaged"
        status, told = await smg("doctor", *url)
        assert status == 1
        assert f"bad   {file} is damaged: " in told
        status, told = await smg("doctor", "--restore", str(backup), *url)
        assert (status, told) == (2, f"smg: A process uses '{file}': stop the gateway first\n")
    status, told = await smg("doctor", "--restore", str(backup), *url)
    assert status == 0, told
    async with served(tmp_path, tools=False) as gateway:
        again = await gateway.http.get(f"/responses/{kept['id']}")
        assert again.json() == kept
        more = await gateway.post("/responses", input="[[echo]]", previous_response_id=kept["id"])
        assert more.status_code == 200
    assert (await smg("doctor", *url))[0] == 0


async def test_a_log_without_its_database_is_not_thrown_away_by_a_start(tmp_path: Path) -> None:
    file = tmp_path / "smg.db"
    log = file.with_name("smg.db-wal")
    store = await SqlStore.open(str(file))
    await store.responses.save(response("a"))
    shutil.copy(log, tmp_path / "left")
    await store.close()
    file.unlink()
    shutil.move(tmp_path / "left", log)
    with pytest.raises(StorageDamaged, match=r"smg\.db is gone, and smg\.db-wal is there"):
        await SqlStore.open(str(file))
    assert os.listdir(tmp_path) == ["smg.db-wal"]
