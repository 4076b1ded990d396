"""What is remembered is what the tokenizer would say, whatever is remembered."""

import json
import re
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from smg.errors import InvalidRequest
from smg.items import FunctionCall, FunctionCallOutput, Item, Message, TextPart
from smg.testing.vocabulary import MODEL_PATH
from smg.tokens.cache import EncodeCache, boundaries
from smg.tokens.prompt import PromptBuilder
from smg.tokens.source import locate
from smg.tokens.template import ChatTemplate
from smg.tokens.tokenizer import Tokenizer
from smg.turn import FunctionTool, Offer, ToolSet, Turn
from tests.tokens.reference import each_reference
from tests.tokens.vocabularies import byte_fallback, byte_level, metaspace, template, word_piece

MIB = 1024 * 1024
MARKERS = ("<tool_call>", "</tool_call>", "<think>", "</think>")


def fussy() -> tokenizers.Tokenizer:
    """Added tokens that swallow, overlap, are normalized or want to stand alone."""
    backend = tokenizers.Tokenizer.from_str(byte_level().to_str())
    backend.add_special_tokens(
        [
            AddedToken("<l>", lstrip=True, special=True),
            AddedToken("<r>", rstrip=True, special=True),
            AddedToken("<w>", single_word=True, special=True),
            AddedToken("<ab>", special=True),
            AddedToken("x<ab>y", special=True),
            AddedToken("<<<", special=True),
            AddedToken("z<", special=True),
            AddedToken("aa", special=True),
            AddedToken("#", special=True),
        ]
    )
    return backend


@cache
def vocabulary(name: str) -> Tokenizer:
    if name == "model":
        return Tokenizer.load(locate(str(MODEL_PATH)), MARKERS)
    backends: dict[str, Callable[[], tokenizers.Tokenizer]] = {
        "byte_level": byte_level,
        "byte_fallback": byte_fallback,
        "gemma": lambda: byte_fallback(prepend=False),
        "metaspace": metaspace,
        "word_piece": word_piece,
        "fussy": fussy,
    }
    return Tokenizer(backends[name](), controls=MARKERS)


NAMES = ("model", "byte_level", "byte_fallback", "gemma", "metaspace", "word_piece", "fussy")
CONTROLS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "[CLS]", "<think>", "<unused>")
FUSSY = ("<l>", "<r>", "<w>", "<ab>", "x<ab>y", "<<<", "z<", "aa", "#", "x", "y", "z", "a", "<")
PIECES = st.sampled_from(
    [*CONTROLS, *FUSSY, " ", "\n", "  ", "it is", "é", "你好", "👩‍👩‍👧‍👦", "\ufdd0"]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)


def outcome(encoder: Tokenizer | EncodeCache, rendered: str, sign: str | None) -> list[int] | str:
    try:
        return encoder.encode(rendered, sign)
    except InvalidRequest as refusal:  # Not every vocabulary can spell all its controls as text.
        return refusal.message


each_vocabulary = pytest.mark.parametrize("name", NAMES)


@each_vocabulary
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_raw_text_gives_the_same_ids(name: str, texts: list[str]) -> None:
    tokenizer = vocabulary(name)
    remembered = EncodeCache(tokenizer, MIB)
    # The later ones begin as the earlier ones end: their pieces are partly known.
    for count in range(1, len(texts) + 1):
        text = "".join(texts[:count])
        assert remembered.encode(text) == tokenizer.encode(text)
        assert remembered.encode(text) == tokenizer.encode(text)


@each_vocabulary
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_guarded_text_gives_the_same_ids(name: str, texts: list[str]) -> None:
    tokenizer = vocabulary(name)
    remembered = EncodeCache(tokenizer, MIB)
    guard, prompt = tokenizer.guard(), ""
    for text in texts:
        [marked], sign = guard.mark([text])
        for between in ("<|im_start|>", "</s>", "<r> ", "<ab>"):
            rendered = between + marked + between
            assert outcome(remembered, rendered, sign) == outcome(tokenizer, rendered, sign)
        prompt += text
        assert remembered.encode(prompt) == tokenizer.encode(prompt)


CONTROL = re.compile(r"<[|｜][^|｜<>{}]+[|｜]>|</?[a-z_]+>|\\[/?[A-Z_]+\\]")
"""What a template's own text has of control tokens."""

