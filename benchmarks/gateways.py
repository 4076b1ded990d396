"""How the gateways that are compared are started: this one, and the published `smg` package.

Both as they come, told the same; what else a benchmark wants of them comes as further flags.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import free_port

OURS, PEER = "this smg", "smg 1.13.0"


@dataclass(frozen=True, slots=True)
class Command:
    """A gateway's command line."""

    name: str
    port: int
    words: Sequence[str]


def ours(workers: Sequence[str], model: Path, database: Path, *flags: str) -> Command:
    """This gateway, on an SQLite file."""
    port = free_port()
    program = [sys.executable, "-m", "smg", *_same_flags(workers, model, port)]
    stored = ["--database-url", f"sqlite:///{database}", "--log-level", "warning"]
    return Command(OURS, port, [*program, *stored, *flags])


def peer(program: str, workers: Sequence[str], model: Path, *flags: str) -> Command:
    """The peer as it comes: it keeps responses in memory, as it has no SQLite."""
    port = free_port()
    metrics = ["--prometheus-port", str(free_port()), "--prometheus-host", "127.0.0.1"]
    same = _same_flags(workers, model, port)
    # Its package has our name: it must not find us where this program does.
    alone = ["env", "-u", "PYTHONPATH", program, "launch"]
    return Command(PEER, port, [*alone, *same, *metrics, "--log-level", "warn", *flags])


def _same_flags(workers: Sequence[str], model: Path, port: int) -> list[str]:
    return [
        *("--worker-urls", *workers, "--model-path", str(model)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
