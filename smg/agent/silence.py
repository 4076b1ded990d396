"""A model that says nothing: for turns that only take their input in."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from smg.agent.loop import Generate
from smg.agent.run import Spoken, Start
from smg.engines.base import Finish
from smg.items import Item
from smg.turn import Turn


class Silence:
    """Ends each generation at once, without a worker."""

    async def prepare(self, _turn: Turn, _output: Sequence[Item], _step: Generate) -> Any:
        """Prepare nothing."""

    def start_of(self, _prepared: Any) -> Start:
        """Nothing, nowhere."""
        return Start()

    async def generate(self, _prepared: Any) -> AsyncGenerator[Spoken, None]:
        """End."""
        yield Spoken([], Finish.STOP)
