"""Several workers, some of them dead: the client notices nothing, or is told the truth."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import openai
import pytest

from smg.testing.engine import ScriptedEngine
from tests.e2e.gateway import served as serve


@pytest.fixture
def nobody() -> Iterator[str]:
    """A worker's URL at which nobody listens, and nobody else can begin to."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"grpc://127.0.0.1:{taken.getsockname()[1]}"


async def test_a_dead_worker_is_not_noticed_beside_a_living_one(
    nobody: str, tmp_path: Path
) -> None:
    async with (
        ScriptedEngine() as other,
        serve(tmp_path, tools=False, worker_urls=(nobody, other.url)) as served,
    ):
        for _ in range(4):  # Whoever's turn it is.
            answer = await served.post("/responses", input="[[say:Yes.]]")
            assert answer.json()["output"][0]["content"][0]["text"] == "Yes."
        assert len(other.requests) == 4
        async with httpx2.AsyncClient() as client:
            assert (await client.get(f"{served.url}/readiness")).status_code == 200


async def test_without_a_living_worker_the_client_is_told_to_come_again(
    nobody: str, tmp_path: Path
) -> None:
    async with serve(tmp_path, tools=False, worker_urls=(nobody,)) as served:
        [model] = (await served.openai.models.list()).data
        answer = await served.http.post("/responses", json={"model": model.id, "input": "Hello"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        with pytest.raises(openai.InternalServerError):
            await served.openai.chat.completions.create(
                model=model.id, messages=[{"role": "user", "content": "Hello"}]
            )
        async with httpx2.AsyncClient() as client:
            ready = await client.get(f"{served.url}/readiness")
            assert ready.status_code == 503
            assert (await client.get(f"{served.url}/health")).status_code == 200
