"""What a scripted engine says of itself: model, server, load and the tokenizer's files.

Values in, messages out.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from smg import __version__
from smg.engines._generated import common_pb2
from smg.engines._generated import vllm_engine_pb2 as pb
from smg.testing.generation import Generation, Servicer
from smg.testing.options import EngineOptions
from smg.testing.vocabulary import Vocabulary

TOKENIZER_SLICE = 64 * 1024
CACHE_TOKENS = 1 << 20  # What the engine claims to have room for.


def model_info(vocabulary: Vocabulary, options: EngineOptions) -> pb.GetModelInfoResponse:
    """What the model folder says; only the Rust servicer reads the generation config's ends."""
    path = options.told_path or str(vocabulary.path)
    others = sorted(vocabulary.other_eos) if options.servicer is Servicer.RUST else []
    return pb.GetModelInfoResponse(
        model_path=path,
        is_generation=True,
        max_context_length=options.max_context,
        vocab_size=vocabulary.size,
        served_model_name=options.model_name,
        tokenizer_path=path,
        model_type=vocabulary.config["model_type"],
        architectures=vocabulary.config["architectures"],
        eos_token_ids=[vocabulary.eos, *others],
        pad_token_id=vocabulary.config["pad_token_id"],
        max_req_input_len=options.max_context,
        default_sampling_params_json=json.dumps(vocabulary.default_sampling()),
    )


def server_info(options: EngineOptions, uptime: float) -> pb.GetServerInfoResponse:
    """What each servicer fills in."""
    message = pb.GetServerInfoResponse(
        data_parallel_size=options.ranks, block_size=options.block_size
    )
    if options.servicer is Servicer.RUST:
        message.uptime_seconds = uptime
        message.server_type = "vllm-grpc"
    return message


def loads(ranks: Sequence[Sequence[Generation]]) -> pb.GetLoadsResponse:
    """How much each rank is sending."""
    return pb.GetLoadsResponse(
        timestamp=datetime.now(UTC).isoformat(),
        version=f"scripted-{__version__}",
        dp_rank_count=len(ranks),
        loads=[_load(rank, running) for rank, running in enumerate(ranks)],
    )


def _load(rank: int, running: Sequence[Generation]) -> pb.SchedulerLoad:
    used = sum(generation.prompt_tokens for generation in running)
    return pb.SchedulerLoad(
        dp_rank=rank,
        num_running_reqs=len(running),
        num_total_reqs=len(running),
        num_used_tokens=used,
        max_total_num_tokens=CACHE_TOKENS,
        token_usage=min(1.0, used / CACHE_TOKENS),
    )


def engine_load(running: Sequence[Generation]) -> common_pb2.EngineLoad:
    """The same of one rank, as it goes out with events."""
    load = _load(0, running)
    return common_pb2.EngineLoad(
        running_requests=load.num_running_reqs, token_usage=load.token_usage
    )


def tokenizer_files(vocabulary: Vocabulary) -> Iterator[common_pb2.GetTokenizerChunk]:
    """The model folder as a ZIP archive, in slices; the last has the checksum."""
    archive = _archive(vocabulary)
    digest = hashlib.sha256(archive).hexdigest()
    for start in range(0, len(archive), TOKENIZER_SLICE):
        end = start + TOKENIZER_SLICE
        yield common_pb2.GetTokenizerChunk(
            data=archive[start:end], sha256=digest if end >= len(archive) else ""
        )


def _archive(vocabulary: Vocabulary) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        for path in sorted(vocabulary.path.iterdir()):
            files.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive.getvalue()
