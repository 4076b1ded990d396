"""Prefill and decode: what each half is told, and what becomes of one when the other fails.

The halves are stand-in servers that speak the engines' published protocols.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from smg.discovery.halves import check_engines, is_split, new_halves, read_prefill
from smg.engines.base import EngineChunk, PromptTokens
from smg.engines.registry import Connection
from smg.errors import ConfigError, EngineError, PromptRejected, WorkerUnavailable
from smg.settings import Settings
from smg.turn import JsonSchema, Sampling
from smg.workers.pd import PdPool
from tests.contracts.engine import FOREVER, PATIENT
from tests.contracts.speech import MLX, PROMPT, SGLANG, VLLM, Speech
from tests.engines.stand_in import PATIENCE_S, Process, StandIn, directing

ASKED = Sampling(temperature=0.0, max_tokens=4, min_tokens=2, stop=("x",), logprobs=1)
TOLD = '{"remote_engine_id": "e", "remote_block_ids": [1, 2]}'


@dataclass(frozen=True, slots=True)
class Halves:
    pool: PdPool
    prefill: StandIn
    decode: StandIn

    async def play(self, speech: Speech, prefill: list[Any], decode: list[Any]) -> None:
        """Set both scripts; questions about health have been answered by then."""
        await self.prefill.play(*prefill, answers=speech.answers())
        await self.decode.play(*decode, answers=speech.answers())

    async def generate(self, **fields: Any) -> list[EngineChunk]:
        prompt = PromptTokens(ids=PROMPT, **fields)
        async with (
            asyncio.timeout(PATIENCE_S),
            aclosing(self.pool.generate(lambda: "r1", prompt)) as chunks,
        ):
            return [chunk async for chunk in chunks]


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, tuple[Process, Process]]]:
    """Two servers of each engine, for both halves."""
    running = {
        speech.engine: (Process(speech.module), Process(speech.module)) for speech in (VLLM, SGLANG)
    }
    yield running
    for pair in running.values():
        for process in pair:
            process.end()


@asynccontextmanager
async def halves(
    speech: Speech, processes: dict[str, tuple[Process, Process]], **server: Any
) -> AsyncIterator[Halves]:
    answers = {**speech.answers(), "GetServerInfo": {**speech.server, **server}}
    async with AsyncExitStack() as stack:
        prefill, decode = [
            await stack.enter_async_context(directing(process))
            for process in processes[speech.engine]
        ]
        for half in (prefill, decode):
            await half.play(answers=answers)
        settings = Settings(
            prefill=(f"grpc+{speech.engine}://{prefill.address}", "7000"),
            decode=(f"grpc+{speech.engine}://{decode.address}",),
        )
        pool = new_halves(settings, Connection(timeouts=PATIENT))
        stack.push_async_callback(pool.close)
        await pool.start()
        yield Halves(pool, prefill, decode)


def ids(chunks: list[EngineChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.ids]


async def test_sglang_gets_both_legs_at_once_with_one_room(processes: Any) -> None:
    async with halves(SGLANG, processes) as pair:
        await pair.play(SGLANG, SGLANG.stream([9]), SGLANG.stream([1], [2]))
        assert ids(await pair.generate(sampling=ASKED)) == [1, 2]
        prefill, decode = [await h.heard("Generate") for h in (pair.prefill, pair.decode)]
    assert prefill == decode
    room = prefill["disaggregated_params"].pop("bootstrap_room")
    assert 0 <= room < 2**31
    assert prefill["disaggregated_params"] == {
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": 7000,
    }
    assert prefill["request_id"] == "r1"


async def test_each_generation_has_a_room_of_its_own(processes: Any) -> None:
    async with halves(SGLANG, processes) as pair:
        await pair.play(SGLANG, SGLANG.stream([9]), SGLANG.stream([1]))
        await asyncio.gather(*(pair.generate() for _ in range(2)))
        sent = [await pair.decode.heard("Generate") for _ in range(2)]
    first, second = (one["disaggregated_params"]["bootstrap_room"] for one in sent)
    assert first != second


NOTHING_ENDS_IT = {
    "temperature": 0.0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "max_tokens": 1,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "ignore_eos": True,
    "n": 1,
}


def prefilled(told: str = TOLD) -> list[Any]:
    """vLLM's whole answer to a prefill leg, which is not streamed."""
    complete = VLLM.complete([9], [9], "length")
    complete["complete"]["kv_transfer_params_json"] = told
    return [complete]


async def test_vllm_relays_word_for_word_what_prefill_tells(processes: Any) -> None:
    async with halves(VLLM, processes) as pair:
        await pair.play(VLLM, prefilled(), VLLM.stream([1], [2]))
        chunks = await pair.generate(sampling=ASKED, constraint=JsonSchema("{}"))
        assert ids(chunks) == [1, 2]
        prefill, decode = [await h.heard("Generate") for h in (pair.prefill, pair.decode)]
    assert json.loads(prefill.pop("kv_transfer_params_json")) == {
        "do_remote_decode": True,
        "do_remote_prefill": False,
    }
    assert prefill == {
        "request_id": "r1",
        "tokenized": {"input_ids": list(PROMPT)},
        "sampling_params": NOTHING_ENDS_IT,
    }
    assert decode["kv_transfer_params_json"] == TOLD
    assert (decode["request_id"], decode["stream"]) == ("r1", True)
    assert decode["sampling_params"]["json_schema"] == "{}"
    assert decode["sampling_params"]["max_tokens"] == 4


