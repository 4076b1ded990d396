"""Every policy ranks all workers it is given, and each in its own way."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

import pytest

from smg.engines.base import EngineChunk, EngineLoad, PromptTokens
from smg.settings import Settings
from smg.workers.policies.base import Policy, PolicyOptions
from smg.workers.policies.cache import CacheAware, PrefixHash
from smg.workers.policies.hashing import ConsistentHashing
from smg.workers.policies.load import LeastLoad
from smg.workers.policies.registry import POLICIES
from smg.workers.policies.simple import Passthrough, PowerOfTwo, Random, RoundRobin
from smg.workers.policies.sticky import Manual
from smg.workers.worker import Visit, Worker
from tests.workers.scripted_engine import ScriptedEngine

PROMPT = PromptTokens(ids=[1])
LONG = PromptTokens(ids=range(1000))

each_policy = pytest.mark.parametrize("new_policy", POLICIES.values(), ids=POLICIES.keys())


def fleet(names: str = "abc") -> list[Worker]:
    return [Worker(ScriptedEngine(name)) for name in names]


def keyed(key: str | None) -> PromptTokens:
    return PromptTokens(ids=[1], routing_key=key)


def first(policy: Policy, prompt: PromptTokens, workers: Sequence[Worker]) -> str:
    """The address of the best worker, to which the prompt is then sent."""
    best = policy.rank(prompt, workers).workers[0]
    policy.placed(prompt, best)
    return best.address


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("names", ["", "a", "abc"])
def test_every_policy_ranks_each_worker_once_and_says_that_it_did(name: str, names: str) -> None:
    policy, workers = POLICIES[name](), fleet(names)
    for prompt in (PROMPT, keyed("k"), PromptTokens(ids=[]), LONG):
        ranking = policy.rank(prompt, workers)
        assert sorted(ranking.workers, key=id) == sorted(workers, key=id)
        assert ranking.reason.startswith(name)
        for worker in ranking.workers:
            policy.placed(prompt, worker)


@each_policy
def test_a_worker_that_is_gone_is_forgotten(new_policy: Callable[[], Policy]) -> None:
    policy, workers = new_policy(), fleet()
    for key in "xyz":
        first(policy, PromptTokens(ids=range(100), routing_key=key), workers)
    gone = workers.pop(0)
    policy.removed(gone)
    for key in "xyz":
        ranking = policy.rank(PromptTokens(ids=range(100), routing_key=key), workers)
        assert gone not in ranking.workers


@pytest.mark.parametrize("name", ["consistent_hashing", "manual", "prefix_hash"])
def test_a_removal_moves_only_the_keys_of_the_one_removed(name: str) -> None:
    policy, workers = POLICIES[name](), fleet("abcde")
    prompts = [PromptTokens(ids=[n] * 9, routing_key=f"k{n}") for n in range(50)]
    before = [first(policy, prompt, workers) for prompt in prompts]
    assert len(set(before)) == 5 or name == "manual"  # Nothing is busy: manual takes the first.
    gone = workers.pop(2)
    policy.removed(gone)
    after = [first(policy, prompt, workers) for prompt in prompts]
    moved = {old for old, new in zip(before, after, strict=True) if old != new}
    assert moved <= {gone.address}


@pytest.mark.parametrize("name", ["consistent_hashing", "prefix_hash"])
def test_a_new_worker_takes_keys_only_for_itself(name: str) -> None:
    policy, workers = POLICIES[name](), fleet("abcde")
    prompts = [PromptTokens(ids=[n] * 9, routing_key=f"k{n}") for n in range(50)]
    before = [first(policy, prompt, workers) for prompt in prompts]
    workers += fleet("f")
    after = [first(policy, prompt, workers) for prompt in prompts]
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {"f"}


@each_policy
def test_no_policy_puts_a_thousand_equal_conversations_on_one_worker(
    new_policy: Callable[[], Policy],
) -> None:
    policy, workers = new_policy(), fleet()
    if isinstance(policy, Passthrough):
        assert first(policy, PROMPT, workers) == "a"
        return
    taken: Counter[str] = Counter()
    visits = []  # They all run at the same time.
    for n in range(200):
        prompt = PromptTokens(ids=[1, 2, 3, n, n + 1, n + 2] * 100, routing_key=f"k{n}")
        worker = policy.rank(prompt, workers).workers[0]
        policy.placed(prompt, worker)
        visits.append(Visit(worker, 600))
        taken[worker.address] += 1
    assert min(taken[worker.address] for worker in workers) > 30


def test_the_command_line_knows_every_policy() -> None:
    choices = Settings.__dataclass_fields__["policy"].metadata["choices"]
    assert sorted(choices) == sorted(POLICIES)


def test_round_robin_begins_one_further_each_time() -> None:
    policy, (a, b, c) = RoundRobin(), fleet()
    rankings = [policy.rank(PROMPT, [a, b, c]).workers for _ in range(4)]
    assert rankings == [(a, b, c), (b, c, a), (c, a, b), (a, b, c)]


def test_random_begins_with_any() -> None:
    policy, workers = Random(chance=random.Random(1)), fleet()
    assert {first(policy, PROMPT, workers) for _ in range(50)} == {"a", "b", "c"}


def test_of_two_the_less_busy_is_first_and_the_busiest_never() -> None:
    policy, (a, b, c) = PowerOfTwo(chance=random.Random(1)), fleet()
    b.in_flight, c.in_flight = 1, 2
    assert {first(policy, PROMPT, [a, b, c]) for _ in range(50)} == {"a", "b"}


def test_of_two_with_as_many_the_one_with_the_emptier_cache_is_first() -> None:
    policy, (a, b) = PowerOfTwo(chance=random.Random(1)), fleet("ab")
    a.load, b.load = EngineLoad(token_usage=0.9), EngineLoad(token_usage=0.1)
    assert {first(policy, PROMPT, [a, b]) for _ in range(20)} == {"b"}
    b.in_flight = 1
    assert {first(policy, PROMPT, [a, b]) for _ in range(20)} == {"a"}


def test_the_least_loaded_has_the_fewest_tokens_and_not_the_fewest_generations() -> None:
    policy, (a, b) = LeastLoad(), fleet("ab")
    with a.busy(5000), b.busy(100), b.busy(100):
        assert first(policy, PROMPT, [a, b]) == "b"


def test_what_was_read_weighs_less_than_what_waits() -> None:
    policy, (a, b) = LeastLoad(), fleet("ab")
    with a.busy(5000) as reading, b.busy(1000):
        assert first(policy, PROMPT, [a, b]) == "b"
        reading.hear(EngineChunk([1]))
        assert first(policy, PROMPT, [a, b]) == "a"


async def test_load_that_others_caused_counts() -> None:
    policy, (a, b) = LeastLoad(), fleet("ab")
    assert isinstance(a.engine, ScriptedEngine)
    a.engine.reported = EngineLoad(running=3, waiting=1)
    with a.busy(1), b.busy(1000):
        await a.ask_load()
        assert a.foreign == 3
        assert first(policy, PROMPT, [a, b]) == "b"


def test_a_full_kv_cache_counts_as_seconds() -> None:
    policy, (a, b) = LeastLoad(), fleet("ab")
    a.load = EngineLoad(token_usage=0.95)
    with b.busy(4000):
        assert first(policy, PROMPT, [a, b]) == "b"
    a.load = EngineLoad(token_usage=1.0)
    assert policy.seconds(a) == pytest.approx(0.15 * 99)


def test_a_prompt_goes_where_its_beginning_was_read() -> None:
    policy, workers = CacheAware(), fleet()
    home = first(policy, LONG, workers)
    with next(worker for worker in workers if worker.address == home).busy(10):
        ranking = policy.rank(PromptTokens(ids=range(2000)), workers)
    assert ranking.workers[0].address == home
    assert ranking.reason == "cache_aware: 1000 of 2000 known, sent before"


def test_text_stands_for_ids_that_a_prompt_does_not_have() -> None:
    policy, (a, b) = CacheAware(), fleet("ab")
    policy.placed(PromptTokens(ids=(), text="你好" * 50), a)
    with a.busy(10):
        assert first(policy, PromptTokens(ids=(), text="你好" * 60), [a, b]) == "a"
        assert first(policy, PromptTokens(ids=(), text="other" * 60), [a, b]) == "b"


def test_a_prompt_that_is_mostly_new_goes_to_the_least_loaded() -> None:
    policy, (a, b) = CacheAware(), fleet("ab")
    policy.placed(LONG, a)
    with a.busy(10):
        # 0.3 is the threshold: known must be more than that.
        ranking = policy.rank(PromptTokens(ids=[*range(300), *[7] * 700]), [a, b])
        assert ranking.workers == (b, a)
        ranking = policy.rank(PromptTokens(ids=[*range(301), *[7] * 699]), [a, b])
        assert ranking.workers == (a, b)


def test_of_two_that_know_it_equally_the_less_loaded_is_first() -> None:
    policy, (a, b) = CacheAware(), fleet("ab")
    policy.placed(LONG, a)
    policy.placed(LONG, b)
    with a.busy(10):
        assert first(policy, LONG, [a, b]) == "b"


def test_without_its_first_owner_a_prompt_goes_to_the_next_that_knows_it() -> None:
    policy, (a, b, c) = CacheAware(), fleet()
    policy.placed(LONG, a)
    policy.placed(PromptTokens(ids=range(600)), b)
    with b.busy(10):
        assert policy.rank(LONG, [a, b, c]).workers == (a, b, c)
        assert policy.rank(LONG, [b, c]).workers == (b, c)


@pytest.mark.parametrize(("most", "least", "is_unbalanced"), [(65, 0, True), (64, 0, False)])
def test_when_loads_are_too_unequal_load_decides(
    most: int, least: int, is_unbalanced: bool
) -> None:
    policy, (a, b) = CacheAware(), fleet("ab")
    policy.placed(LONG, a)
    a.in_flight, b.in_flight = most, least
    a.running_tokens = 1
    assert first(policy, LONG, [a, b]) == ("b" if is_unbalanced else "a")


@pytest.mark.parametrize(
    ("options", "usages", "decides"),
    [
        (PolicyOptions(), (1.0, 0.0), False),
        (PolicyOptions(overload_token_usage_threshold=0.9), (0.9, 0.9), False),
        (PolicyOptions(overload_token_usage_threshold=0.9), (0.91, 0.9), True),
        (PolicyOptions(balance_token_usage_threshold=0.5), (0.5, 0.0), False),
        (PolicyOptions(balance_token_usage_threshold=0.5), (0.6, 0.0), True),
    ],
)
def test_a_kv_cache_that_is_too_full_counts_more_than_what_is_in_it(
    options: PolicyOptions, usages: tuple[float, float], decides: bool
) -> None:
    policy, (a, b) = CacheAware(options), fleet("ab")
    policy.placed(LONG, a)
    for worker, usage in zip((a, b), usages, strict=True):
        worker.load = EngineLoad(token_usage=usage)
    with b.busy(10):  # Of those that are not too full load decides; here there is one.
        ranking = policy.rank(LONG, [a, b])
    assert ranking.workers == ((b, a) if decides else (a, b))
    told = "KV caches too full, least load" if decides else "1000 of 1000 known, sent before"
    assert ranking.reason == f"cache_aware: {told}"


def test_a_prefix_beyond_its_share_of_load_goes_to_the_next() -> None:
    policy, workers = PrefixHash(), fleet()
    home = policy.rank(LONG, workers).workers[0]
    visits = []
    while policy.rank(LONG, workers).workers[0] is home:
        visits.append(Visit(home, 1))
        assert len(visits) < 10
    assert policy.rank(LONG, workers).reason == "prefix_hash: its own worker is full"
    assert policy.rank(LONG, workers).workers[-1] is home


def test_only_the_beginning_of_a_prompt_is_hashed() -> None:
    policy, workers = PrefixHash(PolicyOptions(prefix_token_count=4)), fleet("abcdefgh")
    firsts = {first(policy, PromptTokens(ids=[1, 2, 3, 4, n]), workers) for n in range(20)}
    assert len(firsts) == 1


def test_a_routing_key_decides_and_load_does_not() -> None:
    policy, workers = ConsistentHashing(), fleet()
    home = first(policy, keyed("k"), workers)
    with next(worker for worker in workers if worker.address == home).busy(10_000):
        assert first(policy, keyed("k"), workers) == home
        assert first(policy, keyed(None), workers) != home


def test_a_key_keeps_its_worker_until_it_is_idle_too_long() -> None:
    times = count()
    policy = Manual(PolicyOptions(max_idle_secs=5), clock=lambda: float(next(times)))
    a, b = fleet("ab")
    assert first(policy, keyed("k"), [a, b]) == "a"
    with a.busy(10):
        assert first(policy, keyed("k"), [a, b]) == "a"
        for _ in range(6):
            next(times)
        assert first(policy, keyed("k"), [a, b]) == "b"
