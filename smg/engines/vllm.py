"""vLLM: prompts to its messages, and its stream to chunks.

Its two servicers differ: the Python one counts a chunk's own tokens and repeats the last ids
at the end, the Rust one counts all so far and repeats all. It must not know how bytes travel.
"""

from dataclasses import replace
from functools import partial
from typing import Any, Final

from smg.engines._generated import vllm_engine_pb2 as pb
from smg.engines.base import EngineInfo, EngineLoad, Finish, PromptTokens, Relay
from smg.engines.dialect import FINISHES, StreamReader, output_logprobs
from smg.engines.fields import (
    default_sampling,
    or_default,
    ranks_load,
    said,
    seed_within,
    set_constraint,
)
from smg.turn import Constraint, Grammar, JsonSchema, Regex, Sampling, StructuralTag

# Ended because the model went round in circles: the output stands.
VLLM_FINISHES: Final = {**FINISHES, "repetition": Finish.STOP}
# A worker refuses more, unless it was started with a higher limit.
MOST_LOGPROBS: Final = 20
CONSTRAINTS: Final[dict[type[Constraint], str]] = {
    JsonSchema: "json_schema",
    Regex: "regex",
    Grammar: "grammar",
    StructuralTag: "structural_tag",
}


class VllmDialect:
    """vLLM's language."""

    name = "vllm"
    service = "vllm.grpc.engine.VllmEngine"
    supports_stop = True
    load_method: str | None = "GetLoads"
    kv_method: str | None = "SubscribeKvEvents"

    def generate_request(
        self, request_id: str, prompt: PromptTokens, info: EngineInfo, max_tokens: int | None
    ) -> bytes:
        """A request to stream one generation."""
        del info
        request = pb.GenerateRequest(
            request_id=request_id,
            tokenized=pb.TokenizedInput(input_ids=prompt.ids),
            sampling_params=_sampling(prompt.sampling, prompt.constraint, max_tokens),
            stream=prompt.streams,
            data_parallel_rank=prompt.rank,
        )
        if isinstance(prompt.transfer, Relay):
            request.kv_transfer_params_json = prompt.transfer.params
        return request.SerializeToString()

    def abort_request(self, request_id: str) -> bytes:
        """A request to forget a generation."""
        return pb.AbortRequest(request_ids=[request_id]).SerializeToString()

    def new_reader(self, prompt: PromptTokens) -> StreamReader:
        """What reads the stream that answers this prompt."""
        count = prompt.sampling.logprobs
        return StreamReader(
            pb.GenerateResponse,
            finishes=VLLM_FINISHES,
            read_logprobs=None if count is None else partial(output_logprobs, count=count),
        )

    def read_health(self, health: bytes) -> str | None:
        """Why the worker is not healthy."""
        answer = pb.HealthCheckResponse.FromString(health)
        return None if answer.healthy else answer.message or "not healthy"

    def read_info(self, model: bytes, server: bytes) -> EngineInfo:
        """What the worker serves."""
        answer = pb.GetModelInfoResponse.FromString(model)
        return EngineInfo(
            engine=self.name,
            model=answer.served_model_name or answer.model_path,
            context_length=answer.max_context_length,
            vocab_size=answer.vocab_size,
            eos_token_ids=tuple(answer.eos_token_ids),
            tokenizer_path=answer.tokenizer_path or answer.model_path,
            model_path=answer.model_path,
            model_type=answer.model_type,
            architectures=tuple(answer.architectures),
            supports_vision=answer.supports_vision,
            is_generation=answer.is_generation,
            default_sampling=default_sampling(answer.default_sampling_params_json),
            details=_details(pb.GetServerInfoResponse.FromString(server)),
        )

    def read_load(self, loads: bytes) -> EngineLoad:
        """How busy the worker is."""
        answer = pb.GetLoadsResponse.FromString(loads)
        return replace(ranks_load(answer.loads), version=answer.version)


def _sampling(
    sampling: Sampling, constraint: Constraint | None, max_tokens: int | None
) -> pb.SamplingParams:
    # Everything is said aloud: most fields cannot tell 0 from absent.
    params = pb.SamplingParams(
        temperature=or_default(sampling.temperature, 1.0),
        top_p=or_default(sampling.top_p, 1.0),
        top_k=max(0, sampling.top_k or 0),
        min_p=sampling.min_p or 0.0,
        frequency_penalty=sampling.frequency_penalty or 0.0,
        presence_penalty=sampling.presence_penalty or 0.0,
        repetition_penalty=or_default(sampling.repetition_penalty, 1.0),
        max_tokens=max_tokens,
        min_tokens=sampling.min_tokens or 0,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        skip_special_tokens=not sampling.keep_special_tokens,
        spaces_between_special_tokens=True,
        ignore_eos=sampling.ignore_eos,
        n=1,
        logprobs=_asked_logprobs(sampling.logprobs),
        seed=seed_within(sampling.seed, -(2**31), 2**31 - 1),
        include_stop_str_in_output=sampling.include_stop,
        logit_bias=sampling.logit_bias,
    )
    set_constraint(params, constraint, CONSTRAINTS)
    return params


def _asked_logprobs(count: int | None) -> int | None:
    """One more than wanted: the sampled token takes a place even if it is none of the best."""
    if count is None or count == 0 or count >= MOST_LOGPROBS:
        return count
    return count + 1


def _details(server: pb.GetServerInfoResponse) -> dict[str, Any]:
    return said(
        {
            "data_parallel_size": server.data_parallel_size,
            "kv_connector": server.kv_connector,
            "kv_role": server.kv_role,
            "kv_engine_id": server.kv_engine_id,
            "max_num_seqs": server.max_num_seqs,
            "block_size": server.block_size,
            "engine_reasoning_parser": server.engine_reasoning_parser,
            "constrained_decoding_start": server.constrained_decoding_start,
        }
    )
