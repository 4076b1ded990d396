"""Many made-up engines on real ports, in one process: vLLM's gRPC protocol, as it is published.

    python -m benchmarks.stand_ins --ports 50051 50052 ... --ids FILE --report FILE

Each takes the time that `engine_model.py` says and no CPU for it. All give one answer, as long as
asked; what they found in their caches they tell truthfully, in each message and, of all of a run,
in the report that is written when the process is told to stop. With `--kv-events` they also say
how their caches change and, on the same stream, how busy they are, as vLLM's servicer does. The
messages are those of `smg-grpc-proto`: nothing here is ours, so a gateway that misreads the
protocol would be seen (and protobuf takes a name only once per process: our own stubs may not be
imported).
"""

import argparse
import asyncio
import json
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import common_pb2 as common

from benchmarks.engine_model import ModelEngine, Pace
from benchmarks.kv_blocks import BLOCK, Change

SERVICE = "vllm.grpc.engine.VllmEngine"
MODEL_NAME = "made-up"
MAX_CONTEXT = 32_768
MOST_RUNNING = 256
LOAD_EVERY_S = 0.1
"""While it changes and nothing else is to be told."""
SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    # As vLLM: clients may ping as often as they like, also without calls.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
]

Context = grpc.aio.ServicerContext[Any, Any]


class KvNews:
    """What is told to those who subscribed to one engine's cache."""

    def __init__(self) -> None:
        self._readers: list[asyncio.Queue[Any]] = []
        self._said = 0
        self._events = 0

    def tell(self, change: Change, text: Sequence[int]) -> None:
        """Say how the cache has changed."""
        events = [*self._removed(change), *self._stored(change, text)]
        if not events:
            return
        self._said += 1
        batch = common.KvEventBatch(
            sequence_number=self._said, timestamp=time.time(), events=events, dp_rank=0
        )
        for reader in self._readers:
            reader.put_nowait(batch)

    async def listen(
        self, new_load: Callable[[], Any], *, early: bool
    ) -> AsyncGenerator[Any, None]:
        """Everything from now on, and the load in between; `early`: before the first change too."""
        reader: asyncio.Queue[Any] = asyncio.Queue()
        self._readers.append(reader)
        last = None
        try:
            while True:
                try:
                    async with asyncio.timeout(LOAD_EVERY_S):
                        batch = await reader.get()
                except TimeoutError:
                    load = new_load()
                    if load != last and (early or self._said):
                        yield self._load_only(load)
                    last = load
                else:
                    yield batch
        finally:
            self._readers.remove(reader)

    def _load_only(self, load: Any) -> Any:
        return common.KvEventBatch(
            sequence_number=self._said, timestamp=time.time(), load=load, dp_rank=0
        )

    def _removed(self, change: Change) -> list[Any]:
        if not change.removed:
            return []
        return [self._event(removed=common.KvBlocksRemoved(block_hashes=change.removed))]

    def _stored(self, change: Change, text: Sequence[int]) -> list[Any]:
        new = change.chain[change.first_new :]
        if not new:
            return []
        blocks = [
            common.KvBlock(
                block_hash=name, token_ids=text[at * BLOCK : (at + 1) * BLOCK], block_size=BLOCK
            )
            for at, name in enumerate(new, change.first_new)
        ]
        parent = change.chain[change.first_new - 1] if change.first_new else None
        stored = common.KvBlocksStored(blocks=blocks, parent_block_hash=parent)
        return [self._event(stored=stored)]

    def _event(self, **what: Any) -> Any:
        self._events += 1
        return common.KvCacheEvent(event_id=self._events, **what)


