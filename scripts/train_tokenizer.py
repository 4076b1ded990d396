"""Train the scripted engine's tokenizer from text in this repository.

    python scripts/train_tokenizer.py            writes smg/testing/model/tokenizer.json
    python scripts/train_tokenizer.py --check    fails if that file is not what training gives

Byte-level BPE over LICENSE and smg/testing/corpus.txt; the same text gives the same file. The
markers after the learned tokens have the names, order and kinds that Qwen3 gives them.
"""

import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [ROOT / "LICENSE", ROOT / "smg/testing/corpus.txt"]
TARGET = ROOT / "smg/testing/model/tokenizer.json"

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKERS = [
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]
VOCABULARY = 2048  # With the markers; what this much text can teach.


def train() -> str:
    """The text of tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(MARKERS),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [line for text in TEXTS for line in text.read_text("utf-8").splitlines(keepends=True)]
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in MARKERS])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"The texts teach {tokenizer.get_vocab_size()} tokens, not {VOCABULARY}")
    return tokenizer.to_str(pretty=True) + "\n"


def main() -> None:
    """Write the file, or compare it."""
    trained = train()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(trained, "utf-8")
    elif TARGET.read_text("utf-8") != trained:
        raise SystemExit(f"{TARGET.relative_to(ROOT)} is not current: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
