import time
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
import pytest

from smg.errors import ConfigError, InvalidRequest
from smg.tokens.template import ChatTemplate
from tests.tokens.reference import each_reference
from tests.tokens.vocabularies import TEMPLATES, template

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def rendered(source: str, **kwargs: Any) -> str:
    return ChatTemplate(source, now=lambda: NOON).render([], kwargs=kwargs)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'b': 'é<>&', 'a': 1} | tojson }}", '{"b": "é<>&", "a": 1}'),
        (
            "{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true) }}",
            '{"a": 1, "b": "\\u00e9"}',
        ),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{{ strftime_now('%d %b %Y') }}", "04 May 2026"),
        ("{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}", "2"),
        ("{{ dict(a=1)['a'] }}", "1"),
        ("{{ '%s of %d' | format('one', 2) }}{{ '{:>3}'.format(7) }}", "one of 2  7"),
        ("{{ tools is none }}{{ documents is none }}", "TrueTrue"),
        (
            "{{ 'x' * 3 }}{{ 2 ** 3 }}{{ 7 % 4 }}{{ 'a'.center(3) }}{{ 'a' | center(3) }}",
            "xxx83 a  a ",
        ),
    ],
)
def test_templates_get_what_transformers_gives_them(source: str, expected: str) -> None:
    assert rendered(source) == expected


CONVERSATION_FORMS = list(product(({"a": 1}, '{"a": 1}'), (None, "", "text")))


def conversation(arguments: Any, content: str | None) -> list[dict[str, Any]]:
    call = {"name": "add", "arguments": arguments}
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hé <b>"},
        {
            "role": "assistant",
            "content": content,
            "reasoning_content": "Hm.",
            "thinking": "Hm.",
            "tool_calls": [{"id": "123456789", "type": "function", "function": call}],
        },
        {"role": "tool", "name": "add", "tool_call_id": "123456789", "content": "3"},
    ]


TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds é & <x>",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "description": "A number"}},
        },
    },
}


def theirs(source: str, messages: list[dict[str, Any]]) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415

    try:
        [[text], *_] = render_jinja_template(
            [messages], tools=[TOOL], chat_template=source, add_generation_prompt=True, **SPECIAL
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError):
        return None
    return str(text)


def ours(compiled: ChatTemplate, messages: list[dict[str, Any]]) -> str | None:
    try:
        return compiled.render(messages, [TOOL])
    except InvalidRequest:
        return None


def check_same_as_transformers(source: str) -> None:
    compiled = ChatTemplate(source, SPECIAL)
    for arguments, content in CONVERSATION_FORMS:
        messages = conversation(arguments, content)
        assert ours(compiled, messages) == theirs(source, messages)


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")), ids=lambda path: path.stem)
def test_our_templates_render_as_transformers_renders_them(path: Path) -> None:
    check_same_as_transformers(path.read_text())


@each_reference
def test_real_templates_render_as_transformers_renders_them(path: Path) -> None:
    check_same_as_transformers(path.read_text())


def test_a_template_that_refuses_is_the_clients_error_in_the_templates_words() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        rendered("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ '{a.__class__}'.format_map({'a': messages}) }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler('a') }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns._a = 1 %}",
        "{{ raise_exception.__globals__ }}",
        "{{ dict.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source: str) -> None:
    try:
        text = rendered(source)
    except InvalidRequest:
        return
    # Jinja answers a forbidden attribute inside `attr` and `format` with nothing.
    assert "class" not in text


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ [1] * 10**9 }}",
        "{{ 2 ** 10**9 }}",
        "{{ 'x'.ljust(10**9) }}",
        "{{ 'x' | center(10**9) }}",
        "{{ 'x' | indent(10**9) }}",
        "{{ [1] | tojson(indent=10**9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' | format(10**9, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set x = 'x' * 10**6 %}{% for i in range(50) %}{{ x }}{% endfor %}",
    ],
)
def test_a_template_cannot_take_all_memory_or_time(source: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidRequest):
        rendered(source)
    assert time.monotonic() - started < 5


def test_a_slow_template_ends_at_its_deadline() -> None:
    source = "{% for i in range(900000) %}{{ [1, 2, 3] | sort | join }}{% endfor %}"
    with pytest.raises(InvalidRequest, match="takes too long"):
        ChatTemplate(source).render([], seconds=0.01)


@pytest.mark.parametrize("name", ["messages", "tools", "chat_template", "bos_token"])
def test_a_keyword_cannot_replace_what_the_gateway_renders(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        ChatTemplate("x", SPECIAL).render([], kwargs={name: "mine"})


def test_a_template_that_is_none_is_a_wrong_file() -> None:
    with pytest.raises(ConfigError):
        ChatTemplate("{% if %}")


def test_a_template_tells_its_variables_and_its_own_text() -> None:
    found = ChatTemplate(template("qwen3"))
    assert {"messages", "tools", "enable_thinking"} <= found.variables
    assert "\n</tool_call>" not in found.literals
    assert any("</tool_call>" in literal for literal in found.literals)
