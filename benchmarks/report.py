"""Measurements to the table that people read, and to RESULTS.md."""

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.load import percentile

RESULTS = Path(__file__).parent / "RESULTS.md"
NEWEST = "<!-- newest below -->\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement of one gateway."""

    per_second: float
    cpu_ms: float
    """Of the gateway, for each answer."""
    first_ms: Sequence[float]
    """From the request to each stream's first text, less what the engine takes."""
    took_p50_ms: float
    took_p99_ms: float
    bytes_per_answer: float
    cores: Sequence[float]
    """In use by the gateway, the engine and the clients."""


@dataclass(slots=True, kw_only=True)
class Run:
    """All measurements of one run."""

    engine: str
    tokens: int
    options: dict[str, object]
    cells: dict[str, dict[str, list[Cell]]] = field(default_factory=dict)
    """By load and gateway."""
    engine_first_ms: dict[int, float] = field(default_factory=dict)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    """MiB at the end and at most, by gateway."""

    def add(self, load: str, gateway: str, cell: Cell) -> None:
        """Keep one measurement."""
        self.cells.setdefault(load, {}).setdefault(gateway, []).append(cell)


def report(run: Run) -> str:
    """The run as Markdown."""
    return "\n".join([*_facts(run), "", *_table(run), "", *_memory(run), ""])


def record(text: str) -> None:
    """Put a report on top of those in RESULTS.md."""
    before, mark, after = RESULTS.read_text().partition(NEWEST)
    RESULTS.write_text(f"{before}{mark}\n{text}{after}")


def _facts(run: Run) -> Iterator[str]:
    said = ", ".join(f"{name} {value}" for name, value in run.options.items())
    yield f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}"
    yield ""
    yield f"- {machine()}; load average {', '.join(f'{n:.1f}' for n in os.getloadavg())}"
    yield f"- {run.engine}, answers of {run.tokens} tokens, one token a message; {said}"
    firsts = ", ".join(f"{ms:.2f}" for ms in run.engine_first_ms.values())
    yield f"- the engine's own first token: {firsts} ms (median; without, with the pause)"


def _table(run: Run) -> Iterator[str]:
    yield (
        "| load | gateway | answers/s | CPU ms/answer (least–most) | CPU µs/token "
        "| p50/p99 ms | added TTFT p50/p99 ms | bytes/answer | cores: gateway, engine, clients |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---|"
    for load, by_gateway in run.cells.items():
        for gateway, cells in by_gateway.items():
            yield _row(load, gateway, cells, run.tokens)
        if len(by_gateway) == 2:
            yield _ratios(*by_gateway.values())


def _row(load: str, gateway: str, cells: Sequence[Cell], tokens: int) -> str:
    cpu = _median(cells, lambda cell: cell.cpu_ms)
    least, most = min(cell.cpu_ms for cell in cells), max(cell.cpu_ms for cell in cells)
    took = (_median(cells, lambda cell: cell.took_p50_ms), _median(cells, _p99))
    cores = [statistics.median(cell.cores[place] for cell in cells) for place in range(3)]
    columns = [
        load,
        gateway,
        f"{_median(cells, _rate):.0f}",
        f"{cpu:.2f} ({least:.2f}–{most:.2f})",
        f"{cpu / tokens * 1e3:.1f}",
        f"{took[0]:.1f} / {took[1]:.1f}",
        _firsts(cells),
        f"{_median(cells, lambda cell: cell.bytes_per_answer):.0f}",
        ", ".join(f"{value:.2f}" for value in cores),
    ]
    return f"| {' | '.join(columns)} |"


def _ratios(ours: Sequence[Cell], peers: Sequence[Cell]) -> str:
    rate = _median(ours, _rate) / _median(peers, _rate)
    cpu = _median(ours, lambda cell: cell.cpu_ms) / _median(peers, lambda cell: cell.cpu_ms)
    return f"| | *ours : peer* | *{rate:.2f}* | *{cpu:.2f}* | *{cpu:.2f}* | | | | |"


def _rate(cell: Cell) -> float:
    return cell.per_second


def _p99(cell: Cell) -> float:
    return cell.took_p99_ms


def _firsts(cells: Sequence[Cell]) -> str:
    firsts = [ms for cell in cells for ms in cell.first_ms]
    if not firsts:
        return ""
    return f"{percentile(firsts, 0.5):.1f} / {percentile(firsts, 0.99):.1f}"


def _median(cells: Sequence[Cell], value: Callable[[Cell], float]) -> float:
    return statistics.median(map(value, cells))


def _memory(run: Run) -> Iterator[str]:
    for gateway, (now, most) in run.memory.items():
        yield f"- {gateway}: {now:.0f} MiB resident after the loads, {most:.0f} MiB at most"


def commit() -> str:
    made = _git("rev-parse", "--short", "HEAD") or "unknown"
    changed = " with changes" if _git("status", "--porcelain", "--", "smg") else ""
    return f"{made}{changed}"


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    return f"{os.cpu_count()} cores of {cpu}, Python {platform.python_version()}"
