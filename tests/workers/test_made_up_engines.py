"""The engines of the fleet benchmarks: what they hold and find, and that gateways can read them."""

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine_model import ModelEngine, Pace
from benchmarks.fleet import Simulated
from benchmarks.kv_blocks import BLOCK, Change, KvBlocks, block_hashes, blocks_of
from benchmarks.processes import free_port, running
from benchmarks.workload import workload
from smg.engines.base import PromptTokens
from smg.engines.registry import connect
from smg.testing.vocabulary import MODEL_PATH
from smg.turn import Sampling


@dataclass
class Mirror:
    """What somebody knows who only hears of changes."""

    blocks: set[int] = field(default_factory=set)

    def hear(self, change: Change) -> None:
        self.blocks -= set(change.removed)
        new = set(change.chain[change.first_new :])
        assert not new & self.blocks
        assert set(change.chain[: change.first_new]) <= self.blocks
        self.blocks |= new


# Texts that begin alike: a beginning of one of two, and an end of one of three.
TEXTS = st.builds(
    lambda start, length, end, more: [start] * length + [end] * more,
    *(st.integers(1, 2), st.integers(1, 80), st.integers(3, 5), st.integers(0, 60)),
)
STEPS = st.lists(st.tuples(st.booleans(), TEXTS, st.integers(1, 40)), max_size=30)


@given(STEPS)
def test_a_cache_never_holds_too_much_and_tells_everything(
    steps: list[tuple[bool, list[int], int]],
) -> None:
    cache, mirror = KvBlocks(20 * BLOCK), Mirror()
    inside: list[tuple[list[int], int, list[int]]] = []
    for comes, text, answer in steps:
        hashes = block_hashes(text)
        nameless = blocks_of(len(text) + answer) - len(hashes)
        if comes and cache.has_room(hashes, nameless):
            known = cache.known(hashes)
            assert all(block in mirror.blocks for block in hashes[:known])
            mirror.hear(cache.hold(hashes, nameless))
            inside.append((hashes, nameless, block_hashes([*text, *[9] * answer])))
        elif inside:
            hashes, nameless, whole = inside.pop(0)
            mirror.hear(cache.let_go(hashes, nameless, whole[len(hashes) :]))
        held = {block for hashes, _, _ in inside for block in hashes}
        reserved = sum(nameless for _, nameless, _ in inside)
        assert held <= mirror.blocks
        assert cache.used == (len(held) + reserved) / cache.capacity
        assert len(mirror.blocks) + reserved <= cache.capacity
        for hashes, _, _ in inside:
            assert cache.known(hashes) == len(hashes)


def test_what_was_not_used_for_longest_goes_first_and_ends_before_beginnings() -> None:
    cache = KvBlocks(4 * BLOCK)
    old, new = block_hashes([1] * 2 * BLOCK), block_hashes([2] * 2 * BLOCK)
    for text in (old, new):
        cache.hold(text, 0)
        cache.let_go(text, 0)
    change = cache.hold(block_hashes([3] * BLOCK), 0)
    assert change.removed == [old[1]]
    assert (cache.known(old), cache.known(new), cache.evicted) == (1, 2, 1)


def simulated(*questions: Sequence[int], kv_tokens: int = 1000) -> tuple[list[float], ModelEngine]:
    """When each of some questions, all asked at once, got its first token; the answer has 9."""
    pace = Pace(read_per_second=100, step_s=0.5, step_more_s=0.25, kv_tokens=kv_tokens)
    engine = ModelEngine(pace)

    async def first_at(ids: Sequence[int]) -> float:
        at = 0.0
        async with aclosing(engine.generate(ids, [0] * 9)) as pieces:
            async for _ in pieces:
                at = at or asyncio.get_running_loop().time()
        return at

    async def ask() -> list[float]:
        return await asyncio.gather(*map(first_at, questions))

    with asyncio.Runner(loop_factory=Simulated) as runner:
        return runner.run(ask()), engine


def test_prompts_are_read_in_turn_and_what_is_known_costs_nothing() -> None:
    same = list(range(160))
    (first, second, other), engine = simulated(same, [*same, 7], [5] * 100)
    # Of the second, all but its last token is there.
    assert [round(each, 2) for each in (first, second, other)] == [1.6, 1.61, 2.61]
    assert (engine.counts.read, engine.counts.found) == (421, 160)
    assert (engine.running, engine.waiting, engine.unread, engine.cache.used) == (0, 0, 0, 0)


def test_who_finds_no_room_waits_for_it() -> None:
    (first, second), engine = simulated([1] * 400, [2] * 400, kv_tokens=600)
    written = 8 * (0.5 + 0.25)
    assert [round(each, 2) for each in (first, second)] == [4.0, round(4.0 + written + 4.0, 2)]
    assert engine.cache.evicted > 0


def test_a_workload_is_the_same_whoever_makes_it() -> None:
    one, other = list(workload(200, 5.0, 3)), list(workload(200, 5.0, 3))
    assert one == other != list(workload(200, 5.0, 4))
    assert 200 <= sum(each.steps for each in one) < 206
    [*_, opening] = one[0].opening
    assert opening.drawn("abc") == opening.drawn("abc")


async def test_a_gateways_engine_reads_one_over_a_socket(tmp_path: Path) -> None:
    port, report = free_port(), tmp_path / "report.json"
    (tmp_path / "ids.txt").write_text(" ".join(map(str, range(100, 200))))
    command = [
        *(sys.executable, "-m", "benchmarks.stand_ins", "--ports", str(port), "--kv-events"),
        *("--ids", str(tmp_path / "ids.txt"), "--model", str(MODEL_PATH)),
        *("--report", str(report), "--slower", "0.1"),
    ]
    async with running("engine", port, command, tmp_path / "log"):
        engine = connect(f"grpc://127.0.0.1:{port}")
        info = await engine.info()
        await engine.check()
        assert (info.engine, info.model, info.context_length) == ("vllm", "made-up", 32_768)
        found = []
        for number, length in enumerate((100, 120)):
            prompt = PromptTokens(ids=[7] * length, sampling=Sampling(max_tokens=20))
            async with aclosing(engine.generate(f"r{number}", prompt)) as chunks:
                heard = [chunk async for chunk in chunks]
            assert [token for chunk in heard for token in chunk.ids] == list(range(100, 120))
            usage = heard[-1].usage
            assert usage is not None
            found.append((usage.input_tokens, usage.cached_tokens, usage.output_tokens))
        assert found == [(100, 0, 20), (120, 96, 20)]
        load = await engine.load()
        assert (load.running, load.waiting, load.token_usage) == (0, 0, 0.0)
        await engine.close()
    [counts] = json.loads(report.read_text())
    assert (counts["generations"], counts["read"], counts["found"]) == (2, 220, 96)
