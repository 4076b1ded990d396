"""Small real tokenizers, trained here in a moment, and the templates beside this file."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

TEMPLATES = Path(__file__).parent / "templates"

CORPUS = (
    "It is the answer to the question that the user asked, and the tool gave it.",
    "système naïve déjà vu, e\u0301 and o\u0308 combine",
    "你好，世界。今天天气很好。",
    "😀 😃 👩‍👩‍👧‍👦 🏳️‍🌈",
    "start end im tool call think system assistant user",
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_PLAIN = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<unused>")


def template(name: str) -> str:
    """The text of one of our own templates."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


@cache
def byte_level(
    special: Sequence[str] = QWEN_SPECIAL, plain: Sequence[str] = QWEN_PLAIN
) -> Tokenizer:
    """Byte-level BPE, as Qwen, Llama 3 and DeepSeek have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return _with_added(tokenizer, special, plain)


@cache
def byte_fallback(prepend: bool = True) -> Tokenizer:
    """SentencePiece BPE with byte fallback, as Llama 2 (`prepend`) and Gemma have."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prepend else steps)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", *byte_tokens],
        limit_alphabet=40,
        show_progress=False,
    )
    tokenizer.train_from_iterator([line.replace(" ", "▁") for line in CORPUS * 3], trainer)
    # Trained as special so that they exist; in real files only the first three are added tokens.
    return _without_added(tokenizer, byte_tokens)


@cache
def metaspace() -> Tokenizer:
    """A Unigram vocabulary that holds its control tokens itself."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        unk_token="<unk>",
        special_tokens=["<unk>", "<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


@cache
def word_piece() -> Tokenizer:
    """WordPiece, whose tokens read differently beside others."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


def _with_added(tokenizer: Tokenizer, special: Sequence[str], plain: Sequence[str]) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain])
    return tokenizer


def _without_added(tokenizer: Tokenizer, contents: Sequence[str]) -> Tokenizer:
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [
        entry for entry in file["added_tokens"] if entry["content"] not in contents
    ]
    return Tokenizer.from_str(json.dumps(file))
