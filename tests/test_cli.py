"""The command line, as people meet it."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from smg import __version__
from smg.cli import main


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "smg", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "x"], "--port: expected a whole number, got 'x'"),
        (["launch", "--port", "x"], "--port: expected a whole number, got 'x'"),
        (["start", "--port", "x"], "--port: expected a whole number, got 'x'"),
        (["--nowhere"], "unrecognized arguments: --nowhere"),
        (["serve"], "unknown command 'serve'; there are launch, "),
        (["db"], "smg db: the commands are `smg db upgrade`, "),
        (["db", "drop"], "smg db: the commands are `smg db upgrade`, "),
        (["demo", "--port", "x"], "argument --port: invalid int value: 'x'"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"smg: {message}")


def test_a_wrong_variable_is_one_line_and_status_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMG_PORT", "x")
    assert main([]) == 2
    assert capsys.readouterr().err == "smg: SMG_PORT: expected a whole number, got 'x'\n"


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_told(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([flag])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"smg {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["launch", "-h"], ["db", "upgrade", "-h"]])
def test_help_is_in_groups(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: smg ")
    assert "\nWorkers:\n  --worker-urls URL" in out
    assert "\nStorage:\n" in out


def test_a_gateway_without_workers_does_not_start() -> None:
    ended = run("launch", "--port", "0", "--database-url", "sqlite:///:memory:")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "smg: --worker-urls: name at least one worker, as grpc://host:port"
    ]


def test_a_mistake_is_told_without_loading_the_libraries() -> None:
    code = (
        "import sys; from smg.cli import main; status = main(['--port', 'x']); "
        "print(status, {'grpc', 'fastapi', 'transformers'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "2 set()\n"


def test_db_upgrade_brings_a_new_file_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    ended = run("db", "upgrade", SMG_DATABASE_URL=f"sqlite:///{path}")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"sqlite:///{path} is up to date\n"
    with sqlite3.connect(path) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert {"responses", "alembic_version"} <= tables


def test_db_upgrade_does_not_show_a_password() -> None:
    ended = run("db", "upgrade", "--database-url", "postgresql://me:secret@127.0.0.1:1/nowhere")
    assert ended.returncode == 2
    assert "secret" not in ended.stdout + ended.stderr
    assert len(ended.stderr.splitlines()) == 1
