"""The index of blocks answers as a plain list of everything that was told would."""

from array import array
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from smg.engines.kv import Block, Removed, Stored
from smg.workers.policies.blocks import BlockIndex, Place

A, B = Place("a", 0), Place("b", 0)
NEVER = float("inf")


def told(ids: Sequence[int], size: int = 2, salt: int = 0, known: int = 0) -> Stored:
    """An engine that caches a prompt, of which it had so many blocks before."""
    blocks = [
        Block(name(ids[:end], salt), array("I", ids[end - size : end]).tobytes())
        for end in range(size, len(ids) + 1, size)
    ]
    parent = blocks[known - 1].hash if known else None
    return Stored(parent, blocks[known:])


def name(prefix: Sequence[int], salt: int = 0) -> int:
    """An engine's own name of the block that ends a prefix."""
    return hash((salt, *prefix))


def names(ids: Sequence[int], size: int = 2, salt: int = 0) -> list[int]:
    return [name(ids[:end], salt) for end in range(size, len(ids) + 1, size)]


def overlaps(index: BlockIndex, ids: Sequence[int]) -> dict[Place, int]:
    return index.overlaps(ids, now=0.0)


# ---- against a naive model

PROMPT = st.lists(st.integers(0, 1), max_size=8)
STEP = st.tuples(st.sampled_from(["store", "remove", "clear"]), st.sampled_from([0, 1, 2]), PROMPT)
SIZES = (1, 2, 2)


