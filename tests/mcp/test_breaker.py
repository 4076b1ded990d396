"""Who may ask a server that has only failed."""

import pytest

from smg.mcp.breaker import Breaker, Tripped
from smg.mcp.spec import BreakerLimits


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def tell(breaker: Breaker, *outcomes: bool | None) -> None:
    for outcome in outcomes:
        with breaker.attempt() as attempt:
            attempt.succeeded = outcome


def tripped(clock: Clock) -> Breaker:
    breaker = Breaker(BreakerLimits(failures=3, pause_s=10.0), clock)
    tell(breaker, False, False, False)
    return breaker


def refuse(breaker: Breaker) -> float:
    with pytest.raises(Tripped) as raised:
        breaker.attempt().__enter__()
    return raised.value.seconds


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker(BreakerLimits(failures=3, pause_s=10.0), Clock())
    tell(breaker, False, False, True, False, False, None)
    assert breaker.state == "closed"
    tell(breaker, False)
    assert breaker.state == "open"
    assert refuse(breaker) == 10.0


@pytest.mark.parametrize(("outcome", "state"), [(True, "closed"), (False, "open")])
def test_after_the_pause_one_tries_and_decides(outcome: bool, state: str) -> None:
    clock = Clock()
    breaker = tripped(clock)
    clock.now += 10.0
    assert breaker.state == "half_open"
    with breaker.attempt() as attempt:
        refuse(breaker)
        attempt.succeeded = outcome
    assert breaker.state == state


def test_who_cannot_tell_leaves_the_trial_to_the_next() -> None:
    clock = Clock()
    breaker = tripped(clock)
    clock.now += 10.0
    with pytest.raises(KeyError), breaker.attempt():
        raise KeyError
    assert breaker.state == "half_open"
    tell(breaker, True)
    assert breaker.state == "closed"


def test_who_passed_before_the_failures_does_not_end_the_trial() -> None:
    clock = Clock()
    breaker = Breaker(BreakerLimits(failures=1, pause_s=10.0), clock)
    with breaker.attempt():
        tell(breaker, False)
        clock.now += 10.0
        trial = breaker.attempt()
        trial.__enter__()
    refuse(breaker)
    trial.__exit__(None, None, None)
    tell(breaker, True)


def test_hope_shortens_the_pause() -> None:
    breaker = tripped(Clock())
    breaker.revive()
    assert breaker.state == "half_open"
