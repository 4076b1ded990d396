"""How each engine's stream looks on the wire, told in the JSON of its published messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

CONTEXT = 16
VOCABULARY = 2_000_000
PROMPT = (5, 6, 7)


@dataclass(frozen=True, kw_only=True)
class Speech:
    """One servicer of one engine: what differs between the streams."""

    name: str
    engine: str
    module: str
    """Its stub module in smg-grpc-proto."""
    counts: Literal["delta", "total"]
    """What a chunk's completion_tokens counts."""
    repeats: Literal["last", "all", "nothing"]
    """The ids that the last message repeats."""
    model: Mapping[str, Any]
    """GetModelInfo's answer, in which the context is CONTEXT and the vocabulary VOCABULARY."""
    server: Mapping[str, Any] = field(default_factory=dict)
    """GetServerInfo's answer."""
    repeated_field: str = "output_ids"
    healthy: Mapping[str, Any] = field(default_factory=lambda: {"healthy": True})
    sick: Mapping[str, Any] = field(default_factory=lambda: {"message": "no heart"})
    aborts_list: bool = False
    max_tokens_path: tuple[str, ...]
    """Where a request has its limit."""
    matched_token: str = "matched_token_id"

    def answers(self) -> dict[str, Any]:
        return {
            "GetModelInfo": self.model,
            "GetServerInfo": self.server,
            "HealthCheck": self.healthy,
        }

    def abort(self, request_id: str) -> dict[str, Any]:
        return {"request_ids": [request_id]} if self.aborts_list else {"request_id": request_id}

    def stream(self, *pieces: Sequence[int], reason: str = "stop", extra: int = 0) -> list[Any]:
        """Chunks of these pieces and the last message; `extra` counts tokens that were not sent."""
        ids: list[int] = []
        steps = []
        for piece in pieces:
            ids += piece
            counted = len(piece) if self.counts == "delta" else len(ids)
            steps.append({"chunk": {"token_ids": list(piece), **self._usage(counted)}})
        return [*steps, self.complete(ids, pieces[-1] if pieces else [], reason, extra)]

    def complete(
        self, ids: Sequence[int], last: Sequence[int], reason: str, extra: int = 0
    ) -> dict[str, Any]:
        repeated = {"last": last, "all": ids, "nothing": []}[self.repeats]
        counted = (len(last) if self.counts == "delta" else len(ids)) + extra
        return {
            "complete": {
                self.repeated_field: list(repeated),
                "finish_reason": reason,
                **self._usage(counted),
            }
        }

    def _usage(self, counted: int) -> dict[str, int]:
        return {"prompt_tokens": len(PROMPT), "completion_tokens": counted, "cached_tokens": 1}


VLLM_MODEL = {
    "model_path": "/models/tiny",
    "is_generation": True,
    "max_context_length": CONTEXT,
    "vocab_size": VOCABULARY,
    "served_model_name": "tiny",
    "tokenizer_path": "/models/tiny",
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "eos_token_ids": [2],
    "default_sampling_params_json": '{"temperature": 0.6}',
}
VLLM = Speech(
    name="vllm-python",
    engine="vllm",
    module="vllm_engine_pb2",
    counts="delta",
    repeats="last",
    model=VLLM_MODEL,
    server={"data_parallel_size": 1},
    aborts_list=True,
    max_tokens_path=("sampling_params", "max_tokens"),
)
VLLM_RUST = Speech(
    name="vllm-rust",
    engine="vllm",
    module="vllm_engine_pb2",
    counts="total",
    repeats="all",
    model=VLLM_MODEL,
    aborts_list=True,
    max_tokens_path=("sampling_params", "max_tokens"),
)
SGLANG = Speech(
    name="sglang",
    engine="sglang",
    module="sglang_scheduler_pb2",
    counts="total",
    repeats="last",
    model={**VLLM_MODEL, "max_context_length": 1_000_000},
    server={"server_args": {"context_length": CONTEXT}},
    max_tokens_path=("sampling_params", "max_new_tokens"),
)
TRTLLM = Speech(
    name="trtllm",
    engine="trtllm",
    module="trtllm_service_pb2",
    counts="total",
    repeats="all",
    repeated_field="output_token_ids",
    model={"model_id": "tiny", "max_seq_len": CONTEXT, "vocab_size": VOCABULARY},
    healthy={"status": "OK"},
    sick={"status": "no heart"},
    max_tokens_path=("max_tokens",),
)
MLX = Speech(
    name="mlx",
    engine="mlx",
    module="mlx_engine_pb2",
    counts="total",
    repeats="nothing",
    model={
        "model_path": "tiny",
        "served_model_name": "tiny",
        "is_generation": True,
        "max_context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "eos_token_ids": [2],
    },
    aborts_list=True,
    max_tokens_path=("sampling_params", "max_tokens"),
    matched_token="matched_stop_token_id",
)
TOKENSPEED = Speech(
    name="tokenspeed",
    engine="tokenspeed",
    module="tokenspeed_scheduler_pb2",
    counts="total",
    repeats="last",
    model={name: value for name, value in VLLM_MODEL.items() if name != "is_generation"},
    max_tokens_path=("sampling_params", "max_new_tokens"),
)
SPEECHES = (VLLM, VLLM_RUST, SGLANG, TRTLLM, MLX, TOKENSPEED)
