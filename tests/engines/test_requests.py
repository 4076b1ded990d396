"""What each engine is sent, field by field, as its published protocol reads it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from smg.engines.base import PromptTokens
from smg.errors import PromptRejected
from smg.turn import Constraint, Grammar, JsonSchema, Regex, Sampling, StructuralTag
from tests.contracts.engine import engine_at, everything
from tests.contracts.speech import (
    MLX,
    PROMPT,
    SGLANG,
    SPEECHES,
    TOKENSPEED,
    TRTLLM,
    VLLM,
    Speech,
)
from tests.engines.stand_in import Process, directing

Processes = Callable[[str], Process]

FULL = Sampling(
    temperature=0.0,
    top_p=0.5,
    top_k=40,
    min_p=0.125,
    presence_penalty=0.25,
    frequency_penalty=-0.25,
    repetition_penalty=1.5,
    max_tokens=7,
    min_tokens=2,
    stop=("END", "\n\n"),
    stop_token_ids=(8, 9),
    include_stop=True,
    ignore_eos=True,
    seed=11,
    logit_bias={3: -100.0},
    logprobs=2,
    keep_special_tokens=True,
)

UNSAID: dict[str, dict[str, Any]] = {
    "vllm": {
        "request_id": "r1",
        "tokenized": {"input_ids": [5, 6, 7]},
        "sampling_params": {
            "temperature": 1.0,
            "top_p": 1.0,
            "repetition_penalty": 1.0,
            "max_tokens": 13,
            "skip_special_tokens": True,
            "spaces_between_special_tokens": True,
            "n": 1,
        },
        "stream": True,
    },
    "sglang": {
        "request_id": "r1",
        "tokenized": {"input_ids": [5, 6, 7]},
        "sampling_params": {
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "repetition_penalty": 1.0,
            "max_new_tokens": 13,
            "skip_special_tokens": True,
            "spaces_between_special_tokens": True,
            "n": 1,
            "no_stop_trim": True,
        },
        "logprob_start_len": -1,
        "stream": True,
    },
    "trtllm": {
        "request_id": "r1",
        "tokenized": {"input_token_ids": [5, 6, 7]},
        "sampling_config": {
            "beam_width": 1,
            "num_return_sequences": 1,
            "top_k": 0,
            "top_p": 1.0,
            "temperature": 1.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        },
        "output_config": {"exclude_input_from_output": True},
        "max_tokens": 13,
        "streaming": True,
        "include_stop_token_in_output": True,
    },
    "mlx": {
        "request_id": "r1",
        "tokenized": {"input_ids": [5, 6, 7]},
        "sampling_params": {
            "temperature": 1.0,
            "top_p": 1.0,
            "repetition_penalty": 1.0,
            "max_tokens": 13,
        },
        "stream": True,
    },
    "tokenspeed": {
        "request_id": "r1",
        "tokenized": {"input_ids": [5, 6, 7]},
        "sampling_params": {
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "max_new_tokens": 13,
            "skip_special_tokens": True,
            "spaces_between_special_tokens": True,
            "n": 1,
            "no_stop_trim": True,
        },
        "logprob_start_len": -1,
        "stream": True,
    },
}

SAID: dict[str, dict[str, Any]] = {
    "vllm": {
        "sampling_params": {
            "temperature": 0.0,
            "top_p": 0.5,
            "top_k": 40,
            "min_p": 0.125,
            "frequency_penalty": -0.25,
            "presence_penalty": 0.25,
            "repetition_penalty": 1.5,
            "max_tokens": 7,
            "min_tokens": 2,
            "stop": ["END", "\n\n"],
            "stop_token_ids": [8, 9],
            "spaces_between_special_tokens": True,
            "ignore_eos": True,
            "n": 1,
            "logprobs": 3,
            "seed": 11,
            "include_stop_str_in_output": True,
            "logit_bias": {"3": -100.0},
        },
    },
    "sglang": {
        "sampling_params": {
            "top_p": 0.5,
            "top_k": 40,
            "min_p": 0.125,
            "frequency_penalty": -0.25,
            "presence_penalty": 0.25,
            "repetition_penalty": 1.5,
            "max_new_tokens": 7,
            "min_new_tokens": 2,
            "stop_token_ids": [8, 9],
            "spaces_between_special_tokens": True,
            "ignore_eos": True,
            "n": 1,
            "no_stop_trim": True,
            "logit_bias": {"3": -100.0},
        },
        "return_logprob": True,
        "top_logprobs_num": 2,
    },
    "trtllm": {
        "sampling_config": {
            "beam_width": 1,
            "num_return_sequences": 1,
            "top_k": 40,
            "top_p": 0.5,
            "seed": "11",  # JSON has no 64-bit numbers.
            "temperature": 0.0,
            "min_tokens": 2,
            "repetition_penalty": 1.5,
            "presence_penalty": 0.25,
            "frequency_penalty": -0.25,
            "min_p": 0.125,
        },
        "output_config": {"logprobs": 2, "exclude_input_from_output": True},
        "max_tokens": 7,
        "embedding_bias": [0.0, 0.0, 0.0, -100.0, *[0.0] * 6],
        "stop": ["END", "\n\n"],
        "stop_token_ids": [8, 9],
        "ignore_eos": True,
    },
    "mlx": {
        "sampling_params": {
            "temperature": 0.0,
            "top_p": 0.5,
            "top_k": 40,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "frequency_penalty": -0.25,
            "presence_penalty": 0.25,
            "logit_bias": {"3": -100.0},
            "max_tokens": 7,
            "stop_token_ids": [8, 9],
            "ignore_eos": True,
            "logprobs": 2,
            "seed": 11,
        },
    },
    "tokenspeed": {
        "sampling_params": {
            "temperature": 0.0,
            "top_p": 0.5,
            "top_k": 40,
            "min_p": 0.125,
            "frequency_penalty": -0.25,
            "presence_penalty": 0.25,
            "repetition_penalty": 1.5,
            "max_new_tokens": 7,
            "min_new_tokens": 2,
            "stop": ["END", "\n\n"],
            "stop_token_ids": [8, 9],
            "ignore_eos": True,
            "spaces_between_special_tokens": True,
            "n": 1,
            "logit_bias": {"3": -100.0},
            "no_stop_trim": True,
            "sampling_seed": "11",
        },
        "return_logprob": True,
        "top_logprobs_num": 2,
    },
}

CANNOT: dict[str, dict[str, Any]] = {"sglang": {"seed": None}, "mlx": {"min_tokens": None}}
"""What an engine refuses, and so cannot be part of its full request."""

CONSTRAINTS: dict[type[Constraint], dict[str, dict[str, Any]]] = {
    JsonSchema: {
        "vllm": {"json_schema": "text"},
        "sglang": {"json_schema": "text"},
        "trtllm": {"guide_type": "GUIDE_TYPE_JSON_SCHEMA", "guide": "text"},
        "tokenspeed": {"json_schema": "text"},
    },
    Regex: {
        "vllm": {"regex": "text"},
        "sglang": {"regex": "text"},
        "trtllm": {"guide_type": "GUIDE_TYPE_REGEX", "guide": "text"},
        "tokenspeed": {"regex": "text"},
    },
    Grammar: {
        "vllm": {"grammar": "text"},
        "sglang": {"ebnf_grammar": "text"},
        "trtllm": {"guide_type": "GUIDE_TYPE_EBNF_GRAMMAR", "guide": "text"},
        "tokenspeed": {"ebnf_grammar": "text"},
    },
    StructuralTag: {
        "vllm": {"structural_tag": "text"},
        "sglang": {"structural_tag": "text"},
        "trtllm": {"guide_type": "GUIDE_TYPE_STRUCTURAL_TAG", "guide": "text"},
        "tokenspeed": {"structural_tag": "text"},
    },
}

ENGINES = [speech for speech in SPEECHES if speech.name != "vllm-rust"]
every_engine = pytest.mark.parametrize("speech", ENGINES, ids=lambda speech: speech.engine)


async def sent(processes: Processes, speech: Speech, prompt: PromptTokens) -> dict[str, Any]:
    async with directing(processes(speech.module)) as stand_in:
        small = {**speech.model, "vocab_size": 10}
        await stand_in.play(
            *speech.stream([1]), answers={**speech.answers(), "GetModelInfo": small}
        )
        async with engine_at(stand_in, speech) as engine:
            await everything(engine.generate("r1", prompt))
        return await stand_in.heard("Generate")


@every_engine
async def test_what_is_not_said_is_set_to_the_default(
    speech: Speech, stand_in_process: Processes
) -> None:
    request = await sent(stand_in_process, speech, PromptTokens(ids=PROMPT))
    assert request == UNSAID[speech.engine]


@every_engine
async def test_all_that_is_said_is_sent(speech: Speech, stand_in_process: Processes) -> None:
    sampling = replace(FULL, **CANNOT.get(speech.engine, {}))
    request = await sent(stand_in_process, speech, PromptTokens(ids=PROMPT, sampling=sampling))
    assert request == UNSAID[speech.engine] | SAID[speech.engine]


@every_engine
async def test_a_negative_top_k_is_off(speech: Speech, stand_in_process: Processes) -> None:
    prompt = PromptTokens(ids=PROMPT, sampling=Sampling(top_k=-1))
    assert await sent(stand_in_process, speech, prompt) == UNSAID[speech.engine]


@pytest.mark.parametrize("kind", CONSTRAINTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("speech", [VLLM, SGLANG, TRTLLM, TOKENSPEED], ids=lambda each: each.engine)
async def test_a_constraint_goes_into_its_field(
    speech: Speech, kind: type[Constraint], stand_in_process: Processes
) -> None:
    prompt = PromptTokens(ids=PROMPT, constraint=kind("text"))
    request = await sent(stand_in_process, speech, prompt)
    expected = CONSTRAINTS[kind][speech.engine]
    if speech is TRTLLM:
        assert request["guided_decoding"] == expected
    else:
        assert request["sampling_params"] == UNSAID[speech.engine]["sampling_params"] | expected


@pytest.mark.parametrize(
    ("speech", "prompt", "param"),
    [
        (VLLM, PromptTokens(ids=PROMPT, sampling=Sampling(seed=2**31)), "seed"),
        (VLLM, PromptTokens(ids=PROMPT, sampling=Sampling(logit_bias={10: 1.0})), "logit_bias"),
        (VLLM, PromptTokens(ids=PROMPT, sampling=Sampling(max_tokens=0)), "max_tokens"),
        (SGLANG, PromptTokens(ids=PROMPT, sampling=Sampling(seed=1)), "seed"),
        (TRTLLM, PromptTokens(ids=PROMPT, sampling=Sampling(seed=-1)), "seed"),
        (MLX, PromptTokens(ids=PROMPT, sampling=Sampling(seed=-(2**31) - 1)), "seed"),
        (MLX, PromptTokens(ids=PROMPT, sampling=Sampling(min_tokens=1)), "min_tokens"),
        (MLX, PromptTokens(ids=PROMPT, constraint=JsonSchema("{}")), None),
        (TOKENSPEED, PromptTokens(ids=PROMPT, sampling=Sampling(seed=2**64)), "seed"),
    ],
    ids=lambda value: getattr(value, "engine", None),
)
async def test_what_an_engine_cannot_do_is_refused_by_name(
    speech: Speech, prompt: PromptTokens, param: str | None, stand_in_process: Processes
) -> None:
    with pytest.raises(PromptRejected) as refused:
        await sent(stand_in_process, speech, prompt)
    assert refused.value.param == param


async def test_trtllm_without_a_context_length_wants_a_limit(stand_in_process: Processes) -> None:
    silent = replace(TRTLLM, model={"model_id": "tiny"})
    with pytest.raises(PromptRejected) as refused:
        await sent(stand_in_process, silent, PromptTokens(ids=PROMPT))
    assert refused.value.param == "max_tokens"


@pytest.mark.parametrize(("wanted", "asked"), [(0, 0), (1, 2), (19, 20), (20, 20), (50, 50)])
async def test_vllm_is_asked_for_one_rival_more(
    wanted: int, asked: int, stand_in_process: Processes
) -> None:
    prompt = PromptTokens(ids=PROMPT, sampling=Sampling(logprobs=wanted))
    request = await sent(stand_in_process, VLLM, prompt)
    assert request["sampling_params"]["logprobs"] == asked


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("speech", [VLLM, SGLANG, TOKENSPEED], ids=lambda each: each.engine)
async def test_a_rank_that_is_meant_is_named(
    speech: Speech, rank: int, stand_in_process: Processes
) -> None:
    named = await sent(stand_in_process, speech, PromptTokens(ids=PROMPT, rank=rank))
    assert named == {**UNSAID[speech.engine], "data_parallel_rank": rank}
