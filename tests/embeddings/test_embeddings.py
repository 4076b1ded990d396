"""POST /v1/embeddings, over the engines that make vectors and over HTTP workers."""

import base64
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from smg.testing.vocabulary import MODEL_PATH
from smg.tokens.source import locate
from smg.tokens.tokenizer import Tokenizer
from tests.contracts.speech import MLX, SGLANG, VLLM, Speech
from tests.discovery.test_engines import client_of
from tests.engines.stand_in import Process, StandIn, directing
from tests.upstream.raw_server import Answer, as_json, raw_server

Processes = Callable[[str], Process]
VECTOR = [0.5, -0.25, 0.125]


@asynccontextmanager
async def over(
    speech: Speech, processes: Processes, folder: Path, **model: Any
) -> AsyncIterator[tuple[StandIn, AsyncOpenAI]]:
    """A gateway over a stand-in that makes vectors."""
    told = {**speech.model, "served_model_name": "tiny", "is_generation": False, **model}
    answers = {
        **speech.answers(),
        "GetModelInfo": told,
        "Embed": {"embedding": VECTOR, "prompt_tokens": 2, "embedding_dim": 3},
    }
    async with AsyncExitStack() as stack:
        stand_in = await stack.enter_async_context(directing(processes(speech.module)))
        await stand_in.play(answers=answers)
        flags = {
            "worker_urls": (f"grpc+{speech.engine}://{stand_in.address}",),
            "model_path": str(MODEL_PATH),
        }
        http = await stack.enter_async_context(client_of(folder, **flags))
        yield stand_in, await stack.enter_async_context(client_at(http))


def client_at(http: httpx2.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=str(http.base_url), api_key="none", max_retries=0, timeout=5)


@pytest.mark.parametrize("speech", [VLLM, SGLANG], ids=lambda speech: speech.name)
async def test_texts_become_vectors(
    speech: Speech, stand_in_process: Processes, tmp_path: Path
) -> None:
    ids = Tokenizer.load(locate(str(MODEL_PATH))).encode_text("Hello")
    async with over(speech, stand_in_process, tmp_path) as (stand_in, client):
        made = await client.embeddings.create(model="tiny", input=["Hello", "Hello"])
        request = await stand_in.heard("Embed")
        assert request["tokenized"] == {"input_ids": ids}
        assert (await stand_in.heard("Embed"))["request_id"] != request["request_id"]
    assert [(one.index, one.embedding) for one in made.data] == [(0, VECTOR), (1, VECTOR)]
    assert (made.model, made.usage.prompt_tokens, made.usage.total_tokens) == ("tiny", 4, 4)


async def test_token_ids_go_as_they_are(stand_in_process: Processes, tmp_path: Path) -> None:
    async with over(VLLM, stand_in_process, tmp_path) as (stand_in, client):
        await client.embeddings.create(model="tiny", input=[5, 6])
        assert (await stand_in.heard("Embed"))["tokenized"] == {"input_ids": [5, 6]}
        await client.embeddings.create(model="tiny", input=[[7], [8]])
        sent = [(await stand_in.heard("Embed"))["tokenized"]["input_ids"] for _ in range(2)]
        assert sorted(sent) == [[7], [8]]


async def test_vectors_may_be_base64(stand_in_process: Processes, tmp_path: Path) -> None:
    async with over(VLLM, stand_in_process, tmp_path) as (_, client):
        made = await client.embeddings.with_raw_response.create(
            model="tiny", input="x", encoding_format="base64"
        )
        written = made.http_response.json()["data"][0]["embedding"]
    assert list(struct.unpack("<3f", base64.b64decode(written))) == VECTOR


