"""What request bodies of all endpoints share."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from smg.errors import InvalidRequest
from smg.turn import Sampling

Metadata = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]
Stop = str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Probability = Annotated[float, Field(ge=0, le=1)]
LARGEST = 2**31 - 1
"""What every engine's protocol can carry as a whole number."""


class Wire(BaseModel):
    """A request body: strict about types, lenient about unknown fields."""

    model_config = ConfigDict(strict=True, extra="allow")
    _routing_key: str | None = PrivateAttr(default=None)

    def routing_key_or(self, *others: Any) -> str | None:
        """What keeps requests together on a worker: the header's word, else the first text."""
        return next((key for key in (self._routing_key, *others) if key and type(key) is str), None)

    def set_routing_key(self, key: str | None) -> None:
        """Note what the request's header says."""
        self._routing_key = key


class SamplingFields(Wire):
    """Sampling that engines take beside OpenAI's fields, under the names they all use."""

    temperature: Temperature | None = None
    top_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    stop: Stop | None = None
    top_k: Annotated[int, Field(ge=-1, le=LARGEST)] | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0, le=LARGEST)]] | None = None
    ignore_eos: bool | None = None

    def sampling(self) -> Sampling:
        """What these fields ask for; what an endpoint has beside them is added by it."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            min_tokens=self.min_tokens,
            stop=stops(self.stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos is True,
            seed=self.seed,
        )


def stops(given: str | list[str] | None) -> tuple[str, ...]:
    """The stop strings of a request; an empty one, alone, is how some clients write none."""
    if isinstance(given, str):
        return (given,) if given else ()
    return tuple(given or ())


def token_bias(given: Mapping[str, float] | None) -> dict[int, float]:
    """The `logit_bias` of a request.

    Raises:
        InvalidRequest: a key is no token id, or a value not from -100 to 100.
    """
    bias: dict[int, float] = {}
    for token, value in (given or {}).items():
        if not token.isdecimal() or not -100 <= value <= 100:
            raise InvalidRequest(
                f"Invalid 'logit_bias': {token!r}: {value}; expected token ids and -100 to 100.",
                param="logit_bias",
                code="invalid_value",
            )
        bias[int(token)] = value
    return bias