CONTROL_WORDS = st.sampled_from(
    ["<|im_end|>", "<|eot_id|>", "<｜User｜>", "[INST]", "</tool_call>"]
)
SAID = st.lists(PIECES | CONTROL_WORDS | st.text(max_size=9), min_size=1, max_size=6).map("".join)
WEATHER = Offer(
    "weather",
    FunctionTool(name="weather", description="It rains?", parameters={"type": "object"}),
)


@cache
def agents(source: str) -> tuple[PromptBuilder, PromptBuilder]:
    """Builders that remember and that do not, whose tokenizer has the template's control tokens."""
    controls = tuple(sorted({*CONTROL.findall(source)} - {*MARKERS}))
    tokenizer = Tokenizer(byte_level(special=controls), controls=MARKERS)
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    one, other = (
        PromptBuilder(
            tokenizer,
            template,
            call_id=lambda name, number, _: f"callid{number:03}",
            cache_bytes=cache_bytes,
        )
        for cache_bytes in (MIB, 0)
    )
    return one, other


def steps(results: Sequence[str]) -> tuple[Item, ...]:
    """An agent loop's calls and what came of them."""
    items: list[Item] = []
    for number, result in enumerate(results):
        arguments = json.dumps({"city": result})
        items.append(
            FunctionCall(id="fc", call_id=f"c{number}", name="weather", arguments=arguments)
        )
        items.append(FunctionCallOutput(id="fo", call_id=f"c{number}", output=result))
    return tuple(items)


def check_an_agent_loop(source: str, rules: str, results: Sequence[str]) -> None:
    remembering, forgetful = agents(source)
    for count in range(len(results) + 1):
        question = Message(id="msg", role="user", parts=(TextPart("And now?"),))
        turn = Turn(
            id="resp",
            model="m",
            created_at=0,
            instructions=rules,
            input=(question, *steps(results[:count])),
            tools=ToolSet(offers=(WEATHER,)),
        )
        assert remembering.build(turn) == forgetful.build(turn)


TEMPLATES = ("qwen3", "qwen2.5", "xml", "llama-3", "deepseek-r1")


def builders(name: str) -> tuple[PromptBuilder, PromptBuilder]:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    one, other = (
        PromptBuilder(
            Tokenizer(byte_level(), controls=MARKERS),
            ChatTemplate(template(name), tokens),
            cache_bytes=cache_bytes,
        )
        for cache_bytes in (MIB, 0)
    )
    return one, other


BUILDERS = {name: builders(name) for name in TEMPLATES}


def said(texts: Sequence[str]) -> tuple[Item, ...]:
    return tuple(
        Message(id="msg", role="assistant" if n % 2 else "user", parts=(TextPart(text),))
        for n, text in enumerate(texts)
    )


