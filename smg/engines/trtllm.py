"""TensorRT-LLM: prompts to its messages, and its stream to chunks.

Its names differ from the others', it must be told how much to generate, and it has no way to
say how busy it is. It must not know how bytes travel.
"""

from functools import partial
from typing import Final

from smg.engines._generated import trtllm_service_pb2 as pb
from smg.engines.base import EngineInfo, EngineLoad, Finish, PromptTokens, TokenLogprobs
from smg.engines.dialect import FINISHES, LOWEST_LOGPROB, StreamReader, best
from smg.engines.fields import constraint_text, or_default, said, seed_within
from smg.errors import EngineError, PromptRejected
from smg.turn import Constraint, Grammar, JsonSchema, Regex, Sampling, StructuralTag

# It may not say why it stopped; what it gave up, it calls by name.
TRTLLM_FINISHES: Final = {**FINISHES, "": Finish.STOP}
GUIDES: Final[dict[type[Constraint], pb.GuidedDecodingParams.GuideType]] = {
    JsonSchema: pb.GuidedDecodingParams.GUIDE_TYPE_JSON_SCHEMA,
    Regex: pb.GuidedDecodingParams.GUIDE_TYPE_REGEX,
    Grammar: pb.GuidedDecodingParams.GUIDE_TYPE_EBNF_GRAMMAR,
    StructuralTag: pb.GuidedDecodingParams.GUIDE_TYPE_STRUCTURAL_TAG,
}


class TrtllmDialect:
    """TensorRT-LLM's language."""

    name = "trtllm"
    service = "trtllm.TrtllmService"
    supports_stop = True
    load_method: str | None = None
    kv_method: str | None = "SubscribeKvEvents"

    def generate_request(
        self, request_id: str, prompt: PromptTokens, info: EngineInfo, max_tokens: int | None
    ) -> bytes:
        """A request to stream one generation."""
        if max_tokens is None:
            raise PromptRejected(
                "This model's engine does not say how long its context is:"
                " the request must say how many tokens to generate",
                param="max_tokens",
            )
        sampling = prompt.sampling
        request = pb.GenerateRequest(
            request_id=request_id,
            tokenized=pb.TokenizedInput(input_token_ids=prompt.ids),
            sampling_config=_sampling(sampling),
            output_config=pb.OutputConfig(
                logprobs=sampling.logprobs, exclude_input_from_output=True
            ),
            max_tokens=max_tokens,
            streaming=True,
            guided_decoding=_guide(prompt.constraint),
            embedding_bias=_bias(sampling, info.vocab_size),
            stop=sampling.stop,
            stop_token_ids=sampling.stop_token_ids,
            ignore_eos=sampling.ignore_eos,
            # As all others send it: what is text of it and what is not, the decoder knows.
            include_stop_token_in_output=True,
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
            finishes=TRTLLM_FINISHES,
            read_logprobs=None if count is None else partial(_logprobs, count=count),
        )

    def read_health(self, health: bytes) -> str | None:
        """Why the worker is not healthy."""
        status: str = pb.HealthCheckResponse.FromString(health).status
        return None if status.strip().lower() == "ok" else status or "not healthy"

    def read_info(self, model: bytes, server: bytes) -> EngineInfo:
        """What the worker serves."""
        answer = pb.GetModelInfoResponse.FromString(model)
        told = pb.GetServerInfoResponse.FromString(server)
        return EngineInfo(
            engine=self.name,
            model=answer.model_id,
            version=told.version,
            context_length=answer.max_seq_len,
            vocab_size=answer.vocab_size,
            details=said(
                {
                    "max_input_len": answer.max_input_len,
                    "tensor_parallel_size": told.tensor_parallel_size,
                    "pipeline_parallel_size": told.pipeline_parallel_size,
                }
            ),
        )

    def read_load(self, loads: bytes) -> EngineLoad:
        """Never asked for: there is no method."""
        del loads
        raise EngineError("TensorRT-LLM does not report its load")


def _sampling(sampling: Sampling) -> pb.SamplingConfig:
    return pb.SamplingConfig(
        beam_width=1,
        num_return_sequences=1,
        top_k=max(0, sampling.top_k or 0),
        top_p=or_default(sampling.top_p, 1.0),
        seed=seed_within(sampling.seed, 0, 2**64 - 1),
        temperature=or_default(sampling.temperature, 1.0),
        min_tokens=sampling.min_tokens,
        repetition_penalty=or_default(sampling.repetition_penalty, 1.0),
        presence_penalty=sampling.presence_penalty or 0.0,
        frequency_penalty=sampling.frequency_penalty or 0.0,
        min_p=sampling.min_p,
    )


def _guide(constraint: Constraint | None) -> pb.GuidedDecodingParams | None:
    if constraint is None:
        return None
    return pb.GuidedDecodingParams(
        guide_type=GUIDES[type(constraint)], guide=constraint_text(constraint)
    )


def _bias(sampling: Sampling, vocab_size: int) -> list[float]:
    """One value for each token of the vocabulary."""
    if not sampling.logit_bias:
        return []
    if not vocab_size:
        raise PromptRejected(
            "This model's engine does not say how large its vocabulary is, which a bias needs",
            param="logit_bias",
        )
    dense = [0.0] * vocab_size
    for token, bias in sampling.logit_bias.items():
        dense[token] = bias
    return dense


def _logprobs(chunk: pb.GenerateStreamChunk, count: int) -> list[TokenLogprobs]:
    return [
        TokenLogprobs(
            id=each.token_id,
            logprob=max(each.logprob, LOWEST_LOGPROB),
            top=best(((top.token_id, top.logprob) for top in each.top_logprobs), count),
        )
        for each in chunk.logprobs
    ]
