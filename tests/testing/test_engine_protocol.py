import hashlib
import io
import json
import zipfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from smg.engines._generated import common_pb2
from smg.engines._generated import vllm_engine_pb2 as pb
from smg.errors import ConfigError
from smg.testing.engine import EngineOptions, ScriptedEngine, Servicer
from smg.testing.generation import logprobs
from smg.testing.servicer import SERVICE
from tests.testing.asking import VOCABULARY, Said, answer, ask, connected, render, request, user

RUST = EngineOptions(servicer=Servicer.RUST)
WORDS = render([user("[[say:one two three]]")])
IDS = [*VOCABULARY.encode("one two three"), VOCABULARY.eos]


async def refused(engine: ScriptedEngine, message: pb.GenerateRequest) -> tuple[Any, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ask(engine, message)
    return error.value.code(), error.value.details() or ""


def counts(said: Said) -> list[tuple[int, int]]:
    return [(len(chunk.token_ids), chunk.completion_tokens) for chunk in said.chunks]


async def test_the_python_servicer_counts_each_chunk_and_repeats_the_last_ids() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request(WORDS))
    assert said.ids == IDS
    assert counts(said) == [(1, 1)] * 4
    (complete,) = said.completes
    assert list(complete.output_ids) == IDS[-1:]
    assert (complete.finish_reason, complete.completion_tokens) == ("stop", 1)
    assert complete.prompt_tokens == len(VOCABULARY.encode_prompt(WORDS))
    assert complete.WhichOneof("matched_stop") is None


async def test_the_rust_servicer_counts_all_ids_and_repeats_them_all() -> None:
    async with ScriptedEngine(options=RUST) as engine:
        said = await ask(engine, request(WORDS))
    assert said.ids == IDS
    assert counts(said) == [(1, 1), (1, 2), (1, 3), (1, 4)]
    (complete,) = said.completes
    assert (list(complete.output_ids), complete.completion_tokens) == (IDS, 4)


@pytest.mark.parametrize("servicer", Servicer)
async def test_without_streaming_one_message_holds_everything(servicer: Servicer) -> None:
    async with ScriptedEngine(options=EngineOptions(servicer=servicer)) as engine:
        said = await ask(engine, request(WORDS, stream=False, logprobs=0))
    (complete,) = said.completes
    assert (said.chunks, list(complete.output_ids)) == ([], IDS)
    assert (complete.completion_tokens, complete.finish_reason) == (4, "stop")
    assert list(complete.output_logprobs.token_ids) == IDS


async def test_chunks_hold_as_many_tokens_as_the_options_say() -> None:
    async with ScriptedEngine(options=EngineOptions(per_chunk=3)) as engine:
        said = await ask(engine, request(WORDS))
    assert (said.ids, counts(said)) == (IDS, [(3, 3), (1, 1)])
    assert list(said.completes[0].output_ids) == IDS[3:]


async def test_several_choices_interleave_and_each_has_its_end() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request(WORDS, n=2))
    assert [chunk.index for chunk in said.chunks] == [0, 1] * 4
    assert [complete.index for complete in said.completes] == [0, 1]


async def test_max_tokens_ends_with_length() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request(WORDS, max_tokens=2))
    assert (said.ids, said.finish) == (IDS[:2], "length")


async def test_an_answer_that_just_fits_its_limit_has_stopped() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request(WORDS, max_tokens=4))
    assert (said.ids, said.finish) == (IDS, "stop")


async def test_the_context_limits_the_answer() -> None:
    length = len(VOCABULARY.encode_prompt(WORDS))
    async with ScriptedEngine(options=EngineOptions(max_context=length + 2)) as engine:
        said = await ask(engine, request(WORDS, max_tokens=100))
    assert (said.ids, said.finish) == (IDS[:2], "length")


async def test_a_stop_string_ends_where_it_is_complete() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request(WORDS, stop=["never", "wo"]))
    assert (said.text, said.finish) == ("one two", "stop")
    assert said.completes[0].matched_stop_str == "wo"


async def test_a_stop_token_is_reported_and_included() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request(WORDS, stop_token_ids=[IDS[1]]))
    assert (said.ids, said.finish) == (IDS[:2], "stop")
    assert said.completes[0].matched_token_id == IDS[1]


async def test_min_tokens_puts_off_every_stop() -> None:
    async with ScriptedEngine() as engine:
        message = request(WORDS, min_tokens=5, stop=["one"], stop_token_ids=[IDS[1]])
        said = await ask(engine, message)
    assert said.ids == [*IDS[:3], *IDS[:2], VOCABULARY.eos]
    assert said.completes[0].WhichOneof("matched_stop") is None


async def test_ignore_eos_repeats_the_answer_up_to_the_limit() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request(WORDS, ignore_eos=True, max_tokens=7))
    assert (said.ids, said.finish) == ([*IDS[:3], *IDS[:3], IDS[0]], "length")


