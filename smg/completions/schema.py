"""The body of POST /v1/completions, as it comes over the wire. Used at the edge only.

Unknown fields are accepted; what is known and not supported is refused by intake.
"""

from typing import Annotated, Any

from pydantic import Field

from smg.web.schema import SamplingFields, Wire


class CompletionStreamOptions(Wire):
    """How a stream is dressed."""

    include_usage: bool | None = None


class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    model: str
    prompt: str | list[Any]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: dict[str, float] | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: CompletionStreamOptions | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    user: Any = None
