"""The circuit breaker, on a clock that stands still until it is moved."""

import pytest

from smg.workers.breaker import Breaker, BreakerRules, BreakerState

RULES = BreakerRules(failures=4, successes=2, open_s=60, window_s=120)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def now(breaker: Breaker) -> BreakerState:
    return breaker.state


def allows(breaker: Breaker) -> bool:
    return breaker.allows


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(RULES, clock)
    for _ in range(RULES.failures):
        breaker.fail(trial=breaker.begin())
    assert now(breaker) is BreakerState.OPEN
    return breaker


def test_so_many_failures_open_it_and_no_fewer() -> None:
    breaker = Breaker(RULES, Clock())
    for _ in range(3):
        breaker.fail(trial=False)
    assert allows(breaker)
    breaker.fail(trial=False)
    assert not breaker.allows


def test_failures_that_are_long_ago_do_not_count() -> None:
    clock = Clock()
    breaker = Breaker(RULES, clock)
    for _ in range(3):
        breaker.fail(trial=False)
    clock.now = 121
    breaker.fail(trial=False)
    assert now(breaker) is BreakerState.CLOSED


def test_a_slow_drip_of_failures_within_the_window_opens_it() -> None:
    clock = Clock()
    breaker = Breaker(RULES, clock)
    for second in (0, 30, 60, 90):
        clock.now = second
        breaker.fail(trial=False)
    assert now(breaker) is BreakerState.OPEN


def test_failures_among_many_successes_do_not_open_it() -> None:
    breaker = Breaker(RULES, Clock())
    for _ in range(5):
        breaker.succeed(trial=False)
    for _ in range(4):
        breaker.fail(trial=False)
    assert now(breaker) is BreakerState.CLOSED
    breaker.fail(trial=False)
    assert now(breaker) is BreakerState.OPEN


def test_after_its_time_it_lets_one_pass_at_once() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 59.9
    assert not allows(breaker)
    clock.now = 60
    assert now(breaker) is BreakerState.HALF_OPEN
    assert allows(breaker)
    assert breaker.begin()
    assert not allows(breaker)
    assert not breaker.begin()  # Sent all the same: no trial.


def test_trials_that_pass_close_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 60
    breaker.succeed(trial=breaker.begin())
    assert now(breaker) is BreakerState.HALF_OPEN
    breaker.succeed(trial=breaker.begin())
    assert now(breaker) is BreakerState.CLOSED
    breaker.fail(trial=False)  # What was before is forgotten.
    assert now(breaker) is BreakerState.CLOSED


def test_a_trial_that_fails_opens_it_for_the_whole_time() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 60
    breaker.succeed(trial=breaker.begin())
    breaker.fail(trial=breaker.begin())
    clock.now = 119
    assert now(breaker) is BreakerState.OPEN
    clock.now = 120
    breaker.succeed(trial=breaker.begin())
    assert now(breaker) is BreakerState.HALF_OPEN  # The first trial's success is no longer worth.


def test_a_trial_that_tells_nothing_makes_room_for_another() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 60
    breaker.let_go(trial=breaker.begin())
    assert breaker.allows


@pytest.mark.parametrize("outcome", ["succeed", "fail", "let_go"])
def test_what_ends_while_it_is_open_changes_nothing(outcome: str) -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 30
    getattr(breaker, outcome)(trial=False)
    assert now(breaker) is BreakerState.OPEN
    clock.now = 60
    assert now(breaker) is BreakerState.HALF_OPEN


def test_it_tells_how_often_it_came_into_each_state() -> None:
    clock = Clock()
    breaker = opened(clock)
    for trials in ([False], [True, True]):  # Open again, then closed.
        clock.now += RULES.open_s
        for went_well in trials:
            trial = breaker.begin()
            (breaker.succeed if went_well else breaker.fail)(trial=trial)
    assert breaker.changes == {
        BreakerState.CLOSED: 1,
        BreakerState.OPEN: 2,
        BreakerState.HALF_OPEN: 2,
    }
