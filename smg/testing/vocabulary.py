"""The scripted engine's tokens: text to ids and back, and the ids of its markers.

Reads the folder `smg/testing/model`, which a gateway may use as its model path. Knows nothing of
prompts or answers.
"""

import json
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

MODEL_PATH = Path(__file__).resolve().parent / "model"
"""The folder that ships with the package."""


class Vocabulary:
    """One model folder's tokens."""

    def __init__(self, path: Path = MODEL_PATH) -> None:
        self.path = path
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        # Control tokens come from the engine alone: a script that says "<|im_end|>" writes text.
        self._literal = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._literal.encode_special_tokens = True
        self.config: dict[str, Any] = json.loads((path / "config.json").read_text("utf-8"))
        self.generation_config: dict[str, Any] = json.loads(
            (path / "generation_config.json").read_text("utf-8")
        )

    @cached_property
    def size(self) -> int:
        """How many ids there are."""
        return int(self._tokenizer.get_vocab_size())

    @cached_property
    def eos(self) -> int:
        """The id that ends an answer."""
        return self.id("<|im_end|>")

    @cached_property
    def other_eos(self) -> frozenset[int]:
        """Further ids that end an answer: the generation config names them."""
        return frozenset({self.id("<|endoftext|>")})

    def id(self, marker: str) -> int:
        """The id of a marker.

        Raises:
            KeyError: it is not one token.
        """
        found = self._tokenizer.token_to_id(marker)
        if found is None:
            raise KeyError(marker)
        return int(found)

    def encode(self, text: str) -> list[int]:
        """The ids of a text in which control tokens are text."""
        return list(self._literal.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a rendered prompt: its control tokens are control tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of these ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def find_stop(self, ids: Sequence[int], stop: str, *, skip_special: bool) -> int | None:
        """How many ids it takes until a stop string is complete; none if it never is."""

        def holds(count: int) -> bool:
            return stop in self.decode(ids[:count], skip_special=skip_special)

        if not holds(len(ids)):
            return None
        return bisect_left(range(len(ids) + 1), True, key=holds)

    def default_sampling(self) -> dict[str, Any]:
        """What the generation config says of sampling."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return {
            name: self.generation_config[name] for name in names if name in self.generation_config
        }
