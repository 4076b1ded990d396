"""How long a token takes from its id to text: `python -m benchmarks.detokenizer [model folder]`.

Guards the table of smg.tokens.pieces: ordinary tokens must cost a look-up and no decoding.
"""

import sys
import time
from collections.abc import Callable

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from smg.tokens.detokenizer import Detokenizer
from smg.tokens.source import locate
from smg.tokens.stops import StopStrings
from smg.tokens.tokenizer import Tokenizer

TEXT = "It is the answer, 你好 and 😀 too: the tool said so. " * 400


def main() -> None:
    tokenizer = Tokenizer.load(locate(sys.argv[1])) if len(sys.argv) > 1 else small_tokenizer()
    ids = tokenizer.encode(TEXT)
    print(f"{len(ids)} tokens, µs a token")
    report("one by one", len(ids), lambda: feed(Detokenizer(tokenizer), ids, 1))
    report("eight at once", len(ids), lambda: feed(Detokenizer(tokenizer), ids, 8))
    stops = ["</stop>", "\n\nHuman:"]
    report("stop strings", len(ids), lambda: feed(with_stops(tokenizer, stops), ids, 1))
    report("new object", 1, lambda: Detokenizer(tokenizer))


def small_tokenizer() -> Tokenizer:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([TEXT], trainer)
    return Tokenizer(backend)


def with_stops(tokenizer: Tokenizer, stops: list[str]) -> Detokenizer:
    return Detokenizer(tokenizer, stop=StopStrings(stops))


def feed(detokenizer: Detokenizer, ids: list[int], size: int) -> None:
    for at in range(0, len(ids), size):
        detokenizer.feed(ids[at : at + size])
    detokenizer.finish()


def report(name: str, tokens: int, run: Callable[[], object]) -> None:
    run()
    best = min(timed(run) for _ in range(5))
    print(f"{name:15} {best / tokens * 1e6:6.2f}")


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
