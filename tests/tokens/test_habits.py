from dataclasses import replace
from pathlib import Path

import pytest

from smg.tokens.habits import Habits, probe
from smg.tokens.template import ChatTemplate
from tests.tokens.reference import each_reference
from tests.tokens.vocabularies import template

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
PLAIN = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content }}\n{% endfor %}"


def habits_of(source: str) -> Habits:
    return probe(ChatTemplate(source, SPECIAL))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "qwen3",
            Habits(
                reasoning_field="reasoning_content",
                thinking_switch="enable_thinking",
                thinks_by_default=True,
            ),
        ),
        ("qwen2.5", Habits(arguments="object")),
        (
            "llama-3",
            Habits(arguments="object", text_beside_calls="apart", parallel_calls=False),
        ),
        (
            "deepseek-r1",
            Habits(
                many_systems=False,
                late_system=False,
                renders_tools=False,
                empty_content="null",
                text_beside_calls="apart",
            ),
        ),
        ("xml", Habits(arguments="object")),
        (
            "taking-turns",
            Habits(
                system=False,
                many_systems=False,
                late_system=False,
                alternates=True,
                answers_results=True,
                renders_tools=False,
                arguments="object",
                text_beside_calls="lost",
            ),
        ),
    ],
)
def test_a_templates_habits_are_found_by_asking_it(name: str, expected: Habits) -> None:
    assert habits_of(template(name)) == expected


NO_CALLS = Habits(
    renders_tools=False, renders_calls=False, text_beside_calls="apart", parallel_calls=False
)


def test_a_template_without_calls_is_known_as_one() -> None:
    assert habits_of(PLAIN) == NO_CALLS


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
            replace(NO_CALLS, content_parts=True),
        ),
        (
            PLAIN + "{% if thinking %}think{% endif %}",
            replace(NO_CALLS, thinking_switch="thinking"),
        ),
        (PLAIN + "{{ reasoning_effort }}", replace(NO_CALLS, reads_effort=True)),
        (PLAIN + "{% if x == 'developer' %}{% endif %}", replace(NO_CALLS, developer=True)),
        (
            PLAIN + "{% for m in messages %}{{ m.reasoning }}{% endfor %}",
            replace(NO_CALLS, reasoning_field="reasoning"),
        ),
    ],
    ids=["parts", "thinking", "effort", "developer", "reasoning"],
)
def test_each_habit_is_told_from_the_others(source: str, expected: Habits) -> None:
    assert habits_of(source) == expected


CALLS = (
    "{% for m in messages %}{{ m.role }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}WRITING{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("writing", "expected"),
    [
        # A string quoted twice, an object printed as Python's repr, an object's own notation.
        ("{{ c.function.arguments | tojson }}", "object"),
        ("{{ c.function.arguments }}", "string"),
        ("{% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %}", "object"),
        (
            "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
            "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %}{% endif %}",
            "object",
        ),
        (
            "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
            "{{ c.function.arguments | tojson(separators=(',', ':')) }}{% endif %}",
            "string",
        ),
    ],
)
def test_arguments_take_the_form_that_comes_out_right(writing: str, expected: str) -> None:
    assert habits_of(CALLS.replace("WRITING", writing)).arguments == expected


@each_reference
def test_real_templates_have_known_habits(path: Path) -> None:
    found = probe(ChatTemplate(path.read_text(), SPECIAL))
    without_calls = {"gemma-3", "phi-4-mini"}
    as_string = {"deepseek-r1", "deepseek-r1-distill-qwen", "deepseek-v3", "deepseek-v3.1"}
    as_string |= {"phi-4-mini-vllm-tools"}
    either = {"qwen3", "qwen3-instruct-2507", "qwen3-thinking-2507", "kimi-k2-thinking"}
    either |= {"kimi-k2.5"}
    assert found.renders_calls == (path.stem not in without_calls)
    expected = "string" if path.stem in without_calls | as_string | either else "object"
    assert found.arguments == expected
