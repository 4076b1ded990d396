"""Keeps text that somebody wrote from becoming control tokens.

A chat template's `<|im_start|>` is structure; the same letters in a user's message or a tool's
output are text. Before rendering, the guard puts a noncharacter (the sign) into such strings;
after it, the tokenizer knows by the sign which occurrences are text. Chat messages and tool
definitions come in and go out; nothing here renders or encodes.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from smg.errors import InvalidRequest

SIGNS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"""Noncharacters: Unicode promises that they mean nothing in anybody's text."""

# Where the words are ours: what stands under these keys is never marked ...
OUR_WORDS = frozenset({"role", "type"})
# ... and below these, where all is somebody else's, even keys and those words are.
THEIR_WORDS = frozenset({"arguments", "parameters"})

Change = Callable[[str], str]


class Guard:
    """Marks the control strings of one tokenizer, for one template."""

    def __init__(
        self,
        controls: Iterable[str],
        *,
        template_literals: Sequence[str] = (),
        normalize: Change | None = None,
    ) -> None:
        """`template_literals` are the template's own pieces of text, between which values stand.

        `normalize` is given when the tokenizer looks for control tokens in normalized text.
        """
        strings = sorted(controls)
        self._inside = _starts(strings)
        self._opened, self._closed = _seams(strings, template_literals)
        self._normalize = normalize
        self._normalized = _starts([normalize(text) for text in strings] if normalize else [])

    def mark(self, values: Sequence[Any]) -> tuple[list[Any], str | None]:
        """Copies of messages and tools, marked, and the sign used; `None`: nothing to mark.

        Raises:
            InvalidRequest: every possible sign occurs in the text.
        """
        strings: list[str] = []

        def collect(text: str) -> str:
            strings.append(text)
            return text

        for value in values:
            _changed(value, collect)
        if not any(map(self._at_risk, strings)):
            return list(values), None
        sign = _unused_sign(strings)
        return [_changed(value, lambda text: self._marked(text, sign)) for value in values], sign

    def _at_risk(self, text: str) -> bool:
        return bool(
            self._inside.search(text)
            or self._opened.match(text)
            or text.endswith(self._closed)
            or self._appears_normalized(text)
        )

    def _appears_normalized(self, text: str) -> bool:
        return self._normalize is not None and bool(self._normalized.search(self._normalize(text)))

    def _marked(self, text: str, sign: str) -> str:
        places = {at.end() for at in self._inside.finditer(text)}
        if self._opened.match(text):
            places.add(1)
        places |= {len(text) - len(end) + 1 for end in self._closed if text.endswith(end)}
        if not places and self._appears_normalized(text):
            # Only normalizing makes a control string of it: no place can be told from another.
            places = set(range(1, len(text) + 1))
        ends = [*sorted(places), len(text)]
        return sign.join(text[start:end] for start, end in zip([0, *ends], ends, strict=False))


def splitter(controls: Iterable[str]) -> re.Pattern[str]:
    """Divides a rendered prompt at its control strings: they stand at odd places."""
    strings = sorted(controls)
    long = _any_of([text for text in strings if len(text) > 1])
    # The sign breaks any string but a single character, so that one must look behind itself.
    short = [f"{re.escape(text)}(?![{SIGNS[0]}-{SIGNS[-1]}])" for text in strings if len(text) == 1]
    return re.compile(f"({'|'.join(filter(None, [long, *short])) or '(?!)'})")


def split_at(text: str, sign: str) -> list[str]:
    """The text's parts around each sign, also where JSON or `repr` spelled it as an escape."""
    return re.split(rf"{sign}|\\u{ord(sign):04x}", text, flags=re.IGNORECASE)


def without(text: str, sign: str) -> str:
    """The text as it was before it was marked."""
    return "".join(split_at(text, sign))


def _changed(value: Any, change: Change) -> Any:
    """A copy of a message or a tool with every text in it changed, but our own words kept."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_changed(entry, change) for entry in value]
    if not isinstance(value, dict):
        return value
    return {
        key: entry
        if key in OUR_WORDS
        else _all_changed(entry, change)
        if key in THEIR_WORDS
        else _changed(entry, change)
        for key, entry in value.items()
    }


def _all_changed(value: Any, change: Change) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_all_changed(entry, change) for entry in value]
    if isinstance(value, dict):
        return {change(str(key)): _all_changed(entry, change) for key, entry in value.items()}
    return value


def _starts(controls: Sequence[str]) -> re.Pattern[str]:
    """Matches the first character of every control string, those inside others too."""
    rests: dict[str, list[str]] = {}
    for control in controls:
        if control:
            rests.setdefault(control[0], []).append(control[1:])
    # Beginning with a character and not a look-ahead, the search skips text that holds none.
    groups = [f"{re.escape(first)}(?={_any_of(rest)})" for first, rest in rests.items()]
    return re.compile("|".join(groups) or "(?!)")


def _any_of(texts: Sequence[str]) -> str:
    """A pattern for the longest of the texts, with what they share written once.

    So no text can make the search slow by beginning hundreds of control strings at once.
    """
    rests: dict[str, list[str]] = {}
    for text in filter(None, texts):
        rests.setdefault(text[0], []).append(text[1:])
    branches = [re.escape(first) + _any_of(rest) for first, rest in rests.items()]
    if not branches:
        return ""
    pattern = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
    return f"(?:{pattern})?" if "" in texts else pattern


def _seams(
    controls: Sequence[str], literals: Sequence[str]
) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """What completes a control string that the template begins, and what begins one it completes.

    `'<' ~ key ~ '>'` in a template would make a control token of the key `tool_call`.
    """
    lengths = range(1, max(map(len, controls), default=0))
    ends = {literal[-n:] for literal in literals for n in lengths}
    starts = {literal[:n] for literal in literals for n in lengths}
    cuts = [(text[:n], text[n:]) for text in controls for n in range(1, len(text))]
    opened = {rest for begun, rest in cuts if begun in ends}
    closed = {begun for begun, rest in cuts if rest in starts}
    return re.compile("|".join(map(_beginning_of, sorted(opened))) or "(?!)"), tuple(closed)


def _beginning_of(text: str) -> str:
    """A pattern for this text, or for a whole string that is only its beginning."""
    return "|".join([re.escape(text), *(rf"{re.escape(text[:n])}\Z" for n in range(1, len(text)))])


def _unused_sign(strings: Sequence[str]) -> str:
    text = "\0".join(strings).lower()
    for sign in SIGNS:
        if sign not in text and f"\\u{ord(sign):04x}" not in text:
            return sign
    raise InvalidRequest("The input uses every noncharacter from U+FDD0 to U+FDEF")