async def test_mooncake_is_told_the_name_of_the_transfer_and_where_it_is(processes: Any) -> None:
    server = {"kv_connector": "MooncakeConnector", "kv_engine_id": "e7"}
    async with halves(VLLM, processes, **server) as pair:
        await pair.play(VLLM, prefilled(""), VLLM.stream([1]))
        assert ids(await pair.generate()) == [1]
        prefill, decode = [
            json.loads((await h.heard("Generate"))["kv_transfer_params_json"])
            for h in (pair.prefill, pair.decode)
        ]
    name = prefill["transfer_id"]
    assert name.startswith("xfer-")
    assert prefill == {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": name}
    assert decode == {
        "do_remote_decode": False,
        "do_remote_prefill": True,
        "transfer_id": name,
        "remote_engine_id": "e7",
        "remote_bootstrap_addr": "http://127.0.0.1:7000",
    }


async def test_a_prefill_worker_that_tells_nothing_fails_the_generation(processes: Any) -> None:
    async with halves(VLLM, processes) as pair:
        await pair.play(VLLM, prefilled(""), VLLM.stream([1]))
        with pytest.raises(EngineError, match="told nothing of the cache"):
            await pair.generate()
        assert "Generate" not in await pair.decode.calls()


@pytest.mark.parametrize(
    ("status", "kind"), [("INTERNAL", EngineError), ("INVALID_ARGUMENT", PromptRejected)]
)
async def test_a_prefill_leg_that_dies_frees_decode(
    status: str, kind: type[EngineError], processes: Any
) -> None:
    async with halves(SGLANG, processes) as pair:
        await pair.play(SGLANG, [{"status": status}], [FOREVER])
        with pytest.raises(kind):
            await pair.generate()
        assert await pair.decode.cancelled() == "r1"
        assert await pair.decode.heard("Abort") == {"request_id": "r1"}
        assert all(worker.in_flight == 0 for worker in pair.pool.workers)


async def test_a_decode_leg_that_dies_frees_prefill(processes: Any) -> None:
    async with halves(SGLANG, processes) as pair:
        await pair.play(SGLANG, [FOREVER], [{"status": "INTERNAL"}])
        with pytest.raises(EngineError):
            await pair.generate()
        assert await pair.prefill.cancelled() == "r1"
        assert await pair.prefill.heard("Abort") == {"request_id": "r1"}


async def test_a_client_that_goes_frees_both(processes: Any) -> None:
    async with halves(SGLANG, processes) as pair:
        first, *_ = SGLANG.stream([1])
        await pair.play(SGLANG, [FOREVER], [first, FOREVER])
        prompt = PromptTokens(ids=PROMPT)
        async with aclosing(pair.pool.generate(lambda: "r1", prompt)) as chunks:
            assert (await anext(chunks)).ids == [1]
        for half in (pair.prefill, pair.decode):
            assert await half.cancelled() == "r1"
            assert await half.heard("Abort") == {"request_id": "r1"}


async def test_without_a_prefill_worker_there_is_no_answer() -> None:
    nobody = Settings(prefill=("grpc://127.0.0.1:9",), decode=("grpc://127.0.0.1:9",))
    pool = new_halves(nobody, Connection(timeouts=PATIENT))
    try:
        await pool.start()
        assert not pool.is_ready
        with pytest.raises(WorkerUnavailable):
            await anext(pool.generate(lambda: "r1", PromptTokens(ids=PROMPT)))
    finally:
        await pool.close()


async def test_engines_that_cannot_be_split_are_told_at_start(processes: Any) -> None:
    process = Process(MLX.module)
    try:
        async with directing(process) as stand_in:
            await stand_in.play(answers=MLX.answers())
            url = f"grpc://{stand_in.address}"
            pool = new_halves(Settings(prefill=(url,), decode=(url,)), Connection())
            await pool.start()
            with pytest.raises(ConfigError, match="mlx cannot be split"):
                check_engines(pool)
            await pool.close()
    finally:
        process.end()


async def test_halves_of_different_engines_are_told_at_start(processes: Any) -> None:
    (vllm, _), (sglang, _) = processes["vllm"], processes["sglang"]
    async with directing(vllm) as first, directing(sglang) as second:
        await first.play(answers=VLLM.answers())
        await second.play(answers=SGLANG.answers())
        urls: Any = {
            "prefill": (f"grpc://{first.address}",),
            "decode": (f"grpc://{second.address}",),
        }
        pool = new_halves(Settings(**urls), Connection())
        await pool.start()
        with pytest.raises(ConfigError, match="one engine with one model"):
            check_engines(pool)
        await pool.close()


def test_ports_belong_to_the_url_before_them() -> None:
    words = ("grpc://a:1", "7000", "grpc://b:1", "grpc://c:1", "7001")
    assert read_prefill(words) == [("grpc://a:1", 7000), ("grpc://b:1", 8998), ("grpc://c:1", 7001)]


@pytest.mark.parametrize("words", [("7000",), ("grpc://a:1", "1", "2"), ("grpc://a:1", "70000")])
def test_a_port_that_belongs_to_none_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="--prefill"):
        read_prefill(words)


URL = ("grpc://a:1",)


@pytest.mark.parametrize(
    "given",
    [
        {"prefill": URL},
        {"decode": URL},
        {"prefill": URL, "decode": URL, "worker_urls": URL},
        {"prefill": URL, "decode": URL, "dp_aware": True},
    ],
)
def test_halves_belong_together_and_to_nothing_else(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        is_split(Settings(**given))


async def test_only_grpc_workers_can_be_halves() -> None:
    with pytest.raises(ConfigError, match="grpc://host:port"):
        new_halves(Settings(prefill=("http://a:1",), decode=URL), Connection())
