"""The tree of prompts answers as a plain list of them would."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smg.workers.policies.prefixes import PrefixTree

PROMPTS = st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=12), st.sampled_from("abc")))


def shared(one: list[int], other: list[int]) -> int:
    return next(
        (n for n, (x, y) in enumerate(zip(one, other, strict=False)) if x != y),
        min(len(one), len(other)),
    )


def by_list(prompts: list[tuple[list[int], str]], asked: list[int]) -> dict[str, int]:
    longest: dict[str, int] = {}
    for ids, owner in prompts:
        if length := shared(ids, asked):
            longest[owner] = max(longest.get(owner, 0), length)
    return longest


@given(PROMPTS, st.lists(st.integers(0, 2), max_size=12))
@settings(max_examples=300, deadline=None)
def test_it_finds_the_longest_match_of_each_worker(
    prompts: list[tuple[list[int], str]], asked: list[int]
) -> None:
    tree = PrefixTree(10_000)
    for ids, owner in prompts:
        tree.insert(ids, owner)
    assert tree.match(asked) == by_list(prompts, asked)
    tree.remove("a")
    rest = [(ids, owner) for ids, owner in prompts if owner != "a"]
    assert tree.match(asked) == by_list(rest, asked)


@given(PROMPTS, st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_it_never_holds_more_than_it_may_and_knows_nothing_untrue(
    prompts: list[tuple[list[int], str]], most: int
) -> None:
    tree = PrefixTree(most)
    for number, (ids, owner) in enumerate(prompts):
        tree.insert(ids, owner)
        assert tree.tokens <= most
        known, truth = tree.match(ids), by_list(prompts[: number + 1], ids)
        assert all(length <= truth[name] for name, length in known.items())
        if len(ids) <= most and ids:
            assert known[owner] == len(ids)


def test_a_shared_beginning_is_held_once() -> None:
    tree = PrefixTree(10_000)
    for n in range(10):
        tree.insert([*range(1000), n], "a")
    assert tree.tokens == 1010


def test_what_was_not_used_for_longest_goes_first() -> None:
    tree = PrefixTree(20)
    tree.insert([1] * 10, "a")
    tree.insert([2] * 10, "b")
    tree.insert([1] * 10, "a")
    tree.insert([3] * 10, "c")
    assert tree.match([1] * 10) == {"a": 10}
    assert tree.match([2] * 10) == {}


def test_removing_the_last_worker_leaves_nothing() -> None:
    tree = PrefixTree(100)
    tree.insert([1, 2, 3], "a")
    tree.insert([1, 2, 4], "b")
    tree.remove("a")
    assert tree.tokens == 3
    tree.remove("b")
    assert tree.tokens == 0
