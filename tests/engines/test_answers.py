"""What is made of each engine's answers: facts about it, its load, log-probabilities, endings."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from smg.engines.base import (
    EngineChunk,
    EngineInfo,
    EngineLoad,
    Finish,
    PromptTokens,
    TokenLogprobs,
)
from smg.errors import EngineError, WorkerTimeout
from smg.events import Usage
from smg.turn import Sampling
from tests.contracts.engine import engine_at, everything
from tests.contracts.speech import (
    CONTEXT,
    MLX,
    PROMPT,
    SGLANG,
    TOKENSPEED,
    TRTLLM,
    VLLM,
    VOCABULARY,
    Speech,
)
from tests.engines.stand_in import Process, directing

Processes = Callable[[str], Process]

TINY = EngineInfo(
    engine="vllm",
    model="tiny",
    context_length=CONTEXT,
    vocab_size=VOCABULARY,
    eos_token_ids=(2,),
    tokenizer_path="/models/tiny",
    model_path="/models/tiny",
    model_type="llama",
    architectures=("LlamaForCausalLM",),
    default_sampling={"temperature": 0.6},
)
INFOS: list[tuple[Speech, dict[str, Any], EngineInfo]] = [
    (
        VLLM,
        {"data_parallel_size": 2, "kv_connector": "NixlConnector", "max_num_seqs": 16},
        replace(
            TINY,
            details={"data_parallel_size": 2, "kv_connector": "NixlConnector", "max_num_seqs": 16},
        ),
    ),
    (
        SGLANG,
        {"server_args": {"context_length": 8, "dp_size": 2}, "sglang_version": "0.5"},
        replace(
            TINY,
            engine="sglang",
            version="0.5",
            context_length=8,
            details={"data_parallel_size": 2},
        ),
    ),
    (
        SGLANG,  # The operator has set no context length: what the KV cache holds is the limit.
        {"server_args": {"context_length": None}},
        replace(TINY, engine="sglang", context_length=1_000_000),
    ),
    (
        TRTLLM,
        {"version": "1.2", "tensor_parallel_size": 4},
        EngineInfo(
            engine="trtllm",
            model="tiny",
            version="1.2",
            context_length=CONTEXT,
            vocab_size=VOCABULARY,
            details={"tensor_parallel_size": 4},
        ),
    ),
    (
        MLX,
        {"server_type": "mlx-grpc"},
        EngineInfo(
            engine="mlx",
            model="tiny",
            context_length=CONTEXT,
            vocab_size=VOCABULARY,
            eos_token_ids=(2,),
            tokenizer_path="tiny",
            model_path="tiny",
        ),
    ),
    (
        TOKENSPEED,
        {"server_args": {"is_embedding": True}, "tokenspeed_version": "0.2"},
        replace(TINY, engine="tokenspeed", version="0.2", is_generation=False),
    ),
]


@pytest.mark.parametrize(("speech", "server", "info"), INFOS, ids=lambda each: "")
async def test_a_worker_is_described(
    speech: Speech, server: dict[str, Any], info: EngineInfo, stand_in_process: Processes
) -> None:
    async with (
        directing(stand_in_process(speech.module)) as stand_in,
        engine_at(stand_in, speech) as engine,
    ):
        await stand_in.play(answers={**speech.answers(), "GetServerInfo": server})
        assert await engine.info() == info


@pytest.mark.parametrize("defaults", ["{", "[]"])
async def test_sampling_defaults_that_are_no_object_are_an_error(
    defaults: str, stand_in_process: Processes
) -> None:
    model = {**VLLM.model, "default_sampling_params_json": defaults}
    async with (
        directing(stand_in_process(VLLM.module)) as stand_in,
        engine_at(stand_in, VLLM) as engine,
    ):
        await stand_in.play(answers={"GetModelInfo": model})
        with pytest.raises(EngineError, match="sampling defaults"):
            await engine.info()


@pytest.mark.parametrize("speech", [VLLM, SGLANG, TOKENSPEED], ids=lambda each: each.engine)
async def test_the_load_is_summed_over_the_ranks(
    speech: Speech, stand_in_process: Processes
) -> None:
    ranks = [
        {"dp_rank": 0, "num_running_reqs": 3, "num_waiting_reqs": 1, "token_usage": 0.5},
        {"dp_rank": 1, "num_running_reqs": 1, "num_waiting_reqs": 0, "token_usage": 0.25},
    ]
    async with (
        directing(stand_in_process(speech.module)) as stand_in,
        engine_at(stand_in, speech) as engine,
    ):
        await stand_in.play(answers={**speech.answers(), "GetLoads": {"loads": ranks}})
        each = {
            0: EngineLoad(running=3, waiting=1, token_usage=0.5),
            1: EngineLoad(running=1, token_usage=0.25),
        }
        whole = EngineLoad(running=4, waiting=1, token_usage=0.375, ranks=each)
        assert replace(await engine.load(), version="") == whole


async def test_mlx_says_how_many_requests_it_has(stand_in_process: Processes) -> None:
    async with (
        directing(stand_in_process(MLX.module)) as stand_in,
        engine_at(stand_in, MLX) as engine,
    ):
        await stand_in.play(answers={**MLX.answers(), "GetServerInfo": {"active_requests": 3}})
        assert await engine.load() == EngineLoad(running=3)


async def test_trtllm_does_not_say_how_busy_it_is(stand_in_process: Processes) -> None:
    async with (
        directing(stand_in_process(TRTLLM.module)) as stand_in,
        engine_at(stand_in, TRTLLM) as engine,
    ):
        await stand_in.play(answers=TRTLLM.answers())
        with pytest.raises(EngineError, match="does not report its load"):
            await engine.load()


LOGPROBS = {  # The sampled token is the third best; the first field is what vLLM sends.
    "output_logprobs": {
        "token_logprobs": [-2.0],
        "token_ids": [1],
        "top_logprobs": [{"values": [-2.0, -0.5, -1.5], "token_ids": [1, 7, 8]}],
    }
}
TRTLLM_LOGPROBS = {
    "logprobs": [
        {
            "token_id": 1,
            "logprob": -2.0,
            "top_logprobs": [
                {"token_id": 1, "logprob": -2.0},
                {"token_id": 7, "logprob": -0.5},
                {"token_id": 8, "logprob": -1.5},
            ],
        }
    ]
}


@pytest.mark.parametrize(
    "speech", [VLLM, SGLANG, TRTLLM, MLX, TOKENSPEED], ids=lambda each: each.engine
)
@pytest.mark.parametrize("count", [0, 2])
async def test_the_best_rivals_come_in_order(
    speech: Speech, count: int, stand_in_process: Processes
) -> None:
    first, last = speech.stream([1])
    first["chunk"] |= TRTLLM_LOGPROBS if speech is TRTLLM else LOGPROBS
    prompt = PromptTokens(ids=PROMPT, sampling=Sampling(logprobs=count))
    async with (
        directing(stand_in_process(speech.module)) as stand_in,
        engine_at(stand_in, speech) as engine,
    ):
        await stand_in.play(first, last, answers=speech.answers())
        chunk, _ = await everything(engine.generate("r1", prompt))
    rivals = [(7, -0.5), (8, -1.5)][:count]
    assert chunk == EngineChunk([1], logprobs=[TokenLogprobs(id=1, logprob=-2.0, top=rivals)])


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ({"token_ids": [1], "token_logprobs": [-1.0]}, TokenLogprobs(id=1, logprob=-1.0)),
        ({"token_ids": [1], "token_logprobs": ["-Infinity"]}, TokenLogprobs(id=1, logprob=-9999.0)),
        ({"token_ids": [1]}, None),
    ],
)
async def test_log_probabilities_may_be_scarce(
    logprobs: dict[str, Any], expected: TokenLogprobs | None, stand_in_process: Processes
) -> None:
    first, last = VLLM.stream([1])
    first["chunk"]["output_logprobs"] = logprobs
    prompt = PromptTokens(ids=PROMPT, sampling=Sampling(logprobs=0))
    async with (
        directing(stand_in_process(VLLM.module)) as stand_in,
        engine_at(stand_in, VLLM) as engine,
    ):
        await stand_in.play(first, last, answers=VLLM.answers())
        chunk, _ = await everything(engine.generate("r1", prompt))
    assert chunk.logprobs == ([] if expected is None else [expected])


async def test_log_probabilities_of_other_tokens_are_an_error(stand_in_process: Processes) -> None:
    first, last = VLLM.stream([1])
    first["chunk"]["output_logprobs"] = {"token_ids": [1, 2], "token_logprobs": [-1.0]}
    prompt = PromptTokens(ids=PROMPT, sampling=Sampling(logprobs=0))
    async with (
        directing(stand_in_process(VLLM.module)) as stand_in,
        engine_at(stand_in, VLLM) as engine,
    ):
        await stand_in.play(first, last, answers=VLLM.answers())
        with pytest.raises(EngineError, match="makes no sense"):
            await everything(engine.generate("r1", prompt))


@pytest.mark.parametrize(
    ("speech", "reason", "ending"),
    [
        (VLLM, "repetition", Finish.STOP),
        (VLLM, "error", EngineError),
        (VLLM, "something new", EngineError),
        (VLLM, "", EngineError),
        (TRTLLM, "", Finish.STOP),
        (TRTLLM, "timeout", WorkerTimeout),
        (TRTLLM, "cancelled", EngineError),
    ],
)
async def test_each_reason_to_end_has_its_meaning(
    speech: Speech, reason: str, ending: Finish | type[EngineError], stand_in_process: Processes
) -> None:
    async with (
        directing(stand_in_process(speech.module)) as stand_in,
        engine_at(stand_in, speech) as engine,
    ):
        await stand_in.play(*speech.stream([1], reason=reason), answers=speech.answers())
        chunks = engine.generate("r1", PromptTokens(ids=PROMPT))
        assert await anext(chunks) == EngineChunk([1])
        if isinstance(ending, Finish):
            assert (await anext(chunks)).finish is ending
            await chunks.aclose()
        else:
            with pytest.raises(EngineError) as failed:
                await anext(chunks)
            assert type(failed.value) is ending


async def test_a_matched_stop_string_is_named(stand_in_process: Processes) -> None:
    first, last = VLLM.stream([1])
    last["complete"]["matched_stop_str"] = "END"
    async with (
        directing(stand_in_process(VLLM.module)) as stand_in,
        engine_at(stand_in, VLLM) as engine,
    ):
        await stand_in.play(first, last, answers=VLLM.answers())
        *_, chunk = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    usage = Usage(input_tokens=3, cached_tokens=1, output_tokens=1)
    assert chunk == EngineChunk(finish=Finish.STOP, usage=usage, stop_matched="END")


async def test_a_chunk_without_tokens_is_no_first_token(stand_in_process: Processes) -> None:
    first, last = TOKENSPEED.stream([1])
    empty = {"chunk": {"prompt_tokens": 3}}
    async with (
        directing(stand_in_process(TOKENSPEED.module)) as stand_in,
        engine_at(stand_in, TOKENSPEED) as engine,
    ):
        await stand_in.play(empty, first, last, answers=TOKENSPEED.answers())
        chunks = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    assert [chunk.ids for chunk in chunks] == [[1], ()]
