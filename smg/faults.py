"""Points at which a test may have this process die, as by `kill -9`.

`SMG_FAULT=point:n` in the environment ends the process, without a goodbye, when it passes the point
for the n-th time. Unset, a point costs one comparison. What passes here is not known here.
"""

import os
import signal
from dataclasses import dataclass
from typing import Final, Literal, get_args

from smg.errors import ConfigError

VARIABLE: Final = "SMG_FAULT"

Point = Literal[
    "order-begun",
    "conversation-locked",
    "generation-before",
    "generation-after",
    "calls-before",
    "calls-after",
    "call-before",
    "call-after",
    "result-before",
    "result-after",
    "events-before",
    "events-after",
    "save-before",
    "save-after",
    "end-shown",
    "unlock-before",
]
"""`before` and `after` are meant of a commit; of a call, of its being made."""

POINTS: tuple[Point, ...] = get_args(Point)


class Fault:
    """A death to come."""

    def __init__(self, point: Point, passes: int) -> None:
        self._point = point
        self._left = passes

    def meet(self, point: Point) -> None:
        """Count a pass of the point, and die of the last one."""
        if point == self._point:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def read_fault(text: str) -> Fault | None:
    """The fault that `point:n` orders; `None` of an empty text.

    Raises:
        ConfigError: there is no such point, or n is not a number above zero.
    """
    if not text:
        return None
    name, _, passes = text.partition(":")
    for point in POINTS:
        if point == name and passes.isdecimal() and int(passes) > 0:
            return Fault(point, int(passes))
    raise ConfigError(f"{VARIABLE}: {text!r} is not POINT:N; points are {', '.join(POINTS)}")


@dataclass
class _Orders:
    fault: Fault | None


_orders = _Orders(read_fault(os.environ.get(VARIABLE, "")))


def order(text: str) -> None:
    """Let this process die as `point:n` says, instead of what its environment said.

    Raises:
        ConfigError: as `read_fault`.
    """
    _orders.fault = read_fault(text)


def reached(point: Point) -> None:
    """Die here, if that was ordered."""
    if _orders.fault is not None:
        _orders.fault.meet(point)