REFUSED: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "no text": ({"input": ""}, "input", "invalid_value"),
    "no texts": ({"input": []}, "input", "invalid_value"),
    "an empty text among others": ({"input": ["x", ""]}, "input[1]", "invalid_value"),
    "a number among texts": ({"input": ["x", 1]}, "input[1]", "invalid_value"),
    "no token": ({"input": [[]]}, "input[0]", "invalid_value"),
    "a token that is none": ({"input": [True]}, "input", "invalid_value"),
    "too many texts": ({"input": ["x"] * 2049}, "input", "invalid_value"),
    "a token beyond the vocabulary": ({"input": [2_000_000]}, None, "invalid_prompt"),
    "a token below zero": ({"input": [-1]}, None, "invalid_prompt"),
    "a text beyond the context": ({"input": [1] * 17}, "input", "context_length_exceeded"),
    "a length of its own": ({"input": "x", "dimensions": 2}, "dimensions", "invalid_prompt"),
}


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_done_is_refused_before_the_engine_hears_of_it(
    fields: dict[str, Any],
    param: str | None,
    code: str,
    stand_in_process: Processes,
    tmp_path: Path,
) -> None:
    async with over(VLLM, stand_in_process, tmp_path) as (stand_in, client):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model="tiny", **fields)
        assert (refused.value.param, refused.value.code) == (param, code)
        assert "Embed" not in await stand_in.calls()


async def test_a_model_of_vectors_generates_nothing(
    stand_in_process: Processes, tmp_path: Path
) -> None:
    async with over(VLLM, stand_in_process, tmp_path) as (_, client):
        with pytest.raises(openai.BadRequestError, match="generates no text"):
            await client.responses.create(model="tiny", input="Hello")


async def test_an_engine_without_vectors_is_named(
    stand_in_process: Processes, tmp_path: Path
) -> None:
    async with over(MLX, stand_in_process, tmp_path) as (_, client):
        with pytest.raises(openai.BadRequestError, match="mlx, makes no embeddings"):
            await client.embeddings.create(model="tiny", input="Hello")


async def test_a_model_of_texts_refuses_in_its_own_words(
    stand_in_process: Processes, tmp_path: Path
) -> None:
    async with over(VLLM, stand_in_process, tmp_path) as (stand_in, client):
        await stand_in.play(statuses={"Embed": "INVALID_ARGUMENT"})
        with pytest.raises(openai.BadRequestError, match="as scripted"):
            await client.embeddings.create(model="tiny", input="Hello")


def vectors(*entries: Any) -> Answer:
    return as_json({"data": entries, "usage": {"prompt_tokens": 7}})


FIRST, SECOND = {"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [2.0]}


@asynccontextmanager
async def over_http(folder: Path, answer: Answer) -> AsyncIterator[tuple[Any, AsyncOpenAI]]:
    async with (
        raw_server(**{"/v1/embeddings": answer}) as server,
        client_of(folder, worker_urls=(server.url,)) as http,
        client_at(http) as client,
    ):
        yield server, client


async def test_an_http_worker_is_asked_for_all_at_once(tmp_path: Path) -> None:
    async with over_http(tmp_path, vectors(SECOND, FIRST)) as (server, client):
        made = await client.embeddings.create(model="m", input=["a", "b"], dimensions=1)
    assert [one.embedding for one in made.data] == [[1.0], [2.0]]
    assert made.usage.prompt_tokens == 7
    assert server.requests[0][2] == {"model": "m", "input": ["a", "b"], "dimensions": 1}


@pytest.mark.parametrize(
    "answer",
    [vectors(FIRST), vectors({"index": 0}), vectors("x", "y"), as_json([]), Answer(b"x")],
)
async def test_vectors_that_make_no_sense_are_the_workers_failure(
    answer: Answer, tmp_path: Path
) -> None:
    async with over_http(tmp_path, answer) as (_, client):
        with pytest.raises(openai.InternalServerError):
            await client.embeddings.create(model="m", input=["a", "b"])


async def test_a_worker_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    async with over_http(tmp_path, as_json({}, 500)) as (_, client):
        with pytest.raises(openai.InternalServerError) as failed:
            await client.embeddings.create(model="m", input="a")
    assert failed.value.status_code == 503
