"""One model's vocabulary: text to ids, ids to text, and which ids are control tokens.

A model's files come in. Text from users and tools never becomes control tokens: see `encode` and
smg.tokens.guard. Knows no message and no template's meaning.
"""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import tokenizers

from smg.errors import ConfigError, InvalidRequest
from smg.tokens.guard import Guard, split_at, splitter, without
from smg.tokens.pieces import Pieces, table
from smg.tokens.source import ModelFiles

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

FIRST, NEVER = '"prepend_scheme": "first"', '"prepend_scheme": "never"'

CHARACTERS_A_TOKEN = 8
"""On average; real text has three to five."""
PIECE = 64 * 1024
CUT_TOKENS = 64
"""By so many at most a cut makes a piece longer."""

Plain = tuple[tokenizers.Tokenizer, dict[int, int]]
"""A tokenizer without control tokens, and the true ids of tokens that it numbers otherwise."""


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        named: Mapping[str, str] | None = None,
        eos_ids: Iterable[int] = (),
        controls: Iterable[str] = (),
    ) -> None:
        """`named` are tokens by role (bos_token, ...), `controls` more tokens that steer a model.

        Every special token is a control token; `controls` adds what is known from elsewhere:
        the added tokens that the chat template or a parser uses.
        """
        # A file may ask for these; a prompt is never cut or filled up.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        file: dict[str, Any] = json.loads(backend.to_str())
        self.entries: list[dict[str, Any]] = file["added_tokens"]
        """The added tokens as tokenizer.json has them."""
        self.named = dict(named or {})
        self.added: dict[int, str] = {entry["id"]: entry["content"] for entry in self.entries}
        names = set(self.named.values())
        self.special_ids = frozenset(
            entry["id"] for entry in self.entries if entry["special"] or entry["content"] in names
        )
        self.eos_ids = frozenset(eos_ids) | self._ids([self.named.get("eos_token", "")])
        wanted = {self.added[token_id] for token_id in self.special_ids} | set(controls)
        self.controls = frozenset(
            content for content in self.added.values() if content in wanted and content.strip()
        )
        self._control_ids = self._ids(self.controls) - self._ids([_unknown(file["model"])])
        self._split = splitter(self.controls)
        # All at once and not when first needed: a large vocabulary takes a second, and by then
        # others would wait.
        self._plain_inside = _plain(_never_first(file), self.controls)
        self._plain_at_start = (
            _plain(file, self.controls) if _prepends(file) else self._plain_inside
        )
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.pieces: Pieces | None = table(file, vocabulary, self.added)
        """How each token reads among others; `None` if that depends on the others."""
        self._alone = self.pieces or _read_alone(backend, vocabulary)

    @classmethod
    def load(cls, files: ModelFiles, keep: Iterable[str] = ()) -> Self:
        """The tokenizer of a model's folder; `keep` are a parser's markers.

        Raises:
            ConfigError: the folder holds none that can be read.
        """
        backend = _backend(files)
        _add_missing(backend, files.tokenizer_config)
        named = _named(files)
        templates = "\n".join(files.templates.values())
        added = (token.content for token in backend.get_added_tokens_decoder().values())
        used = (content for content in added if content in templates)
        return cls(backend, named=named, eos_ids=files.eos_ids, controls={*used, *keep})

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return len(self._alone.texts)

    def encode(self, rendered: str, sign: str | None = None) -> list[int]:
        """The ids of a rendered prompt; nothing is added to it.

        With a sign, control strings that hold it are text, and the sign itself is not there.
        """
        if sign is None or sign not in rendered:
            return _encoded(self._backend, rendered)
        ids: list[int] = []
        run: list[str] = []
        segments = self._split.split(rendered)
        for position, segment in enumerate(segments):
            if sign not in segment:
                run.append(segment)
                continue
            # At odd positions stand control strings, and they hold no sign.
            before, after = segments[position - 1 : position], segments[position + 1 : position + 2]
            ids += _encoded(self._backend, "".join(run))
            run.clear()
            ids += self._encode_text(self._trimmed(segment, before, after), sign, not position)
        return ids + _encoded(self._backend, "".join(run))

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text that is no rendered prompt, with what begins and ends any text here.

        Control strings in it are control tokens: whoever sends bare text writes its own template.
        """
        return _encoded(self._backend, text, whole=True)

    def exceeds(self, text: str, most: int) -> bool:
        """Whether a text has far more tokens than this.

        Encoding takes two hundred bytes of memory for each character. So what is so long that it
        hardly fits is counted in pieces first, and no further than need be.
        """
        if len(text) <= most * CHARACTERS_A_TOKEN:
            return False
        left = most * 1.1
        for start in range(0, len(text), PIECE):
            piece = text[start : start + PIECE]
            left -= len(self._backend.encode(piece, add_special_tokens=False).ids) - CUT_TOKENS
            if left < 0:
                return True
        return False

    def token_text(self, token_id: int) -> str:
        """How a token reads alone; half a character reads as U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; none for an id outside the vocabulary."""
        if not 0 <= token_id < len(self._alone.texts):
            return b""
        if (text := self._alone.texts[token_id]) is not None:
            return text.encode()
        return self._alone.raw.get(token_id, b"")

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of ids, all at once."""
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact text."""
        return self._backend.token_to_id(token)

    def guard(self, template_literals: Sequence[str] = ()) -> Guard:
        """What keeps other people's text from becoming this tokenizer's control tokens."""
        normalizer = self._backend.normalizer
        searched_normalized = any(
            entry["normalized"] and entry["content"] in self.controls for entry in self.entries
        )
        return Guard(
            self.controls,
            template_literals=template_literals,
            normalize=normalizer.normalize_str if normalizer and searched_normalized else None,
        )

    def _ids(self, tokens: Iterable[str]) -> frozenset[int]:
        found = (self._backend.token_to_id(token) for token in tokens if token)
        return frozenset(token_id for token_id in found if token_id is not None)

    def _trimmed(self, segment: str, before: list[str], after: list[str]) -> str:
        """The segment less the spaces that control tokens beside it swallow."""
        if self._swallowing["rstrip"].intersection(before):
            segment = segment.lstrip()
        if self._swallowing["lstrip"].intersection(after):
            segment = segment.rstrip()
        return segment

    @cached_property
    def _swallowing(self) -> dict[str, set[str]]:
        entries = self.entries
        return {
            side: {entry["content"] for entry in entries if entry[side]}
            for side in ("lstrip", "rstrip")
        }

    def _encode_text(self, segment: str, sign: str, at_start: bool) -> list[int]:
        """Encode text that spells control strings, so that none of them becomes one."""
        ids = self._plain_ids(without(segment, sign), at_start)
        if self._control_ids.isdisjoint(ids):
            return ids
        # The model itself holds the string (not only the added tokens): encode its parts apart.
        first, *others = split_at(segment, sign)
        ids = self._plain_ids(first, at_start)
        for part in others:
            ids += self._plain_ids(part, False)
        if self._control_ids.isdisjoint(ids):
            return ids
        raise InvalidRequest("The input spells a control token that this model cannot take as text")

    def _plain_ids(self, text: str, at_start: bool) -> list[int]:
        plain, renamed = self._plain_at_start if at_start else self._plain_inside
        ids = _encoded(plain, text)
        return [renamed.get(token_id, token_id) for token_id in ids] if renamed else ids


def _encoded(backend: tokenizers.Tokenizer, text: str, *, whole: bool = False) -> list[int]:
    """The ids of a text; `whole`: with what the tokenizer puts around one.

    A batch of one: the library's plain `encode` keeps all other threads waiting to its end, which
    for 100k tokens was a second, and takes ten times as long to find places nobody asks for.
    """
    [encoding] = backend.encode_batch_fast([text], add_special_tokens=whole)
    ids: list[int] = encoding.ids
    return ids


def _read_alone(backend: tokenizers.Tokenizer, vocabulary: Mapping[str, int]) -> Pieces:
    """How each token of an unusual tokenizer reads when it stands alone."""
    texts: list[str | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    for token_id in vocabulary.values():
        texts[token_id] = backend.decode([token_id], skip_special_tokens=False)
    return Pieces(texts, {}, 0)


def _plain(file: Mapping[str, Any], controls: Container[str]) -> Plain:
    """The tokenizer without the control strings, and its ids that differ."""
    added = [entry for entry in file["added_tokens"] if entry["content"] not in controls]
    content = {**file, "added_tokens": added, "post_processor": None}
    plain = tokenizers.Tokenizer.from_str(json.dumps(content))
    # Added tokens are numbered anew as they are read, so those behind a gap have moved.
    renamed = {
        moved: entry["id"]
        for entry in added
        if (moved := plain.token_to_id(entry["content"])) is not None and moved != entry["id"]
    }
    return plain, renamed


def _unknown(model: Mapping[str, Any]) -> str:
    """The token that a vocabulary gives for letters it lacks; the text may well hold such."""
    position = model.get("unk_id")  # Unigram names it by its place.
    token = model["vocab"][position][0] if position is not None else model.get("unk_token")
    return str(token or "")


def _backend(files: ModelFiles) -> tokenizers.Tokenizer:
    path = files.tokenizer_json
    if path is None:
        return _converted(files)
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    # The library raises plain Exception for a file it cannot read.
    except Exception as error:
        raise ConfigError(f"{path}: no tokenizer that can be read ({error})") from error


def _converted(files: ModelFiles) -> tokenizers.Tokenizer:
    """Let transformers build the tokenizer from older files; its import takes seconds."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        backend = AutoTokenizer.from_pretrained(str(files.folder)).backend_tokenizer
    # Whatever a foreign folder can do to it: missing files, missing packages, wrong content.
    except Exception as error:
        raise ConfigError(f"--model-path: no tokenizer in {files.folder} ({error})") from error
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ConfigError(f"--model-path: {files.folder} holds no fast tokenizer")
    return backend