async def test_log_probabilities_begin_with_the_sampled_token() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request(WORDS, logprobs=3))
    for chunk in said.chunks:
        (top,) = chunk.output_logprobs.top_logprobs
        (token,) = chunk.token_ids
        made_up = logprobs(token, 3, VOCABULARY.size)
        assert list(zip(top.token_ids, top.values, strict=True)) == made_up
        assert made_up[0] == (token, chunk.output_logprobs.token_logprobs[0])


def test_an_unlikely_token_is_listed_before_its_better_rival() -> None:
    assert logprobs(7, 2, 100) == [(7, -1.0), (8, -0.25)]
    assert logprobs(8, 2, 100) == [(8, -0.25), (9, -1.0)]
    assert logprobs(7, 0, 100) == [(7, -1.0)]


async def test_zero_log_probabilities_are_those_of_the_sampled_tokens_alone() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request(WORDS, logprobs=0))
    assert [len(chunk.output_logprobs.token_logprobs) for chunk in said.chunks] == [1] * 4
    assert [len(chunk.output_logprobs.top_logprobs) for chunk in said.chunks] == [0] * 4


async def test_a_prompt_seen_before_is_cached_in_whole_blocks() -> None:
    async with ScriptedEngine() as engine:
        first = await ask(engine, request(list(range(40))))
        second = await ask(engine, request([*range(35), 99, 98]))
        third = await ask(engine, request(list(range(32))))
    assert [said.completes[0].cached_tokens for said in (first, second, third)] == [0, 32, 16]


async def test_a_prompt_may_come_as_text() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, pb.GenerateRequest(request_id="t", text=WORDS, stream=True))
        assert (said.ids, engine.requests[-1].prompt) == (IDS, WORDS)


BAD = [
    (request([]), "The prompt is empty"),
    (request([VOCABULARY.size]), f"Token id {VOCABULARY.size} is out of vocabulary (2048)"),
    (request([1] * 100), "The prompt has 100 tokens; the context of 100 leaves no room to answer"),
    (request([1], max_tokens=0), "max_tokens must be at least 1, got 0"),
    (request([1], max_tokens=1, min_tokens=2), "min_tokens must be at most max_tokens"),
    (request([1], temperature=-1), "temperature must not be negative, got -1.0"),
    (request([1], logprobs=21), "logprobs must be from 0 to 20, got 21"),
    (request([1], prompt_logprobs=1), "The scripted engine has no prompt_logprobs"),
    (pb.GenerateRequest(request_id="x"), "The request has no input"),
    (
        pb.GenerateRequest(request_id="x", data_parallel_rank=1),
        "data_parallel_rank 1 is out of range [0, 1)",
    ),
]


@pytest.mark.parametrize(("message", "reason"), BAD, ids=[reason for _, reason in BAD])
async def test_what_vllm_refuses_is_refused(message: pb.GenerateRequest, reason: str) -> None:
    async with ScriptedEngine(options=EngineOptions(max_context=100)) as engine:
        assert await refused(engine, message) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert await answer(engine, user("[[say:well]]")) == "well"


async def test_a_list_of_tools_that_is_no_json_is_refused() -> None:
    async with ScriptedEngine() as engine:
        prompt = render([user("hi")], [{"name": "f"}]).replace('{"name": "f"}', "{f}")
        code, reason = await refused(engine, request(prompt))
    assert (code, reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "A line of <tools> is no tool: {f}",
    )


async def test_abort_ends_a_slow_stream_at_once() -> None:
    async with ScriptedEngine() as engine, connected(engine) as client:
        prompt = render([user("[[say:one two three]][[slow:200]]")])
        stream = aiter(client.generate(request(prompt, "a")))
        received = await engine.arrived()
        await client.abort("unknown", "a")
        last = (await anext(stream)).complete
        assert (last.finish_reason, list(last.output_ids)) == ("abort", [])
        assert await received.ended() == "abort"
        assert list(engine.aborts) == ["unknown", "a"]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize(
    ("servicer", "stream"),
    [(Servicer.PYTHON, True), (Servicer.RUST, True), (Servicer.PYTHON, False)],
)
async def test_what_was_said_before_an_abort_is_counted_as_the_servicer_counts(
    servicer: Servicer, stream: bool
) -> None:
    options = EngineOptions(servicer=servicer, itl_ms=2)
    async with ScriptedEngine(options=options) as engine, connected(engine) as client:
        prompt = render([user("[[long:2000]]")])
        responses = aiter(client.generate(request(prompt, "a", stream=stream)))
        await engine.arrived()
        later = aiter(client.generate(request(prompt, "later")))
        for _ in range(5):  # Whoever began before that one has said something by now.
            await anext(later)
        await client.abort("a")
        ids: list[int] = []
        async for response in responses:
            ids += response.chunk.token_ids
        complete = response.complete
        assert complete.finish_reason == "abort"
        if servicer is Servicer.PYTHON and stream:
            assert (len(ids) > 0, list(complete.output_ids)) == (True, [])
        elif stream:
            assert (len(ids) > 0, list(complete.output_ids)) == (True, ids)
        else:
            assert (ids, len(complete.output_ids) > 0) == ([], True)


