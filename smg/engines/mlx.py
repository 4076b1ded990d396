"""MLX: prompts to its messages, and its stream to chunks.

It has no stop strings and no constraints, and trusts whoever asks: an empty prompt freezes it,
an unknown token kills it. It must not know how bytes travel.
"""

from functools import partial

from smg.engines._generated import mlx_engine_pb2 as pb
from smg.engines.base import EngineInfo, EngineLoad, PromptTokens
from smg.engines.dialect import StreamReader, output_logprobs
from smg.engines.fields import or_default, seed_within
from smg.errors import PromptRejected
from smg.turn import Sampling


class MlxDialect:
    """MLX's language."""

    name = "mlx"
    service = "mlx.grpc.engine.MlxEngine"
    supports_stop = False
    load_method: str | None = "GetServerInfo"
    kv_method: str | None = None

    def generate_request(
        self, request_id: str, prompt: PromptTokens, info: EngineInfo, max_tokens: int | None
    ) -> bytes:
        """A request to stream one generation."""
        del info
        if prompt.constraint is not None:
            raise PromptRejected(
                "This model's engine, MLX, cannot constrain its output"
                " (a JSON schema, a grammar, a call that must be made)"
            )
        request = pb.GenerateRequest(
            request_id=request_id,
            tokenized=pb.TokenizedInput(input_ids=prompt.ids),
            sampling_params=_sampling(prompt.sampling, max_tokens),
            stream=True,
        )
        return request.SerializeToString()

    def abort_request(self, request_id: str) -> bytes:
        """A request to forget a generation."""
        return pb.AbortRequest(request_ids=[request_id]).SerializeToString()

    def new_reader(self, prompt: PromptTokens) -> StreamReader:
        """What reads the stream that answers this prompt."""
        count = prompt.sampling.logprobs
        return StreamReader(
            pb.GenerateResponse,
            read_logprobs=None if count is None else partial(output_logprobs, count=count),
            matched=_matched,
        )

    def read_health(self, health: bytes) -> str | None:
        """Why the worker is not healthy."""
        answer = pb.HealthCheckResponse.FromString(health)
        return None if answer.healthy else answer.message or "not healthy"

    def read_info(self, model: bytes, server: bytes) -> EngineInfo:
        """What the worker serves."""
        del server
        answer = pb.GetModelInfoResponse.FromString(model)
        return EngineInfo(
            engine=self.name,
            model=answer.served_model_name or answer.model_path,
            context_length=answer.max_context_length,
            vocab_size=answer.vocab_size,
            eos_token_ids=tuple(answer.eos_token_ids),
            tokenizer_path=answer.model_path,
            model_path=answer.model_path,
            model_type=answer.model_type,
            architectures=tuple(answer.architectures),
            is_generation=answer.is_generation,
        )

    def read_load(self, loads: bytes) -> EngineLoad:
        """How busy the worker is."""
        return EngineLoad(running=pb.GetServerInfoResponse.FromString(loads).active_requests)


def _sampling(sampling: Sampling, max_tokens: int | None) -> pb.SamplingParams:
    if sampling.min_tokens:
        raise PromptRejected(
            "This model's engine, MLX, has no least number of tokens", param="min_tokens"
        )
    return pb.SamplingParams(
        temperature=or_default(sampling.temperature, 1.0),
        top_p=or_default(sampling.top_p, 1.0),
        top_k=max(0, sampling.top_k or 0),
        min_p=sampling.min_p or 0.0,
        repetition_penalty=or_default(sampling.repetition_penalty, 1.0),
        frequency_penalty=sampling.frequency_penalty or 0.0,
        presence_penalty=sampling.presence_penalty or 0.0,
        logit_bias=sampling.logit_bias,
        max_tokens=max_tokens,
        stop_token_ids=sampling.stop_token_ids,
        ignore_eos=sampling.ignore_eos,
        # 0 would be none, not even the sampled token's.
        logprobs=None if sampling.logprobs is None else max(1, sampling.logprobs),
        seed=seed_within(sampling.seed, -(2**31), 2**31 - 1),
    )


def _matched(complete: pb.GenerateComplete) -> int | None:
    token: int = complete.matched_stop_token_id
    return token if complete.HasField("matched_stop_token_id") else None
