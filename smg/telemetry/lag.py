"""How late the event loop is: what it is busy with, everybody else waits for.

Nothing comes in; seconds go to whoever counts them, and a warning into the log.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

EVERY_S: Final = 0.1
ALARM_S: Final = 0.25
"""Health checks are given a second by most who ask; what takes this long should be in a thread."""
MINUTE: Final = 60.0

Told = Callable[[float, float], None]
"""Told how late it was, and how late at most in the last minute."""


async def watch_loop(told: Told) -> None:
    """Measure for ever, and warn at most once a minute."""
    loop = asyncio.get_running_loop()
    worst, since, warned_at = 0.0, loop.time(), -MINUTE
    while True:
        due = loop.time() + EVERY_S
        await asyncio.sleep(EVERY_S)
        now = loop.time()
        late = max(0.0, now - due)
        if now - since >= MINUTE:
            worst, since = 0.0, now
        worst = max(worst, late)
        told(late, worst)
        if late >= ALARM_S and now - warned_at >= MINUTE:
            warned_at = now
            log.warning(
                "Everything was held up for %.0f ms: the event loop was busy, or the machine",
                late * 1000,
            )