class Naive:
    """What one engine has cached, as a list of prefixes; the same prefix may be there twice."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: list[tuple[int, ...]] = []
        self.roots: set[tuple[int, ...]] = set()

    def prefixes(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        ends = range(self.size, len(ids) + 1, self.size)
        return [tuple(ids[:end]) for end in ends]

    def store(self, ids: Sequence[int]) -> None:
        self.held += self.prefixes(ids)
        self.roots |= set(self.prefixes(ids)[:1])

    def remove(self, ids: Sequence[int]) -> None:
        for prefix in self.prefixes(ids)[-1:]:
            if prefix in self.held:
                self.held.remove(prefix)

    def overlap(self, ids: Sequence[int]) -> int | None:
        prefixes = self.prefixes(ids)
        if not prefixes or prefixes[0] not in self.roots:
            return None
        known = 0
        while known < len(prefixes) and prefixes[known] in self.held:
            known += 1
        return known * self.size


@given(st.lists(STEP, max_size=30), st.lists(PROMPT, min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_it_finds_what_a_list_of_everything_finds(
    steps: list[tuple[str, int, list[int]]], asked: list[list[int]]
) -> None:
    index, engines = BlockIndex(), [Naive(size) for size in SIZES]
    for what, number, ids in steps:
        engine, place = engines[number], Place("w", number)
        match what:
            case "store":
                # At most as many copies as are counted.
                if all(engine.held.count(prefix) < 8 for prefix in engine.prefixes(ids)):
                    index.store(place, told(ids, engine.size, salt=number))
                    engine.store(ids)
            case "remove":
                index.remove(place, Removed(names(ids, engine.size, salt=number)[-1:]))
                engine.remove(ids)
            case "clear":
                index.clear(place)
                engine.held.clear()
                engine.roots.clear()
    for ids in asked:
        found = {Place("w", n): engine.overlap(ids) for n, engine in enumerate(engines)}
        assert overlaps(index, ids) == {k: v for k, v in found.items() if v is not None}


# ---- case by case


def test_names_are_the_engines_own_and_tokens_decide() -> None:
    index = BlockIndex()
    index.store(A, told([1, 2, 3, 4], salt=7))
    index.store(B, told([1, 2, 9, 9], salt=8))
    assert overlaps(index, [1, 2, 3, 4, 5]) == {A: 4, B: 2}


def test_a_prompt_goes_on_where_an_earlier_one_ended() -> None:
    index = BlockIndex()
    index.store(A, told([1, 2]))
    index.store(A, told([1, 2, 3, 4], known=1))
    assert overlaps(index, [1, 2, 3, 4]) == {A: 4}


def test_what_follows_an_unknown_beginning_is_no_ones() -> None:
    index = BlockIndex()
    index.store(A, told([1, 2, 3, 4], known=1))
    assert overlaps(index, [1, 2, 3, 4]) == {}
    assert overlaps(index, [3, 4]) == {}
    assert index.count(A) == 0


def test_without_its_first_block_a_prompt_is_known_not_to_be_there() -> None:
    index = BlockIndex()
    index.store(A, told([1, 2, 3, 4]))
    index.remove(A, Removed(names([1, 2])))
    assert overlaps(index, [1, 2, 3, 4]) == {A: 0}
    assert overlaps(index, [7, 7]) == {}  # Of this one nothing was ever told.


def test_the_last_of_several_copies_counts() -> None:
    index = BlockIndex()
    index.store(A, told([1, 2]))
    index.store(A, told([1, 2]))
    index.remove(A, Removed(names([1, 2])))
    assert overlaps(index, [1, 2]) == {A: 2}
    index.remove(A, Removed(names([1, 2])))
    assert overlaps(index, [1, 2]) == {A: 0}


def test_a_name_that_is_given_to_other_tokens_is_theirs() -> None:
    index = BlockIndex()
    index.store(A, Stored(None, [Block(5, array("I", [1, 2]).tobytes())]))
    index.store(A, Stored(None, [Block(5, array("I", [3, 4]).tobytes())]))
    assert overlaps(index, [1, 2]) == {A: 0}
    assert overlaps(index, [3, 4]) == {A: 2}


def test_caches_of_other_groups_than_the_first_do_not_count() -> None:
    index = BlockIndex()
    first, other = told([1, 2]), told([5, 6])
    index.store(A, Stored(None, first.blocks, group=1))
    index.store(A, Stored(None, other.blocks, group=0))
    index.remove(A, Removed(names([1, 2]), group=0))
    assert overlaps(index, [1, 2]) == {A: 2}
    assert overlaps(index, [5, 6]) == {}


def test_the_size_of_blocks_is_learned_from_the_first() -> None:
    index = BlockIndex()
    index.suppose_size(A, 16)
    index.store(A, told([1, 2, 3, 4], size=4))
    index.store(A, told([1, 2], size=2))
    assert overlaps(index, [1, 2, 3, 4]) == {A: 4}
    assert index.count(A) == 1


def test_what_is_forgotten_is_gone_at_once_and_its_memory_soon() -> None:
    index = BlockIndex()
    long = list(range(4000))
    index.store(A, told(long))
    index.store(B, told(long[:100]))
    index.forget(A)
    assert overlaps(index, long) == {B: 100}
    for _ in range(5):
        index.remove(B, Removed([]))
    assert len(index) == 50
    index.store(A, told([1, 2]))
    assert overlaps(index, long) == {B: 100}  # Whatever bit A has now.
    assert overlaps(index, [1, 2]) == {A: 2}


def test_no_more_blocks_are_held_than_may_be_and_the_oldest_go_first() -> None:
    index = BlockIndex(max_blocks=80)
    prompts = [[n, n] for n in range(200)]
    for ids in prompts:
        index.store(A, told(ids))
        assert index.count(A) <= 80
    known = [overlaps(index, ids)[A] for ids in prompts]
    assert all(older <= newer for older, newer in pairwise(known))
    assert known[-1] == 2
    assert len(index) == index.count(A)


# ---- what is expected


def test_what_was_just_sent_is_expected_until_its_time_is_over() -> None:
    index = BlockIndex()
    index.store(A, told([1, 2]))
    index.expect(A, [1, 2, 3, 4, 5, 6], until=10.0)
    assert index.overlaps([1, 2, 3, 4, 5, 6], now=9.0) == {A: 6}
    assert index.overlaps([1, 2, 3, 4, 5, 6], now=10.0) == {A: 2}
    assert index.overlaps([1, 2, 3, 4, 5, 6], now=9.0) == {A: 2}


def test_what_is_told_of_is_expected_no_longer() -> None:
    index, ids = BlockIndex(), [1, 2, 3, 4]
    index.store(A, told([1, 2]))
    index.expect(A, ids, until=NEVER)
    index.store(A, told(ids, known=1))
    assert overlaps(index, ids) == {A: 4}
    index.remove(A, Removed(names(ids)[1:]))
    assert overlaps(index, ids) == {A: 2}


def test_the_last_of_several_expectations_counts() -> None:
    index, ids = BlockIndex(), [1, 2, 3, 4]
    index.store(A, told([1, 2]))
    for until in (5.0, 20.0, 10.0):
        index.expect(A, ids, until)
    assert [index.overlaps(ids, now)[A] for now in (4.0, 6.0, 12.0, 20.0)] == [4, 4, 4, 2]


def test_what_is_expected_of_one_is_not_expected_of_another() -> None:
    index, ids = BlockIndex(), [1, 2, 3, 4]
    for place in (A, B):
        index.store(place, told([1, 2]))
    index.expect(A, ids, until=NEVER)
    assert overlaps(index, ids) == {A: 4, B: 2}
    index.forget(A)
    index.store(A, told([1, 2]))
    assert overlaps(index, ids) == {A: 2, B: 2}