@pytest.mark.parametrize("name", TEMPLATES)
@given(texts=st.lists(TEXTS.filter(bool), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_conversations_of_real_templates_give_the_same_prompts(name: str, texts: list[str]) -> None:
    remembering, forgetful = BUILDERS[name]
    for count in range(1, len(texts) + 1, 2):
        turn = Turn(id="resp", model="m", created_at=0, input=said(texts[:count]))
        assert remembering.build(turn) == forgetful.build(turn)


@pytest.mark.parametrize("name", TEMPLATES)
@given(rules=SAID, results=st.lists(SAID, min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_agent_loops_give_the_same_prompts(name: str, rules: str, results: list[str]) -> None:
    check_an_agent_loop(template(name), rules, results)


@each_reference
@given(rules=SAID, results=st.lists(SAID, min_size=1, max_size=3))
@settings(max_examples=8, deadline=None)
def test_agent_loops_of_published_templates_give_the_same_prompts(
    path: Path, rules: str, results: list[str]
) -> None:
    check_an_agent_loop(path.read_text(), rules, results)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_next_step_of_an_agent_is_mostly_found(name: str) -> None:
    remembering, _ = agents(template(name))
    rules = "Rules. " * 500
    before = remembering.hits.letters_encoded
    check_an_agent_loop(template(name), rules, ["dry", "wet", "dry again"])
    assert len(rules) <= remembering.hits.letters_encoded - before < len(rules) + 1000


def test_the_next_turn_encodes_only_what_is_new() -> None:
    remembering, _ = builders("qwen3")
    texts = ["a long question " * 50, "a long answer " * 50, "and now?"]
    for count in (1, 3):
        remembering.build(Turn(id="r", model="m", created_at=0, input=said(texts[:count])))
        letters = remembering.hits.letters_encoded
    first = len(texts[0])
    assert first < letters < first + len(texts[1]) + len(texts[2]) + 200
    hits = remembering.hits
    assert (hits.whole_hits, hits.whole_misses) == (0, 2)
    assert hits.piece_hits > 0


def test_the_same_prompt_is_not_even_cut() -> None:
    remembered = EncodeCache(vocabulary("model"), MIB)
    ids = remembered.encode("<|im_start|>user\nhello<|im_end|>")
    pieces = remembered.hits.piece_hits + remembered.hits.piece_misses
    again = remembered.encode("<|im_start|>user\nhello<|im_end|>")
    assert again == ids
    again.append(1)  # What a caller does to its ids is its own affair.
    assert remembered.encode("<|im_start|>user\nhello<|im_end|>") == ids
    assert remembered.hits.whole_hits == 2
    assert remembered.hits.piece_hits + remembered.hits.piece_misses == pieces


def test_a_marked_text_is_not_taken_for_the_same_letters_unmarked() -> None:
    tokenizer = vocabulary("byte_level")
    [marked], sign = tokenizer.guard().mark(["<think>"])
    remembered = EncodeCache(tokenizer, MIB)
    rendered = f"<|im_start|>{marked}<|im_end|>"
    for used in (sign, None, sign):
        assert remembered.encode(rendered, used) == tokenizer.encode(rendered, used)
    assert tokenizer.encode(rendered, sign) != tokenizer.encode(rendered)


@given(st.lists(TEXTS, max_size=20))
@settings(deadline=None)
def test_it_never_takes_more_memory_than_it_may(texts: list[str]) -> None:
    remembered = EncodeCache(vocabulary("byte_level"), 4000)
    for text in texts:
        remembered.encode(text)
        assert remembered.bytes <= 4000


def test_what_was_not_used_for_longest_is_forgotten_first() -> None:
    remembered = EncodeCache(vocabulary("byte_level"), 4000)
    pieces = [f"<|im_start|>{letter * 20}" for letter in "abcdefghijkl"]
    for piece in pieces:
        remembered.encode(pieces[0] + piece)  # The first is used all the time.
    before = remembered.hits.piece_misses
    remembered.encode("<|im_end|>" + pieces[0])
    assert remembered.hits.piece_misses == before + 1  # Of both pieces, one was known.
    remembered.encode("<|im_end|>" + pieces[1])
    assert remembered.hits.piece_misses == before + 2


def test_without_memory_nothing_is_counted_or_held() -> None:
    remembered = EncodeCache(vocabulary("byte_level"), 0)
    ids = [remembered.encode("<|im_start|>x") for _ in range(2)]
    assert ids == [vocabulary("byte_level").encode("<|im_start|>x")] * 2
    assert (remembered.bytes, remembered.hits.whole_misses) == (0, 0)


def entry(content: str, **flags: bool) -> dict[str, Any]:
    usual = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": content, **usual, **flags}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry("<a>"), entry("<b>")], ["<a>", "<b>"]),
        ([entry("<a>", rstrip=True)], ["<a>"]),
        ([entry("<a>", lstrip=True)], []),
        ([entry("<a>", normalized=True)], []),
        ([entry("<a>", single_word=True)], []),
        ([entry("#"), entry(" <a>")], []),
        ([entry("<a>"), entry("x<a>")], ["x<a>"]),
        ([entry("<a>"), entry("<a>x")], ["<a>", "<a>x"]),
        ([entry("<a>"), entry("x<")], ["x<"]),
        ([entry("aba")], []),
        ([entry("a>"), entry("<b>"), entry("<w>", single_word=True)], ["<b>"]),
        ([entry("")], []),
    ],
)
def test_only_certain_tokens_are_places_to_cut(
    entries: list[dict[str, Any]], expected: list[str]
) -> None:
    assert boundaries(entries, [each["content"] for each in entries]) == expected


def test_tokens_that_steer_nothing_are_no_places_to_cut() -> None:
    assert boundaries([entry("<a>"), entry("<b>")], ["<b>"]) == ["<b>"]


def test_several_threads_may_encode_at_once() -> None:
    tokenizer = vocabulary("model")
    remembered = EncodeCache(tokenizer, 20_000)
    texts = [f"<|im_start|>user\n{n % 7} and {n % 11}<|im_end|>" * 20 for n in range(60)]
    wrong: list[str] = []

    def encode_all() -> None:
        wrong.extend(text for text in texts if remembered.encode(text) != tokenizer.encode(text))

    threads = [threading.Thread(target=encode_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong
    assert remembered.bytes <= 20_000
