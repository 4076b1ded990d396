"""Waiting for what only polling can tell, with a limit."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT_SECONDS = 5.0


def until(ask: Callable[[], T], good: Callable[[T], bool]) -> T:
    """Ask again until the answer is good.

    Raises:
        AssertionError: it was not, in five seconds.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    while not good(answer := ask()):
        assert time.monotonic() < deadline, f"still {answer!r}"
    return answer
