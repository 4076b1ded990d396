"""The benchmark of benchmarks/fleet_real.py runs, and what it measures is what was asked for."""

from pathlib import Path

from benchmarks.fleet_real import Options, bench
from benchmarks.fleet_table import Row, report


async def test_every_question_is_answered_in_full_by_real_processes(tmp_path: Path) -> None:
    options = Options(
        peer=None,
        policy=("round_robin",),
        workers=2,
        requests=8,
        rate=40.0,
        slower=0.05,
        kv_tokens=120_000,
        kv_events=False,
        seed=7,
        record=False,
    )
    [row] = await bench(options, tmp_path)
    assert (row.failed, row.errors) == ("", [])
    assert (row.gateway, row.policy) == ("this smg", "round_robin")
    assert 0 < row.p50_s <= row.p99_s
    assert 0 < row.found < 1
    assert 1 <= row.busiest <= 2


def test_a_table_tells_factors_and_what_did_not_run() -> None:
    rows = [
        Row(gateway="a", policy="round_robin", p99_s=4.0, mean_s=2.0, cores=[0.5]),
        Row(gateway="a", policy="cache_aware", p99_s=2.0, mean_s=0.5, cores=[0.5], errors=["cut"]),
        Row(gateway="b", policy="round_robin", failed="no such\nflag"),
    ]
    lines = report(rows, "2 engines").splitlines()
    [aware] = [line.split(" | ") for line in lines if line.startswith("| cache_aware")]
    assert (aware[1], aware[5:7]) == ("a", ["4.0", "2.0"])
    assert any(line.startswith("| round_robin | b | did not run: no such flag") for line in lines)
    assert {"- 2 engines", "- a, cache_aware: cut"} <= set(lines)
