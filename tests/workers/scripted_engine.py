"""An engine that plays what it is told: the double for everything above engines."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from smg.engines.base import EngineChunk, EngineInfo, EngineLoad, Finish, PromptTokens
from smg.events import Usage

Script = Sequence[EngineChunk | Exception]


def tokens(*ids: int) -> list[EngineChunk]:
    """A generation of these tokens, one a chunk."""
    last = EngineChunk(finish=Finish.STOP, usage=Usage(input_tokens=1, output_tokens=len(ids)))
    return [*(EngineChunk([token]) for token in ids), last]


class ScriptedEngine:
    """Plays one script for each generation, in order; a generation without one is a mistake."""

    def __init__(self, address: str, *scripts: Script) -> None:
        self.address = address
        self.requests: list[str] = []
        self.closed_streams = 0
        self.is_closed = False
        self.model = address
        self.details: dict[str, Any] = {}
        """What it says of itself beside its model."""
        self.sickness: Exception | None = None
        """What every question is answered with."""
        self.reported = EngineLoad()
        self._probed = asyncio.Event()
        self._scripts = list(scripts)

    async def generate(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        self.requests.append(request_id)
        script = self._scripts.pop(0)
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.closed_streams += 1

    async def info(self) -> EngineInfo:
        await self.check()
        return EngineInfo(engine="scripted", model=self.model, details=self.details)

    async def check(self) -> None:
        self._probed.set()
        if self.sickness is not None:
            raise self.sickness

    async def next_probe(self) -> None:
        """Wait for it, and for what it leads to."""
        self._probed.clear()
        async with asyncio.timeout(5):
            await self._probed.wait()

    async def load(self) -> EngineLoad:
        if self.sickness is not None:
            raise self.sickness
        return self.reported

    async def close(self) -> None:
        self.is_closed = True
