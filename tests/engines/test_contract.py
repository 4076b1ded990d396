"""Every engine keeps every promise."""

from collections.abc import Awaitable, Callable

import pytest

from smg.engines.registry import ENGINES
from tests.contracts.engine import PROMISES
from tests.contracts.speech import SPEECHES, Speech
from tests.engines.stand_in import Process, StandIn, directing


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("speech", SPEECHES, ids=lambda speech: speech.name)
async def test_every_engine_keeps(
    promise: Callable[[StandIn, Speech], Awaitable[None]],
    speech: Speech,
    stand_in_process: Callable[[str], Process],
) -> None:
    async with directing(stand_in_process(speech.module)) as stand_in:
        await promise(stand_in, speech)


def test_every_engine_has_a_stand_in() -> None:
    assert {speech.engine for speech in SPEECHES} == set(ENGINES)