def _add_missing(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Add tokens that only tokenizer_config.json tells of, under the ids it gives them."""
    known = backend.get_added_tokens_decoder()
    entries = config.get("added_tokens_decoder", {})
    for token_id, entry in sorted((int(key), value) for key, value in entries.items()):
        if token_id in known:
            continue
        flags = {
            flag: bool(entry.get(flag, False))
            for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        backend.add_tokens([tokenizers.AddedToken(entry["content"], **flags)])
        if backend.token_to_id(entry["content"]) != token_id:
            raise ConfigError(
                f"tokenizer_config.json numbers {entry['content']!r} {token_id},"
                f" tokenizer.json {backend.token_to_id(entry['content'])}"
            )


def _named(files: ModelFiles) -> dict[str, str]:
    named = {}
    for name in NAMED:
        value = files.tokenizer_config.get(name) or files.special_tokens_map.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            named[name] = value
    return named


def _prepends(file: Mapping[str, Any]) -> bool:
    """Whether only the very start of a prompt gets a space before it."""
    return FIRST in json.dumps(file["pre_tokenizer"])


def _never_first(file: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer for text that is not at the start."""
    changed = json.dumps(file["pre_tokenizer"]).replace(FIRST, NEVER)
    return {**file, "pre_tokenizer": json.loads(changed)}
