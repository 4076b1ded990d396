"""One generation laid out before its first token: ids, how it ends, and its messages.

vLLM has two servicers whose messages count differently; `Servicer` says which one is played. Pure:
no waiting and no gRPC calls here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from typing import Any

from smg.engines._generated import vllm_engine_pb2 as pb
from smg.testing.vocabulary import Vocabulary


class Servicer(StrEnum):
    """Whose habits the engine has."""

    PYTHON = "python"
    """Chunks count their own ids; the last message repeats the last ids."""
    RUST = "rust"
    """Chunks count all ids so far; the last message holds all ids."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The ids of one answer and what ended it."""

    ids: Sequence[int]
    finish: str
    matched: int | str | None = None
    """The stop token or stop string; none for the model's own end token."""


def cut(ids: Sequence[int], sampling: Any, room: int, vocabulary: Vocabulary) -> Tokens:
    """The ids that are sampled: up to the first end token, stop or limit, which is included."""
    limit = min(sampling.max_tokens, room) if sampling.HasField("max_tokens") else room
    written = _written(ids, sampling, limit, vocabulary)
    ends = [(limit, 3, Tokens((), "length"))]
    for count, token in enumerate(written, 1):
        if token == vocabulary.eos and not sampling.ignore_eos:
            ends.append((count, 0, Tokens((), "stop")))
        elif token in sampling.stop_token_ids and count > sampling.min_tokens:
            ends.append((count, 1, Tokens((), "stop", token)))
    ends += [
        (count, 2, Tokens((), "stop", stop))
        for count, stop in _stops(written, sampling, vocabulary)
    ]
    # vLLM looks in this order at one token: end, stop token, stop string, limit.
    count, _, end = min(ends, key=lambda end: end[:2])
    return Tokens(tuple(written[:count]), end.finish, end.matched)


def _written(
    ids: Sequence[int], sampling: Any, limit: int, vocabulary: Vocabulary
) -> Sequence[int]:
    """The script's ids and the end token; repeated if the request wants more."""
    endless = cycle(ids or [vocabulary.eos])
    if sampling.ignore_eos:
        return list(islice(endless, limit))
    length = max(len(ids), sampling.min_tokens)
    return [*islice(endless, length), vocabulary.eos] if ids else [vocabulary.eos]


def _stops(ids: Sequence[int], sampling: Any, vocabulary: Vocabulary) -> list[tuple[int, str]]:
    found = []
    for stop in sampling.stop:
        later = ids[sampling.min_tokens :]
        skip = sampling.skip_special_tokens
        count = vocabulary.find_stop(later, stop, skip_special=skip)
        if count is not None:
            found.append((count + sampling.min_tokens, stop))
    return found


def logprobs(token: int, top: int, vocabulary_size: int) -> list[tuple[int, float]]:
    """Made-up log-probabilities: the sampled token, then the best of its rivals, `top` in all.

    The rivals of a token are the ids after it. Every eighth id was not the likeliest: its first
    rival was, so that nobody may take the order of this list for a ranking.
    """
    values = [-0.25 - 0.75 * rank for rank in range(max(top, 2))]
    rivals = [(token + step) % vocabulary_size for step in range(1, max(top, 2))]
    if token % 8 == 7:
        ranked = [
            (token, values[1]),
            (rivals[0], values[0]),
            *zip(rivals[1:], values[2:], strict=True),
        ]
    else:
        ranked = list(zip([token, *rivals], values, strict=True))
    return ranked[: max(top, 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One request's answer, ready to be sent in pieces."""

    tokens: Tokens
    prompt_tokens: int
    cached_tokens: int = 0
    top: int | None = None
    """How many log-probabilities a position gets; none if they are not asked for."""
    vocabulary_size: int = 0
    servicer: Servicer = Servicer.PYTHON
    choices: int = 1
    stream: bool = True

    def chunk(self, start: int, end: int, index: int) -> pb.GenerateResponse:
        """The message with the ids from `start` to `end`."""
        chunk = pb.GenerateStreamChunk(
            token_ids=self.tokens.ids[start:end],
            prompt_tokens=self.prompt_tokens,
            completion_tokens=end if self.servicer is Servicer.RUST else end - start,
            cached_tokens=self.cached_tokens,
            output_logprobs=self._logprobs(start, end),
            index=index,
        )
        return pb.GenerateResponse(chunk=chunk)

    def complete(self, start: int, index: int) -> pb.GenerateResponse:
        """The last message of a choice, whose last chunk began at `start`."""
        end = len(self.tokens.ids)
        message = self._complete(start, end, self.tokens.finish, index)
        match self.tokens.matched:
            case int() as token:
                message.matched_token_id = token
            case str() as stop:
                message.matched_stop_str = stop
        return pb.GenerateResponse(complete=message)

    def aborted(self, end: int, index: int) -> pb.GenerateResponse:
        """The last message of a choice that was stopped after `end` ids."""
        return pb.GenerateResponse(complete=self._complete(end, end, "abort", index))

    def _complete(self, start: int, end: int, finish: str, index: int) -> pb.GenerateComplete:
        first = start if self.stream and self.servicer is Servicer.PYTHON else 0
        return pb.GenerateComplete(
            output_ids=self.tokens.ids[first:end],
            finish_reason=finish,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=end - first,
            cached_tokens=self.cached_tokens,
            output_logprobs=self._logprobs(first, end),
            index=index,
        )

    def _logprobs(self, start: int, end: int) -> pb.OutputLogProbs | None:
        if self.top is None:
            return None
        ids = self.tokens.ids[start:end]
        lists = [logprobs(token, self.top, self.vocabulary_size) for token in ids]
        tops = [
            pb.TopLogProbs(
                token_ids=[token for token, _ in row], values=[value for _, value in row]
            )
            for row in lists
        ]
        return pb.OutputLogProbs(
            token_ids=ids,
            token_logprobs=[row[0][1] for row in lists],
            top_logprobs=tops if self.top else [],
        )
