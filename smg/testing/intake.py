"""A Generate request to a generation that is ready to be sent, or a refusal.

The guards are those of vLLM with its Python or its Rust servicer. Nothing here waits.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import count

import grpc

from smg.engines._generated import vllm_engine_pb2 as pb
from smg.testing.answer import Answer, decide
from smg.testing.chatml import Conversation, PromptUnreadable, read_prompt
from smg.testing.constraints import ConstraintInvalid, read_constraint
from smg.testing.directives import DirectiveInvalid
from smg.testing.generation import Generation, Servicer, cut
from smg.testing.instances import SchemaUnusable
from smg.testing.kv import KvCaches
from smg.testing.options import EngineOptions
from smg.testing.script import Script
from smg.testing.vocabulary import Vocabulary

UNDERSTOOD_BADLY = (PromptUnreadable, ConstraintInvalid, DirectiveInvalid, SchemaUnusable)
MAX_LOGPROBS = 20  # vLLM's default.


class Refusal(Exception):
    """Raised when a request is refused before its first token."""

    def __init__(
        self, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
    ) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request understood, and what will be said to it."""

    conversation: Conversation
    prompt_ids: Sequence[int]
    answer: Answer
    generation: Generation
    rank: int


class Intake:
    """Reads requests for one engine."""

    def __init__(
        self, script: Script, options: EngineOptions, vocabulary: Vocabulary, caches: KvCaches
    ) -> None:
        self._script = script
        self._options = options
        self._vocabulary = vocabulary
        self._caches = caches
        self._turns = count()

    def accept(self, request: pb.GenerateRequest, in_flight: Set[str]) -> Accepted:
        """Lay a generation out.

        Raises:
            Refusal: vLLM would refuse the request too, or only a model could answer it.
        """
        self._check_request(request, in_flight)
        ids = self._prompt_ids(request)
        self._check_prompt(ids)
        self._check_sampling(request.sampling_params)
        try:
            conversation = read_prompt(ids, self._vocabulary)
            demand = read_constraint(request.sampling_params, conversation)
            answer = decide(conversation, demand, self._script, self._options.max_context)
        except UNDERSTOOD_BADLY as error:
            raise Refusal(str(error)) from error
        rank = self._rank(request)
        cached = self._caches.meet(ids, rank)
        generation = self._generation(request, ids, answer, cached)
        return Accepted(conversation, ids, answer, generation, rank)

    def _check_request(self, request: pb.GenerateRequest, in_flight: Set[str]) -> None:
        rank, ranks = request.data_parallel_rank, self._options.ranks
        if not 0 <= rank < ranks:
            raise Refusal(f"data_parallel_rank {rank} is out of range [0, {ranks})")
        if self._options.servicer is Servicer.PYTHON:
            return
        if not request.request_id:
            raise Refusal("request_id is empty")
        if request.request_id in in_flight:
            code = grpc.StatusCode.ALREADY_EXISTS
            raise Refusal(f"request_id {request.request_id} is in flight", code)
        if request.WhichOneof("input") == "text":
            raise Refusal("This servicer takes token ids only")

    def _prompt_ids(self, request: pb.GenerateRequest) -> list[int]:
        match request.WhichOneof("input"):
            case "tokenized":
                return list(request.tokenized.input_ids)
            case "text":
                return self._vocabulary.encode_prompt(request.text)
        raise Refusal("The request has no input")

    def _check_prompt(self, ids: Sequence[int]) -> None:
        limit = self._options.max_context
        if not ids:
            raise Refusal("The prompt is empty")
        if max(ids) >= self._vocabulary.size:
            raise Refusal(f"Token id {max(ids)} is out of vocabulary ({self._vocabulary.size})")
        if len(ids) >= limit:
            raise Refusal(
                f"The prompt has {len(ids)} tokens; the context of {limit} leaves no room to answer"
            )

    def _check_sampling(self, sampling: pb.SamplingParams) -> None:
        if sampling.HasField("max_tokens") and sampling.max_tokens < 1:
            raise Refusal("max_tokens must be at least 1, got 0")
        if sampling.HasField("max_tokens") and sampling.min_tokens > sampling.max_tokens:
            raise Refusal("min_tokens must be at most max_tokens")
        if sampling.temperature < 0:
            raise Refusal(f"temperature must not be negative, got {sampling.temperature}")
        if not 0 <= sampling.logprobs <= MAX_LOGPROBS:
            raise Refusal(f"logprobs must be from 0 to {MAX_LOGPROBS}, got {sampling.logprobs}")
        if sampling.HasField("prompt_logprobs"):
            raise Refusal("The scripted engine has no prompt_logprobs")

    def _rank(self, request: pb.GenerateRequest) -> int:
        """The rank that is asked for, or each in turn."""
        if request.HasField("data_parallel_rank"):
            return request.data_parallel_rank
        return next(self._turns) % self._options.ranks

    def _generation(
        self, request: pb.GenerateRequest, ids: Sequence[int], answer: Answer, cached: int
    ) -> Generation:
        sampling = request.sampling_params
        room = self._options.max_context - len(ids)
        written = self._vocabulary.encode(answer.text)
        return Generation(
            tokens=cut(written, sampling, room, self._vocabulary),
            prompt_tokens=len(ids),
            cached_tokens=cached,
            top=sampling.logprobs if sampling.HasField("logprobs") else None,
            vocabulary_size=self._vocabulary.size,
            servicer=self._options.servicer,
            choices=sampling.n or 1,
            stream=request.stream,
        )
