"""What encoding the next prompt of a conversation costs, with the cache and without.

    python -m benchmarks.tokenizer_cache [--model FOLDER]

First a chain of 200 turns, then an agent loop of 20 steps that begins with 10,000 tokens; the time
is that of `PromptBuilder`'s encoding alone. Each prompt is checked to be the same both ways.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import smg.testing
from smg.tokens.cache import CACHE_BYTES, EncodeCache
from smg.tokens.source import locate
from smg.tokens.tokenizer import Tokenizer

MODEL = Path(smg.testing.__file__).parent / "model"
SENTENCE = "The tool said that it rains in Oslo, so take a coat, and 你好 to all; {n} + {n}. "


def message(role: str, number: int, sentences: int) -> str:
    text = "".join(SENTENCE.format(n=number * 1000 + n) for n in range(sentences))
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def chain(turns: int) -> Iterator[str]:
    """The prompt of each turn: a question of two sentences, an answer of eight."""
    prompt = message("system", 0, 10)
    for turn in range(turns):
        prompt += message("user", turn, 2)
        yield prompt + "<|im_start|>assistant\n"
        prompt += message("assistant", turn, 8)


def agent(steps: int, sentences: int) -> Iterator[str]:
    """The prompt of each step: a long beginning, then calls and results."""
    prompt = message("system", 0, sentences) + message("user", 0, 2)
    for step in range(steps):
        yield prompt + "<|im_start|>assistant\n"
        prompt += message("assistant", step, 1) + message("tool", step, 6)


def measure(name: str, prompts: list[str], tokenizer: Tokenizer) -> None:
    cache = EncodeCache(tokenizer, CACHE_BYTES)
    without, cached, lengths = [], [], []
    for prompt in prompts:
        begun = time.perf_counter()
        plain = tokenizer.encode(prompt)
        between = time.perf_counter()
        remembered = cache.encode(prompt)
        cached.append(time.perf_counter() - between)
        without.append(between - begun)
        lengths.append(len(plain))
        assert plain == remembered
    hits = cache.hits
    found = hits.letters_found / (hits.letters_found + hits.letters_encoded)
    print(f"\n{name}: {len(prompts)} prompts, {lengths[0]} to {lengths[-1]} tokens")
    print(f"{'':22}{'first':>9}{'median':>9}{'last':>9}{'sum':>9}  ms")
    for label, times in (("encoding all", without), ("with the cache", cached)):
        numbers = [times[0], median(times), times[-1], sum(times)]
        print(f"{label:22}" + "".join(f"{1000 * number:9.2f}" for number in numbers))
    print(f"{100 * found:.1f} % of the letters were found; {cache.bytes / 2**20:.1f} MiB held")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(MODEL))
    tokenizer = Tokenizer.load(locate(parser.parse_args().model))
    measure("chain of 200 turns", list(chain(200)), tokenizer)
    one = len(tokenizer.encode(message("system", 0, 1)))
    sentences = 10_000 // one + 1
    measure("agent loop, 10k prefix", list(agent(20, sentences)), tokenizer)


if __name__ == "__main__":
    main()
