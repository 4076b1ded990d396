from dataclasses import replace
from typing import Any

import pytest

from smg.tokens.fit import fit
from smg.tokens.habits import Habits
from smg.tokens.template import ChatMessage

MOST = Habits()


def says(role: str, content: Any) -> ChatMessage:
    return {"role": role, "content": content}


def calls(*ids: str, content: Any = "", **more: Any) -> ChatMessage:
    made = [
        {"id": id, "type": "function", "function": {"name": id, "arguments": '{"a": 1}'}}
        for id in ids
    ]
    return {"role": "assistant", "content": content, "tool_calls": made, **more}


def result(id: str) -> ChatMessage:
    return {"role": "tool", "tool_call_id": id, "name": id, "content": f"of {id}"}


USER = says("user", "u")


def test_a_template_without_quirks_gets_what_was_said() -> None:
    talk = [says("system", "s"), USER, calls("x", "y", content="t"), result("x"), result("y")]
    assert fit(talk, MOST) == talk


def test_the_developer_is_the_system_where_nobody_knows_one() -> None:
    talk = [says("developer", "d"), USER]
    assert fit(talk, MOST) == [says("system", "d"), USER]
    assert fit(talk, replace(MOST, developer=True)) == talk


def test_leading_rules_are_merged_where_only_one_is_shown() -> None:
    talk = [says("system", "a"), says("developer", "b"), USER]
    assert fit(talk, replace(MOST, many_systems=False)) == [says("system", "a\n\nb"), USER]


def test_rules_are_put_to_the_user_where_there_is_no_system() -> None:
    habits = replace(MOST, system=False, many_systems=False)
    talk = [says("system", "a"), USER, says("assistant", "b")]
    assert fit(talk, habits) == [says("user", "a\n\nu"), says("assistant", "b")]
    assert fit(talk[:1], habits) == [says("user", "a")]


def test_later_rules_are_put_to_the_user_where_they_would_be_lost() -> None:
    talk = [says("system", "a"), USER, says("system", "b")]
    assert fit(talk, replace(MOST, late_system=False)) == [*talk[:2], says("user", "b")]


def test_neighbours_are_merged_where_roles_must_alternate() -> None:
    talk = [USER, says("user", "v"), says("assistant", "a"), says("assistant", "b"), USER]
    merged = [says("user", "u\n\nv"), says("assistant", "a\n\nb"), USER]
    assert fit(talk, replace(MOST, alternates=True)) == merged


def test_an_assistant_speaks_between_result_and_user_where_it_must() -> None:
    talk = [USER, calls("x"), result("x"), USER]
    habits = replace(MOST, answers_results=True)
    assert fit(talk, habits) == [USER, calls("x"), result("x"), says("assistant", ""), USER]


def test_calls_come_one_by_one_where_a_message_holds_only_one() -> None:
    talk = [
        calls("x", "y", content="t", reasoning_content="r"),
        result("x"),
        result("y"),
        calls("z"),
        result("z"),
    ]
    habits = replace(MOST, parallel_calls=False, reasoning_field="thinking")
    assert fit(talk, habits) == [
        calls("x", content="t", thinking="r"),
        result("x"),
        calls("y"),
        result("y"),
        calls("z"),
        result("z"),
    ]


def test_text_stands_apart_from_calls_or_is_left_out_as_the_template_wants() -> None:
    talk = [calls("x", content="t"), result("x"), says("assistant", "a")]
    rest = [calls("x"), result("x"), says("assistant", "a")]
    assert fit(talk, replace(MOST, text_beside_calls="apart")) == [says("assistant", "t"), *rest]
    assert fit(talk, replace(MOST, text_beside_calls="lost")) == rest


def test_calls_are_told_in_words_where_the_template_shows_none() -> None:
    talk = [USER, calls("x", content="t"), result("x")]
    assert fit(talk, replace(MOST, renders_calls=False)) == [
        USER,
        says("assistant", 't\nCall x: {"a": 1}'),
        says("user", "Result of x: of x"),
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{"a": {"b": [1]}}', {"a": {"b": [1]}}),
        ("[1]", {"arguments": [1]}),
        ("no json", {"arguments": "no json"}),
    ],
)
def test_arguments_become_an_object_whatever_the_model_wrote(
    written: str, expected: dict[str, Any]
) -> None:
    call = calls("x")
    call["tool_calls"][0]["function"]["arguments"] = written
    [fitted] = fit([call], replace(MOST, arguments="object"))
    assert fitted["tool_calls"][0]["function"]["arguments"] == expected


def test_empty_content_beside_calls_takes_the_templates_form() -> None:
    absent = calls("x")
    del absent["content"]
    assert fit([calls("x")], replace(MOST, empty_content="null")) == [calls("x", content=None)]
    assert fit([calls("x")], replace(MOST, empty_content="absent")) == [absent]


def test_content_is_a_list_of_parts_where_strings_are_not_read() -> None:
    parts = [{"type": "text", "text": "u"}]
    assert fit([USER], replace(MOST, content_parts=True)) == [says("user", parts)]


def test_what_was_said_is_not_changed_in_place() -> None:
    talk = [
        says("developer", "d"),
        calls("x", "y", reasoning_content="r"),
        result("x"),
        result("y"),
    ]
    before = repr(talk)
    fit(talk, Habits(arguments="object", parallel_calls=False, empty_content="absent"))
    assert repr(talk) == before