class StandIn:
    """One engine's RPCs."""

    def __init__(self, pace: Pace, answer: Sequence[int], model: Path, *, tells: bool) -> None:
        self.news = KvNews() if tells else None
        self.engine = ModelEngine(pace, self.news.tell) if self.news else ModelEngine(pace)
        self._answer = answer
        self._model = model
        self._config = json.loads((model / "config.json").read_text())

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs to serve it."""
        unary: Any = grpc.unary_unary_rpc_method_handler
        stream: Any = grpc.unary_stream_rpc_method_handler
        rpcs: dict[str, tuple[Any, Callable[..., Any], Any]] = {
            "Generate": (stream, self.generate, pb.GenerateRequest),
            "HealthCheck": (unary, self.health_check, pb.HealthCheckRequest),
            "Abort": (unary, self.abort, pb.AbortRequest),
            "GetModelInfo": (unary, self.model_info, pb.GetModelInfoRequest),
            "GetServerInfo": (unary, self.server_info, pb.GetServerInfoRequest),
            "GetLoads": (unary, self.loads, pb.GetLoadsRequest),
        }
        if self.news is not None:
            rpcs["SubscribeKvEvents"] = (stream, self.events, common.SubscribeKvEventsRequest)
        handlers = {
            name: kind(rpc, request_deserializer=message.FromString, response_serializer=_bytes)
            for name, (kind, rpc, message) in rpcs.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def generate(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Answer one prompt, as vLLM's Python servicer counts."""
        ids = list(request.tokenized.input_ids)
        answer = self._answer[: request.sampling_params.max_tokens or len(self._answer)]
        if not ids or not self.engine.can_hold(ids, answer):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "No cache can hold this")
        piece: Sequence[int] = ()
        found = 0
        async with aclosing(self.engine.generate(ids, answer)) as pieces:
            async for piece, found in pieces:
                yield pb.GenerateResponse(
                    chunk=pb.GenerateStreamChunk(
                        token_ids=piece,
                        prompt_tokens=len(ids),
                        completion_tokens=len(piece),
                        cached_tokens=found,
                    )
                )
        yield pb.GenerateResponse(
            complete=pb.GenerateComplete(
                output_ids=piece,
                finish_reason="length",
                prompt_tokens=len(ids),
                completion_tokens=len(piece),
                cached_tokens=found,
            )
        )

    async def events(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """How the cache changes from now on; what it held before is not told again."""
        assert self.news is not None
        if request.start_sequence_number:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "Nothing is repeated: begin at 0")
        await context.send_initial_metadata(())
        early = request.load_records_before_first_batch
        async with aclosing(self.news.listen(self._load, early=early)) as batches:
            async for batch in batches:
                yield batch

    def _load(self) -> Any:
        engine = self.engine
        return common.EngineLoad(
            running_requests=engine.running,
            waiting_requests=engine.waiting,
            waiting_uncached_tokens=engine.unread,
            token_usage=engine.cache.used,
            max_running_requests=MOST_RUNNING,
            load_only=True,
            num_used_tokens=self._used_tokens(),
            max_total_num_tokens=engine.cache.capacity * BLOCK,
        )

    def _used_tokens(self) -> int:
        return round(self.engine.cache.used * self.engine.cache.capacity) * BLOCK

    async def health_check(self, _request: Any, _: Context) -> Any:
        """It is always well."""
        return pb.HealthCheckResponse(healthy=True, message="Made up, no model")

    async def abort(self, _request: Any, _: Context) -> Any:
        """A client that goes away cancels its call, too: that is enough."""
        return pb.AbortResponse()

    async def model_info(self, _request: Any, _: Context) -> Any:
        """What the model folder says."""
        return pb.GetModelInfoResponse(
            model_path=str(self._model),
            tokenizer_path=str(self._model),
            served_model_name=MODEL_NAME,
            is_generation=True,
            max_context_length=MAX_CONTEXT,
            max_req_input_len=MAX_CONTEXT,
            vocab_size=self._config["vocab_size"],
            model_type=self._config["model_type"],
            architectures=self._config["architectures"],
            eos_token_ids=[self._config["eos_token_id"]],
        )

    async def server_info(self, _request: Any, _: Context) -> Any:
        """What vLLM's Python servicer fills in."""
        return pb.GetServerInfoResponse(
            data_parallel_size=1, block_size=BLOCK, max_num_seqs=MOST_RUNNING
        )

    async def loads(self, _request: Any, _: Context) -> Any:
        """How busy it is."""
        engine = self.engine
        load = pb.SchedulerLoad(
            num_running_reqs=engine.running,
            num_waiting_reqs=engine.waiting,
            num_total_reqs=engine.running + engine.waiting,
            num_used_tokens=self._used_tokens(),
            max_total_num_tokens=engine.cache.capacity * BLOCK,
            token_usage=engine.cache.used,
            max_running_requests=MOST_RUNNING,
            num_waiting_uncached_tokens=engine.unread,
        )
        return pb.GetLoadsResponse(version="made-up", dp_rank_count=1, loads=[load])


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


async def serve(stand_ins: Sequence[StandIn], ports: Sequence[int]) -> None:
    """Serve until the process is told to stop."""
    servers = []
    for stand_in, port in zip(stand_ins, ports, strict=True):
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((stand_in.handler(),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        servers.append(server)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
    await asyncio.gather(*(server.stop(grace=None) for server in servers))


def report(stand_ins: Sequence[StandIn]) -> str:
    """What each did, as JSON."""
    lines = [
        {**asdict(each.engine.counts), "evicted_blocks": each.engine.cache.evicted}
        for each in stand_ins
    ]
    return json.dumps(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Made-up engines that speak vLLM's gRPC")
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    parser.add_argument("--ids", type=Path, required=True, help="the answer's token ids, in a file")
    parser.add_argument("--model", type=Path, required=True, help="folder of tokenizer and config")
    parser.add_argument("--report", type=Path, required=True, help="where to write what was done")
    parser.add_argument("--slower", type=float, default=1.0, help="times the usual seconds")
    parser.add_argument("--kv-tokens", type=int, default=Pace().kv_tokens)
    parser.add_argument("--kv-events", action="store_true", help="tell how caches change")
    options = parser.parse_args()
    pace = Pace(kv_tokens=options.kv_tokens).slower(options.slower)
    answer = [int(word) for word in options.ids.read_text().split()]
    stand_ins = [
        StandIn(pace, answer, options.model, tells=options.kv_events) for _ in options.ports
    ]
    # grpc.aio works on any loop; uvloop's is the cheapest.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(stand_ins, options.ports))
    options.report.write_text(report(stand_ins))


if __name__ == "__main__":
    main()
