"""Rows of `fleet_real.py` to the table that people read."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.report import commit, machine

MEASURE = "round_robin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one gateway made of the workload with one policy."""

    gateway: str
    policy: str
    p50_s: float = 0.0
    """To the first text; the next two, too."""
    p99_s: float = 0.0
    mean_s: float = 0.0
    tokens_per_s: float = 0.0
    found: float = 0.0
    """The part of all prompt tokens that engines had in their caches."""
    evicted_tokens: float = 0
    busiest: float = 0.0
    """Prompt tokens of the busiest engine, to the mean."""
    late_p99_s: float = 0.0
    """How much later than meant questions were asked."""
    slowed: float = 0.0
    """How many times longer than meant engines took, because timers were late."""
    errors: Sequence[str] = ()
    cores: Sequence[float] = ()
    """In use by the gateway, the engines and the clients."""
    failed: str = ""
    """Why there is nothing to tell."""

    def line(self) -> str:
        """Its numbers, without what they are compared with."""
        if self.failed:
            return f"did not run: {' '.join(self.failed.split())}"
        return (
            f"TTFT {self.p50_s:.2f} / {self.p99_s:.2f} / {self.mean_s:.2f} s, "
            f"{self.tokens_per_s:.0f} tokens/s, {100 * self.found:.0f} % found, "
            f"{len(self.errors)} errors"
        )


def report(rows: Sequence[Row], facts: str) -> str:
    """The rows as Markdown."""
    return "\n".join([*_head(facts), *_table(rows), "", *_errors(rows)])


def _head(facts: str) -> Iterator[str]:
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    yield f"## Policies before a fleet of real processes, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    yield ""
    yield f"- commit {commit()}; {machine()}; load average at the end {loads}"
    yield f"- {facts}"
    yield ""


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| policy | gateway | TTFT p50 s | p99 s | mean s | mean, times shorter than "
        f"{MEASURE} | p99, the same | tokens/s | prompt found | evicted tokens | busiest/mean "
        "| errors | cores: gateway, engines, clients | asked late p99 ms; engines took, to meant |"
    )
    yield f"|---|---|{'---:|' * 10}---|---|"
    measures = {row.gateway: row for row in rows if row.policy == MEASURE and not row.failed}
    for row in rows:
        yield _line(row, measures.get(row.gateway))


def _line(row: Row, measure: Row | None) -> str:
    if row.failed:
        return f"| {row.policy} | {row.gateway} | {row.line()} |{' |' * 11}"
    columns = [
        row.policy,
        row.gateway,
        f"{row.p50_s:.3f}",
        f"{row.p99_s:.2f}",
        f"{row.mean_s:.2f}",
        f"{measure.mean_s / row.mean_s:.1f}" if measure else "",
        f"{measure.p99_s / row.p99_s:.1f}" if measure else "",
        f"{row.tokens_per_s:.0f}",
        f"{100 * row.found:.0f} %",
        f"{row.evicted_tokens:.0f}",
        f"{row.busiest:.2f}",
        f"{len(row.errors)}",
        ", ".join(f"{cores:.2f}" for cores in row.cores),
        f"{1000 * row.late_p99_s:.0f}; {row.slowed:.3f}",
    ]
    return f"| {' | '.join(columns)} |"


def _errors(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.errors:
            yield f"- {row.gateway}, {row.policy}: {' '.join(row.errors[0].split())}"
    yield ""
