"""What encoding the next prompt of a conversation costs, with the cache and without.

    python -m benchmarks.tokenizer_cache [--model FOLDER]

First a chain of 200 turns, then an agent loop of 20 steps whose first prompt has 10,000 tokens:
rules, a tool, a question. The prompts are those of the model's chat template (the shipped one has
Qwen3's shape); the time is that of encoding alone, the best of five rounds that each begin with an
empty cache. Each prompt is checked to be the same both ways.
"""

import argparse
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import smg.testing
from smg.tokens.cache import CACHE_BYTES, EncodeCache
from smg.tokens.source import locate
from smg.tokens.template import ChatMessage, ChatTemplate
from smg.tokens.tokenizer import Tokenizer

MODEL = Path(smg.testing.__file__).parent / "model"
SENTENCE = "The tool said that it rains in Oslo, so take a coat, and 你好 to all; {n} + {n}. "
PREFIX_TOKENS = 10_000
STEPS = 20
ROUNDS = 5
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather", "parameters": PARAMETERS},
}


def text(number: int, sentences: int) -> str:
    return "".join(SENTENCE.format(n=number * 1000 + n) for n in range(sentences))


def said(role: str, number: int, sentences: int) -> ChatMessage:
    return {"role": role, "content": text(number, sentences)}


def chain(turns: int, template: ChatTemplate) -> Iterator[str]:
    """The prompt of each turn: a question of two sentences, an answer of eight."""
    messages = [said("system", 0, 10)]
    for turn in range(turns):
        messages.append(said("user", turn, 2))
        yield template.render(messages)
        messages.append(said("assistant", turn, 8))


def agent(steps: int, rules: ChatMessage, template: ChatTemplate) -> Iterator[str]:
    """The prompt of each step: a long beginning, then calls and their results."""
    messages = [rules, said("user", 0, 2)]
    for step in range(steps):
        yield template.render(messages, [TOOL])
        function = {"name": "weather", "arguments": json.dumps({"city": f"Oslo {step}"})}
        call = {"id": f"call_{step}", "type": "function", "function": function}
        messages.append({**said("assistant", step, 1), "tool_calls": [call]})
        messages.append({**said("tool", step, 6), "tool_call_id": call["id"]})


def long_rules(template: ChatTemplate, tokenizer: Tokenizer) -> ChatMessage:
    """Rules with which an agent's first prompt just has the tokens it is to have."""

    def length(sentences: int) -> int:
        first = next(agent(1, said("system", 0, sentences), template))
        return len(tokenizer.encode(first))

    return said("system", 0, bisect_left(range(PREFIX_TOKENS), PREFIX_TOKENS, key=length))


def measure(name: str, prompts: list[str], tokenizer: Tokenizer) -> None:
    caches = [EncodeCache(tokenizer, CACHE_BYTES) for _ in range(ROUNDS)]
    without = best([[seconds(tokenizer.encode, one) for one in prompts] for _ in caches])
    cached = best([[seconds(cache.encode, one) for one in prompts] for cache in caches])
    plain = [tokenizer.encode(prompt) for prompt in prompts]
    again = EncodeCache(tokenizer, CACHE_BYTES)
    assert plain == [again.encode(prompt) for prompt in prompts]
    hits = again.hits
    found = hits.letters_found / (hits.letters_found + hits.letters_encoded)
    print(f"\n{name}: {len(prompts)} prompts, {len(plain[0])} to {len(plain[-1])} tokens")
    print(f"{'':22}{'first':>9}{'median':>9}{'last':>9}{'sum':>9}  ms")
    for label, times in (("encoding all", without), ("with the cache", cached)):
        numbers = [times[0], median(times), times[-1], sum(times)]
        print(f"{label:22}" + "".join(f"{1000 * number:9.2f}" for number in numbers))
    print(f"{100 * found:.1f} % of the letters were found; {again.bytes / 2**20:.1f} MiB held")


def seconds(encode: Callable[[str], list[int]], prompt: str) -> float:
    begun = time.perf_counter()
    encode(prompt)
    return time.perf_counter() - begun


def best(rounds: list[list[float]]) -> list[float]:
    """Of each prompt the shortest: what else runs on the machine only makes it longer."""
    return [min(times) for times in zip(*rounds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(MODEL))
    files = locate(parser.parse_args().model)
    tokenizer = Tokenizer.load(files)
    template = ChatTemplate(files.templates["default"], tokenizer.named)
    measure("chain of 200 turns", list(chain(200, template)), tokenizer)
    rules = long_rules(template, tokenizer)
    measure("agent loop, 10k prefix", list(agent(STEPS, rules, template)), tokenizer)


if __name__ == "__main__":
    main()
