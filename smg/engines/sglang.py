"""SGLang: prompts to its messages, and its stream to chunks.

Its scalars have no absence: what is not said is 0, and a temperature of 0 is greedy. It must
not know how bytes travel.
"""

from functools import partial
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from smg.engines._generated import sglang_scheduler_pb2 as pb
from smg.engines.base import Bootstrap, EngineInfo, EngineLoad, PromptTokens
from smg.engines.dialect import StreamReader, output_logprobs
from smg.engines.fields import default_sampling, or_default, ranks_load, said, set_constraint
from smg.errors import PromptRejected
from smg.turn import Constraint, Grammar, JsonSchema, Regex, Sampling, StructuralTag

CONSTRAINTS: Final[dict[type[Constraint], str]] = {
    JsonSchema: "json_schema",
    Regex: "regex",
    Grammar: "ebnf_grammar",
    StructuralTag: "structural_tag",
}


class SglangDialect:
    """SGLang's language."""

    name = "sglang"
    service = "sglang.grpc.scheduler.SglangScheduler"
    supports_stop = False  # It refuses stop strings when it runs without a tokenizer.
    load_method: str | None = "GetLoads"
    kv_method: str | None = "SubscribeKvEvents"

    def generate_request(
        self, request_id: str, prompt: PromptTokens, info: EngineInfo, max_tokens: int | None
    ) -> bytes:
        """A request to stream one generation."""
        del info
        count = prompt.sampling.logprobs
        request = pb.GenerateRequest(
            request_id=request_id,
            tokenized=pb.TokenizedInput(input_ids=prompt.ids),
            sampling_params=_sampling(prompt.sampling, prompt.constraint, max_tokens),
            return_logprob=count is not None,
            logprob_start_len=-1,
            top_logprobs_num=count or 0,
            stream=True,
            data_parallel_rank=prompt.rank,
        )
        if isinstance(prompt.transfer, Bootstrap):
            request.disaggregated_params.CopyFrom(
                pb.DisaggregatedParams(
                    bootstrap_host=prompt.transfer.host,
                    bootstrap_port=prompt.transfer.port,
                    bootstrap_room=prompt.transfer.room,
                )
            )
        return request.SerializeToString()

    def abort_request(self, request_id: str) -> bytes:
        """A request to forget a generation."""
        return pb.AbortRequest(request_id=request_id).SerializeToString()

    def new_reader(self, prompt: PromptTokens) -> StreamReader:
        """What reads the stream that answers this prompt."""
        count = prompt.sampling.logprobs
        return StreamReader(
            pb.GenerateResponse,
            read_logprobs=None if count is None else partial(output_logprobs, count=count),
        )

    def read_health(self, health: bytes) -> str | None:
        """Why the worker is not healthy."""
        answer = pb.HealthCheckResponse.FromString(health)
        return None if answer.healthy else answer.message or "not healthy"

    def read_info(self, model: bytes, server: bytes) -> EngineInfo:
        """What the worker serves."""
        answer = pb.GetModelInfoResponse.FromString(model)
        told = pb.GetServerInfoResponse.FromString(server)
        arguments = MessageToDict(told.server_args)
        return EngineInfo(
            engine=self.name,
            model=answer.served_model_name or answer.model_path,
            version=told.sglang_version,
            # What the model's answer calls context is the capacity of the KV cache.
            context_length=int(arguments.get("context_length") or answer.max_context_length),
            vocab_size=answer.vocab_size,
            eos_token_ids=tuple(answer.eos_token_ids),
            tokenizer_path=answer.tokenizer_path or answer.model_path,
            model_path=answer.model_path,
            model_type=answer.model_type,
            architectures=tuple(answer.architectures),
            supports_vision=answer.supports_vision,
            is_generation=answer.is_generation,
            default_sampling=default_sampling(answer.default_sampling_params_json),
            details=_details(arguments, told),
        )

    def read_load(self, loads: bytes) -> EngineLoad:
        """How busy the worker is."""
        return ranks_load(pb.GetLoadsResponse.FromString(loads).loads)


def _sampling(
    sampling: Sampling, constraint: Constraint | None, max_tokens: int | None
) -> pb.SamplingParams:
    if sampling.seed is not None:
        raise PromptRejected("This model's engine, SGLang, takes no seed", param="seed")
    params = pb.SamplingParams(
        temperature=or_default(sampling.temperature, 1.0),
        top_p=or_default(sampling.top_p, 1.0),
        top_k=sampling.top_k or -1,
        min_p=sampling.min_p or 0.0,
        frequency_penalty=sampling.frequency_penalty or 0.0,
        presence_penalty=sampling.presence_penalty or 0.0,
        repetition_penalty=or_default(sampling.repetition_penalty, 1.0),
        max_new_tokens=max_tokens,
        min_new_tokens=sampling.min_tokens or 0,
        stop_token_ids=sampling.stop_token_ids,
        skip_special_tokens=not sampling.keep_special_tokens,
        spaces_between_special_tokens=True,
        ignore_eos=sampling.ignore_eos,
        n=1,
        no_stop_trim=True,
        logit_bias={str(token): bias for token, bias in sampling.logit_bias.items()},
    )
    set_constraint(params, constraint, CONSTRAINTS)
    return params


def _details(arguments: dict[str, Any], told: pb.GetServerInfoResponse) -> dict[str, Any]:
    return said(
        {
            "data_parallel_size": int(arguments.get("dp_size") or 0),
            "disaggregation_mode": arguments.get("disaggregation_mode"),
            "max_running_requests": int(arguments.get("max_running_requests") or 0),
            "max_total_num_tokens": told.max_total_num_tokens,
            "block_size": int(arguments.get("page_size") or 0),
        }
    )
