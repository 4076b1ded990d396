"""What no engine may be sent: prompts that some of them die of.

In go a prompt and what the worker said of itself, out comes how many tokens it may generate.
An empty prompt, an unknown token or a prompt as long as the context kills or freezes some
engines together with every other request they are working on; so none of them sees one.
"""

from smg.engines.base import EngineInfo, PromptTokens
from smg.errors import ContextLengthExceeded, PromptRejected
from smg.turn import Constraint, Grammar

UNGUIDED = frozenset({"mlx"})
"""Engines that cannot constrain their output at all."""
READS_LARK = frozenset({"vllm"})


def can_follow(info: EngineInfo, constraint: Constraint) -> bool:
    """Whether this kind of engine constrains its output like this. One not yet known may."""
    if info.engine in UNGUIDED:
        return False
    is_lark = isinstance(constraint, Grammar) and constraint.syntax == "lark"
    return not is_lark or not info.engine or info.engine in READS_LARK


def check_prompt(prompt: PromptTokens, info: EngineInfo) -> int | None:
    """The most tokens to generate, at least 1; `None` if nobody has set a limit.

    Raises:
        PromptRejected: the prompt is empty, or has ids the model does not know.
        ContextLengthExceeded: no room is left for even one token of output.
    """
    if not prompt.ids:
        raise PromptRejected("The prompt is empty")
    if info.vocab_size:
        _check_ids(prompt, info.vocab_size)
    return _room(len(prompt.ids), prompt.sampling.max_tokens, info.context_length)


def _check_ids(prompt: PromptTokens, vocab_size: int) -> None:
    lowest, highest = min(prompt.ids), max(prompt.ids)
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise PromptRejected(
            f"Token {wrong} is not in the model's vocabulary of {vocab_size} tokens"
        )
    for token in prompt.sampling.logit_bias:
        if not 0 <= token < vocab_size:
            raise PromptRejected(
                f"Token {token} is not in the model's vocabulary of {vocab_size} tokens",
                param="logit_bias",
            )


def _room(prompt_length: int, max_tokens: int | None, context_length: int) -> int | None:
    if max_tokens is not None and max_tokens < 1:
        raise PromptRejected("At least one token must be allowed", param="max_tokens")
    if not context_length:
        return max_tokens
    room = context_length - prompt_length
    if room < 1:
        raise ContextLengthExceeded(
            f"The model's context is {context_length} tokens, but the prompt alone has"
            f" {prompt_length}; at least one must be left for the output"
        )
    return room if max_tokens is None else min(max_tokens, room)
