"""What every engine promises, whatever its protocol: run against a stand-in that speaks it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from smg.engines.base import EngineChunk, Finish, PromptTokens
from smg.engines.registry import Connection, connect
from smg.engines.remote import RemoteEngine, Timeouts
from smg.errors import (
    ContextLengthExceeded,
    EngineError,
    PromptRejected,
    WorkerTimeout,
    WorkerUnavailable,
)
from smg.events import Usage
from smg.turn import Sampling
from tests.contracts.speech import CONTEXT, PROMPT, VOCABULARY, Speech
from tests.engines.stand_in import PATIENCE_S, StandIn

FOREVER = {"wait": "forever"}
PATIENT = Timeouts(
    first_token_s=PATIENCE_S, next_token_s=PATIENCE_S, call_s=PATIENCE_S, status_s=PATIENCE_S
)
USAGE = Usage(input_tokens=3, cached_tokens=1, output_tokens=4)


@asynccontextmanager
async def engine_at(
    stand_in: StandIn, speech: Speech, timeouts: Timeouts = PATIENT
) -> AsyncIterator[RemoteEngine]:
    engine = connect(
        f"grpc+{speech.engine}://{stand_in.address}", None, Connection(timeouts=timeouts)
    )
    try:
        yield engine
    finally:
        await engine.close()


async def everything(chunks: AsyncGenerator[EngineChunk, None]) -> list[EngineChunk]:
    async with asyncio.timeout(PATIENCE_S), aclosing(chunks):
        return [chunk async for chunk in chunks]


async def the_joined_chunks_are_the_output_once(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(*speech.stream([1], [2, 3], [4]), answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        chunks = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    assert chunks == [
        EngineChunk([1]),
        EngineChunk([2, 3]),
        EngineChunk([4]),
        EngineChunk(finish=Finish.STOP, usage=USAGE),
    ]


async def a_token_counted_but_not_sent_is_in_the_usage(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(*speech.stream([1, 2, 3, 4], extra=1), answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        *_, last = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    assert last.usage is not None
    assert last.usage.output_tokens == 5


async def a_generation_may_have_no_tokens(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(*speech.stream(), answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        chunks = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    usage = Usage(input_tokens=3, cached_tokens=1)
    assert chunks == [EngineChunk(finish=Finish.STOP, usage=usage)]


async def the_limit_is_told_from_the_end(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(*speech.stream([1], reason="length"), answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        *_, last = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    assert last.finish is Finish.LENGTH


async def a_stop_token_is_named(stand_in: StandIn, speech: Speech) -> None:
    *chunks, last = speech.stream([1])
    last["complete"][speech.matched_token] = 2
    await stand_in.play(*chunks, last, answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        *_, chunk = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    assert chunk.stop_matched == 2


async def the_prompt_arrives_and_is_streamed(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(*speech.stream([1]), answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    request = await stand_in.heard("Generate")
    assert request["request_id"] == "r1"
    assert request.get("stream") or request.get("streaming")
    assert list(PROMPT) in request["tokenized"].values()


async def a_complete_generation_is_neither_cancelled_nor_aborted(
    stand_in: StandIn, speech: Speech
) -> None:
    await stand_in.play(*speech.stream([1]), {"wait": "a while"}, answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        chunks = engine.generate("r1", PromptTokens(ids=PROMPT))
        assert [(await anext(chunks)).finish for _ in range(2)] == [None, Finish.STOP]
        ending = asyncio.create_task(everything(chunks))
        await asyncio.sleep(0)  # It is now waiting for the stream's status.
        await stand_in.go_on()
        assert await ending == []
    assert await stand_in.calls() == ["GetModelInfo", "GetServerInfo", "Generate"]


async def leaving_early_cancels_and_aborts(stand_in: StandIn, speech: Speech) -> None:
    first, *_ = speech.stream([1])
    await stand_in.play(first, FOREVER, answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        async with aclosing(engine.generate("r1", PromptTokens(ids=PROMPT))) as chunks:
            assert await anext(chunks) == EngineChunk([1])
        assert await stand_in.cancelled() == "r1"
        assert await stand_in.heard("Abort") == speech.abort("r1")


async def a_cancelled_reader_cancels_and_aborts(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(FOREVER, answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        reading = asyncio.create_task(everything(engine.generate("r1", PromptTokens(ids=PROMPT))))
        await stand_in.heard("Generate")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await stand_in.cancelled() == "r1"
        assert await stand_in.heard("Abort") == speech.abort("r1")


async def closing_the_engine_waits_for_its_aborts(stand_in: StandIn, speech: Speech) -> None:
    first, *_ = speech.stream([1])
    await stand_in.play(first, FOREVER, answers=speech.answers())
    async with (
        engine_at(stand_in, speech) as engine,
        aclosing(engine.generate("r1", PromptTokens(ids=PROMPT))) as chunks,
    ):
        await anext(chunks)
    assert "Abort" in await stand_in.calls()


async def the_first_token_has_a_deadline(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(FOREVER, answers=speech.answers())
    hasty = Timeouts(first_token_s=0.05, next_token_s=PATIENCE_S, call_s=PATIENCE_S)
    async with engine_at(stand_in, speech, hasty) as engine:
        with pytest.raises(WorkerTimeout, match=r"0\.05 s"):
            await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
        assert await stand_in.cancelled() == "r1"
        assert await stand_in.heard("Abort") == speech.abort("r1")


async def the_next_token_has_a_deadline(stand_in: StandIn, speech: Speech) -> None:
    first, *_ = speech.stream([1])
    await stand_in.play(first, FOREVER, answers=speech.answers())
    hasty = Timeouts(first_token_s=PATIENCE_S, next_token_s=0.05, call_s=PATIENCE_S)
    async with engine_at(stand_in, speech, hasty) as engine:
        chunks = engine.generate("r1", PromptTokens(ids=PROMPT))
        assert await anext(chunks) == EngineChunk([1])
        with pytest.raises(WorkerTimeout, match=r"0\.05 s"):
            await anext(chunks)
        assert await stand_in.cancelled() == "r1"
        assert await stand_in.heard("Abort") == speech.abort("r1")


async def a_stream_that_just_ends_is_an_error(stand_in: StandIn, speech: Speech) -> None:
    first, *_ = speech.stream([1])
    await stand_in.play(first, answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        with pytest.raises(EngineError):
            await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    assert "Abort" not in await stand_in.calls()


async def a_generation_the_worker_gave_up_is_an_error(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(*speech.stream([1], reason="abort"), answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        with pytest.raises(EngineError):
            await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    assert "Abort" not in await stand_in.calls()


async def a_stream_that_breaks_is_an_error(stand_in: StandIn, speech: Speech) -> None:
    first, *_ = speech.stream([1])
    await stand_in.play(first, {"status": "UNAVAILABLE"}, answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        chunks = engine.generate("r1", PromptTokens(ids=PROMPT))
        assert await anext(chunks) == EngineChunk([1])
        with pytest.raises(WorkerUnavailable):
            await anext(chunks)


async def a_message_may_be_larger_than_four_mebibytes(stand_in: StandIn, speech: Speech) -> None:
    times = 1_500_000  # Three bytes each.
    first, last = speech.stream([VOCABULARY - 1])
    await stand_in.play({**first, "repeat": times}, last, answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        chunk, _ = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
    assert len(chunk.ids) == 1 + times


async def what_would_kill_an_engine_is_not_sent(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        for ids, error in (
            ((), PromptRejected),
            ((1, VOCABULARY), PromptRejected),
            ((1, -1), PromptRejected),
            ((1,) * CONTEXT, ContextLengthExceeded),
        ):
            with pytest.raises(error):
                await everything(engine.generate("r1", PromptTokens(ids=ids)))
    assert await stand_in.calls() == ["GetModelInfo", "GetServerInfo"]


async def the_limit_never_passes_the_context(stand_in: StandIn, speech: Speech) -> None:
    async def sent(max_tokens: int | None) -> int:
        sampling = Sampling(max_tokens=max_tokens)
        await everything(engine.generate("r1", PromptTokens(ids=PROMPT, sampling=sampling)))
        value: object = await stand_in.heard("Generate")
        for key in speech.max_tokens_path:
            assert isinstance(value, dict)
            value = value[key]
        assert isinstance(value, int)
        return value

    await stand_in.play(*speech.stream([1]), answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        room = CONTEXT - len(PROMPT)
        assert [await sent(None), await sent(1), await sent(1000)] == [room, 1, room]


async def a_worker_says_what_it_is(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(answers=speech.answers())
    async with engine_at(stand_in, speech) as engine:
        info = await engine.info()
    assert (info.engine, info.model) == (speech.engine, "tiny")
    assert (info.context_length, info.vocab_size) == (CONTEXT, VOCABULARY)


async def its_engine_is_found_out(stand_in: StandIn, speech: Speech) -> None:
    await stand_in.play(*speech.stream([1]), answers=speech.answers())
    engine = connect(f"grpc://{stand_in.address}")
    try:
        chunks = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
        assert [chunk.ids for chunk in chunks] == [[1], ()]
        assert (await engine.info()).engine == speech.engine
    finally:
        await engine.close()


async def its_health_is_known(stand_in: StandIn, speech: Speech) -> None:
    async with engine_at(stand_in, speech) as engine:
        await stand_in.play(answers=speech.answers())
        await engine.check()
        await stand_in.play(answers={**speech.answers(), "HealthCheck": speech.sick})
        with pytest.raises(WorkerUnavailable, match="no heart"):
            await engine.check()


PROMISES: tuple[Callable[[StandIn, Speech], Awaitable[None]], ...] = (
    the_joined_chunks_are_the_output_once,
    a_token_counted_but_not_sent_is_in_the_usage,
    a_generation_may_have_no_tokens,
    the_limit_is_told_from_the_end,
    a_stop_token_is_named,
    the_prompt_arrives_and_is_streamed,
    a_complete_generation_is_neither_cancelled_nor_aborted,
    leaving_early_cancels_and_aborts,
    a_cancelled_reader_cancels_and_aborts,
    closing_the_engine_waits_for_its_aborts,
    the_first_token_has_a_deadline,
    the_next_token_has_a_deadline,
    a_stream_that_just_ends_is_an_error,
    a_generation_the_worker_gave_up_is_an_error,
    a_stream_that_breaks_is_an_error,
    a_message_may_be_larger_than_four_mebibytes,
    what_would_kill_an_engine_is_not_sent,
    the_limit_never_passes_the_context,
    a_worker_says_what_it_is,
    its_engine_is_found_out,
    its_health_is_known,
)