async def test_a_cancelled_call_frees_the_engine_at_once() -> None:
    options = EngineOptions(itl_ms=5)
    async with ScriptedEngine(options=options) as engine, connected(engine) as client:
        stream = client.generate(request(render([user("[[long:2000]]")])))
        await anext(aiter(stream))
        assert await running(client) == 1
        stream.cancel()
        assert await engine.requests[-1].ended() == "cancelled"
        assert await running(client) == 0


async def running(client: Any) -> int:
    loads = await client.call("GetLoads", pb.GetLoadsRequest(), pb.GetLoadsResponse)
    return int(loads.loads[0].num_running_reqs)


async def test_one_id_in_flight_twice_is_served_by_python_and_refused_by_rust() -> None:
    message = request(render([user("[[long:2000]]")]), "same")
    for servicer in Servicer:
        options = EngineOptions(servicer=servicer, itl_ms=5)
        async with ScriptedEngine(options=options) as engine, connected(engine) as client:
            first = aiter(client.generate(message))
            await anext(first)
            second = aiter(client.generate(message))
            if servicer is Servicer.PYTHON:
                await anext(second)
                assert await running(client) == 2
                await client.abort("same")
                finishes = [await received.ended() for received in engine.requests]
                assert finishes == ["abort", "abort"]
            else:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await anext(second)
                assert error.value.code() == grpc.StatusCode.ALREADY_EXISTS
                assert await running(client) == 1


async def test_the_rust_servicer_wants_ids_and_a_request_id() -> None:
    async with ScriptedEngine(options=RUST) as engine:
        text = pb.GenerateRequest(request_id="t", text="hi")
        assert (await refused(engine, text))[1] == "This servicer takes token ids only"
        assert (await refused(engine, request([1], "")))[1] == "request_id is empty"


async def test_the_engine_says_what_it_serves() -> None:
    for options, ends in ((EngineOptions(), [2041]), (RUST, [2041, 2039])):
        async with ScriptedEngine(options=options) as engine, connected(engine) as client:
            model = await client.call(
                "GetModelInfo", pb.GetModelInfoRequest(), pb.GetModelInfoResponse
            )
            server = await client.call(
                "GetServerInfo", pb.GetServerInfoRequest(), pb.GetServerInfoResponse
            )
        assert (model.served_model_name, model.model_type) == ("scripted", "qwen3")
        assert (model.max_context_length, model.vocab_size) == (32768, 2048)
        assert list(model.eos_token_ids) == ends
        assert (Path(model.tokenizer_path) / "chat_template.jinja").exists()
        assert json.loads(model.default_sampling_params_json) == {
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
        }
        assert server.server_type == ("vllm-grpc" if options is RUST else "")
        assert server.data_parallel_size == 1


async def test_health_is_what_the_test_says() -> None:
    async with ScriptedEngine() as engine, connected(engine) as client:
        health = (pb.HealthCheckRequest(), pb.HealthCheckResponse)
        assert (await client.call("HealthCheck", *health)).healthy
        engine.become_healthy(False)
        assert not (await client.call("HealthCheck", *health)).healthy


async def test_the_tokenizer_comes_as_an_archive_with_its_checksum() -> None:
    async with ScriptedEngine() as engine, grpc.aio.insecure_channel(engine.address) as channel:
        method = channel.unary_stream(
            f"/{SERVICE}/GetTokenizer",
            request_serializer=common_pb2.GetTokenizerRequest.SerializeToString,
            response_deserializer=common_pb2.GetTokenizerChunk.FromString,
        )
        chunks = [chunk async for chunk in method(common_pb2.GetTokenizerRequest(), timeout=5)]
    archive = b"".join(chunk.data for chunk in chunks)
    digests = [chunk.sha256 for chunk in chunks]
    assert digests == [""] * (len(chunks) - 1) + [hashlib.sha256(archive).hexdigest()]
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        assert files.namelist() == [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]


async def test_embeddings_and_unknown_calls_are_refused() -> None:
    async with ScriptedEngine() as engine, connected(engine) as client:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.call("Embed", pb.EmbedRequest(), pb.EmbedResponse)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.call("FlushCache", pb.GetLoadsRequest(), pb.GetLoadsResponse)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_that_is_taken_is_a_clear_error() -> None:
    async with ScriptedEngine() as engine:
        port = int(engine.address.rpartition(":")[2])
        with pytest.raises(ConfigError, match="cannot listen on"):
            async with ScriptedEngine(options=EngineOptions(port=port)):
                raise NotImplementedError


async def test_leaving_the_block_ends_what_still_runs() -> None:
    async with AsyncExitStack() as block:
        engine = ScriptedEngine(options=EngineOptions(itl_ms=100_000))
        await block.enter_async_context(engine)
        async with connected(engine) as client:
            stream = aiter(client.generate(request(WORDS)))
            received = await engine.arrived()
            await block.aclose()
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await anext(stream)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await received.ended() == "cancelled"
