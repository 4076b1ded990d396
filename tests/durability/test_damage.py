"""A database that is damaged, deleted or replaced while a gateway uses it (F20)."""

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway import Served, served

PAGE = 4096


def delete(file: Path) -> None:
    file.unlink()


def delete_everything(file: Path) -> None:
    for path in file.parent.glob("smg.db*"):
        path.unlink()


def delete_the_log(file: Path) -> None:
    file.with_name("smg.db-wal").unlink()


def replace(file: Path) -> None:
    copy = file.with_name("copy.db")
    shutil.copy(file, copy)
    copy.replace(file)


def overwrite(file: Path) -> None:
    """Every page but the first, after the log was carried over."""
    carry_over(file)
    with file.open("r+b") as pages:
        pages.seek(PAGE)
        pages.write(os.urandom(file.stat().st_size - PAGE))


def overwrite_the_beginning(file: Path) -> None:
    carry_over(file)
    with file.open("r+b") as pages:
        pages.write(b"no database " * 8)


def carry_over(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


DAMAGES: dict[Callable[[Path], None], str] = {
    delete: "the file smg.db was deleted",
    delete_everything: "the file smg.db was deleted",
    delete_the_log: "the file smg.db-wal was deleted",
    replace: "the file smg.db is another one than was opened",
    overwrite: "what is in the file does not fit together",
    overwrite_the_beginning: "the file is not a database",
}


async def state(gateway: Served, path: str) -> tuple[int, Any]:
    answer = await gateway.http.get(gateway.url + path)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_a_database_that_is_damaged_in_use_is_refused_and_the_rest_goes_on(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    told = DAMAGES[damage]
    async with served(tmp_path, tools=False) as gateway:
        before = await gateway.post("/responses", input="[[say:one]]")
        assert before.status_code == 200
        damage(tmp_path / "smg.db")
        refused = await gateway.post("/responses", input="[[say:two]]", background=True)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "storage_damaged"
        assert refused.json()["error"]["message"] == f"The database is damaged: {told}"
        read = await gateway.http.get(f"/responses/{before.json()['id']}")
        assert (read.status_code, read.json()["error"]["code"]) == (503, "storage_damaged")
        assert await state(gateway, "/readiness") == (
            503,
            {"status": "not ready", "models_without_worker": [], "storage": f"damaged: {told}"},
        )
        assert await state(gateway, "/health") == (200, {"status": "ok"})
        kept_nowhere = await gateway.post("/responses", input="[[say:three]]", store=False)
        assert kept_nowhere.json()["output"][0]["content"][0]["text"] == "three"
        asked = len(gateway.engine.requests)
        plain = await gateway.post("/responses", input="[[say:four]]")
        assert plain.json()["error"]["code"] == "storage_damaged"
        assert len(gateway.engine.requests) == asked  # No model was bothered for nothing.
    [line] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "smg doctor --restore BACKUP" in line.getMessage()


async def test_nothing_is_acknowledged_that_went_to_a_deleted_file(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False) as gateway:
        assert (await gateway.post("/responses", input="[[say:one]]")).status_code == 200
        delete_the_log(tmp_path / "smg.db")  # The file itself is there: only a write can notice.
        answer = await gateway.post("/responses", input="[[say:two]]")
        assert answer.status_code == 503
        assert "was not saved" in answer.json()["error"]["message"]


async def test_a_database_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False) as gateway:
        assert (await gateway.post("/responses", input="[[say:one]]")).status_code == 200
        delete_everything(tmp_path / "smg.db")
        assert (await gateway.post("/responses", input="[[say:two]]")).status_code == 503
        assert not (tmp_path / "smg.db").exists()
